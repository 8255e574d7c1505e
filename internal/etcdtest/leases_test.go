package etcdtest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// keeping is a keep-alive stream as a client sees it.
type keeping struct {
	t       *testing.T
	stream  pb.Lease_LeaseKeepAliveClient
	answers chan string // id:TTL, or how the stream ended
}

func keepAlive(t *testing.T, cli *clientv3.Client, ctx context.Context) *keeping {
	t.Helper()
	stream, err := pb.NewLeaseClient(cli.ActiveConnection()).LeaseKeepAlive(ctx)
	must(t, err)
	k := &keeping{t, stream, make(chan string, 1000)}
	go func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				k.answers <- rpctypes.ErrorDesc(err)
				return
			}
			k.answers <- fmt.Sprintf("%d:%d", resp.ID, resp.TTL)
		}
	}()
	return k
}

func (k *keeping) renew(ids ...int64) {
	k.t.Helper()
	for _, id := range ids {
		must(k.t, k.stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
	}
}

func grant(t *testing.T, cli *clientv3.Client, id, ttl int64) (*pb.LeaseGrantResponse, error) {
	t.Helper()
	return pb.NewLeaseClient(cli.ActiveConnection()).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl})
}

func TestGrants(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		chosen, err := grant(t, cli, 7, 10)
		must(t, err)
		same(t, "chosen", chosen.ID, 7)
		_, err = grant(t, cli, 7, 10)
		wantError(t, "again", err, rpctypes.ErrLeaseExist)
		_, err = grant(t, cli, 8, 10_000_000_000)
		wantError(t, "too long", err, rpctypes.ErrLeaseTTLTooLarge)
		short, err := grant(t, cli, 0, 1)
		must(t, err)
		same(t, "least TTL", short.TTL, 2)
		other, err := grant(t, cli, 0, 10)
		must(t, err)
		if other.ID == short.ID || short.ID <= 0 {
			t.Errorf("ids %d and %d", short.ID, other.ID)
		}
		all, err := cli.Leases(t.Context())
		must(t, err)
		same(t, "leases", len(all.Leases), 3)
	})
}

func TestRevokeDeletesTheKeysOfALease(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		lease, err := cli.Grant(t.Context(), 10)
		must(t, err)
		for _, key := range []string{"a", "b", "c"} {
			_, err = cli.Put(t.Context(), key, "", clientv3.WithLease(lease.ID))
			must(t, err)
		}
		etcd.Put("b", "taken over")
		ttl, err := cli.TimeToLive(t.Context(), lease.ID, clientv3.WithAttachedKeys())
		must(t, err)
		same(t, "TTL", ttl.TTL, 10)
		same(t, "keys", fmt.Sprintf("%s", ttl.Keys), "[a c]")
		sameAll(t, "keys", etcd.Leases()[0].Keys, []string{"a", "c"})
		gone, err := cli.Revoke(t.Context(), lease.ID)
		must(t, err)
		same(t, "in one revision", gone.Header.Revision, 6)
		sameAll(t, "keys left", etcd.Keys(""), []string{"b"})
		_, err = cli.Revoke(t.Context(), lease.ID)
		wantError(t, "again", err, rpctypes.ErrLeaseNotFound)
		ttl, err = cli.TimeToLive(t.Context(), lease.ID)
		must(t, err)
		same(t, "TTL of none", ttl.TTL, -1)
	})
}

func TestExpiry(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		k := keepAlive(t, cli, t.Context())
		_, err := grant(t, cli, 7, 10)
		must(t, err)
		time.Sleep(9 * time.Second)
		k.renew(7, 8)
		same(t, "renewed", <-k.answers, "7:10")
		same(t, "unknown", <-k.answers, "8:0")
		time.Sleep(9 * time.Second)
		same(t, "alive", len(etcd.Leases()), 1)
		time.Sleep(1500 * time.Millisecond)
		same(t, "expired", len(etcd.Leases()), 0)
		k.renew(7)
		same(t, "too late", <-k.answers, "7:0")
		same(t, "renewals", etcd.Count("Renew"), 3)
	})
}

func TestManyLeasesExpireAtALimitedRate(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		for range 1200 {
			_, err := grant(t, cli, 0, 10)
			must(t, err)
		}
		time.Sleep(10100 * time.Millisecond)
		same(t, "at first", len(etcd.Leases()), 700)
		time.Sleep(500 * time.Millisecond)
		same(t, "then", len(etcd.Leases()), 200)
		time.Sleep(500 * time.Millisecond)
		same(t, "at last", len(etcd.Leases()), 0)
	})
}

func TestExpiryIsAWriteLikeOthers(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		k := keepAlive(t, cli, t.Context())
		_, err := grant(t, cli, 7, 10)
		must(t, err)
		etcd.Set(func(s *etcdtest.Settings) { s.WriteTime = 5 * time.Second })
		time.Sleep(11 * time.Second)
		same(t, "not yet", len(etcd.Leases()), 1)
		k.renew(7) // an expired lease is not renewed, but waited for
		same(t, "answer", <-k.answers, "7:0")
		same(t, "gone", len(etcd.Leases()), 0)
	})
}

func TestRenewalsTakeTheirTimeOneAfterAnother(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{RenewTime: 100 * time.Millisecond}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		ids := []int64{1, 2, 3, 4, 5}
		for _, id := range ids {
			_, err := grant(t, cli, id, 10)
			must(t, err)
		}
		one, other := keepAlive(t, cli, t.Context()), keepAlive(t, cli, t.Context())
		d := took(func() {
			one.renew(ids...)
			other.renew(ids...)
			for range ids {
				<-one.answers
				<-other.answers
			}
		})
		same(t, "two streams at once", d, 500*time.Millisecond)
	})
}

func TestRenewalWaitsForItsGrant(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: 500 * time.Millisecond}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		k := keepAlive(t, cli, t.Context())
		go func() { _, _ = grant(t, cli, 7, 10) }()
		synctest.Wait()
		k.renew(7)
		same(t, "renewed", <-k.answers, "7:10")
		go puts(t, cli, 10, time.Minute)
		synctest.Wait()
		k.renew(8)
		same(t, "waited in vain", <-k.answers, "etcdserver: request timed out, waiting for the applied index took too long")
	})
}

func TestLeasesDoNotAgeWithoutMembers(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		_, err := grant(t, cli, 7, 10)
		must(t, err)
		time.Sleep(9 * time.Second)
		etcd.Stop()
		time.Sleep(time.Hour)
		etcd.Start()
		time.Sleep(9 * time.Second)
		same(t, "alive", len(etcd.Leases()), 1)
		time.Sleep(2 * time.Second)
		same(t, "expired", len(etcd.Leases()), 0)
	})
}
