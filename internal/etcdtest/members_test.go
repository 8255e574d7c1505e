package etcdtest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

func TestStalledMemberAnswersFromItsOldStore(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		w, k := watch(t, cli, t.Context()), keepAlive(t, cli, t.Context())
		_, err := grant(t, cli, 7, 10)
		must(t, err)
		w.create(prefix("s/"))
		w.hears("0@1 created")
		etcd.Member(0).Stall()
		etcd.Put("s/a", "1")
		etcd.Put("s/a", "2")
		old, err := cli.Get(t.Context(), "s/a", clientv3.WithSerializable())
		must(t, err)
		same(t, "revision", old.Header.Revision, 1)
		same(t, "keys", old.Count, 0)
		w.askProgress()
		w.hears("-1@1")
		k.renew(7)
		same(t, "renewal", <-k.answers, "7:10")
		_, err = cli.Get(within(t, time.Second), "s/a")
		wantError(t, "linearizable read", err, context.DeadlineExceeded)
		_, err = cli.Put(within(t, time.Second), "late", "")
		wantError(t, "write", err, context.DeadlineExceeded)
		sameAll(t, "keys at first", etcd.Keys(""), []string{"s/a"})
		etcd.Member(0).Unstall()
		w.hears("0@3 PUT s/a=1 PUT s/a=2")
		sameAll(t, "the write was held", etcd.Keys(""), []string{"late", "s/a"})
		etcd.Put("s/a", "3")
		w.hears("0@5 PUT s/a=3")
	})
}

func TestWatchBegunAtAStalledMember(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		w := watch(t, connectAll(t, etcd), t.Context())
		etcd.Member(0).Stall()
		etcd.Put("s/a", "1")
		r := prefix("s/")
		r.StartRevision = 3
		w.create(r)
		w.create(prefix("s/"))
		w.hears("0@1 created", "1@1 created")
		etcd.Put("s/a", "2")
		etcd.Member(0).Unstall()
		got := []string{<-w.heard, <-w.heard}
		if got[0] > got[1] {
			got[0], got[1] = got[1], got[0]
		}
		sameAll(t, "caught up", got, []string{"0@3 PUT s/a=2", "1@3 PUT s/a=1 PUT s/a=2"})
	})
}

func TestMemberWithoutALeader(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{RequestTimeout: 7 * time.Second}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		w := watch(t, cli, clientv3.WithRequireLeader(t.Context()))
		w.create(prefix("s/"))
		plain := watch(t, cli, t.Context())
		plain.create(prefix("s/"))
		plain.hears("0@1 created")
		w.hears("0@1 created")
		etcd.Member(0).LoseLeader()
		time.Sleep(4 * time.Second)
		w.hears("end rpc error: code = Unavailable desc = etcdserver: no leader")
		plain.hears()
		refused := watch(t, cli, clientv3.WithRequireLeader(t.Context()))
		refused.hears("end rpc error: code = Unavailable desc = etcdserver: no leader")
		kv := pb.NewKVClient(cli.ActiveConnection())
		_, err := kv.Range(clientv3.WithRequireLeader(t.Context()), &pb.RangeRequest{Key: []byte("a"), Serializable: true})
		wantError(t, "unary", err, rpctypes.ErrNoLeader)
		_, err = kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Serializable: true})
		must(t, err)
		_, err = kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
		wantError(t, "linearizable", err, rpctypes.ErrTimeout)
		_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
		wantError(t, "write", err, rpctypes.ErrTimeout)
		k := keepAlive(t, cli, t.Context())
		k.renew(7)
		same(t, "renewal", <-k.answers, "etcdserver: no leader")
		etcd.Put("s/a", "1")
		plain.hears()
		etcd.Member(0).FindLeader()
		plain.hears("0@2 PUT s/a=1")
		_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
		must(t, err)
	})
}

func TestRestartEndsStreams(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		w := watch(t, cli, t.Context())
		w.create(prefix("s/"))
		w.hears("0@1 created")
		etcd.Member(0).Restart()
		if end := <-w.heard; end[:3] != "end" {
			t.Errorf("heard %s", end)
		}
		_, err := cli.Get(within(t, 3*time.Second), "a")
		must(t, err)
	})
}

func TestWipe(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		_, err := grant(t, cli, 7, 10)
		must(t, err)
		etcd.Put("a", "1")
		before, err := cli.Get(t.Context(), "a")
		must(t, err)
		etcd.Wipe(false)
		synctest.Wait()
		after, err := cli.Get(within(t, 3*time.Second), "a")
		must(t, err)
		same(t, "revision", after.Header.Revision, 1)
		same(t, "leases", len(etcd.Leases()), 0)
		if after.Header.ClusterId == before.Header.ClusterId {
			t.Error("the cluster is the same")
		}
		etcd.Wipe(true)
		same, err := cli.Get(within(t, 3*time.Second), "a")
		must(t, err)
		if same.Header.ClusterId != after.Header.ClusterId {
			t.Error("the cluster is another one")
		}
	})
}

func TestRestore(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		_, err := grant(t, cli, 7, 10)
		must(t, err)
		_, err = cli.Put(t.Context(), "a", "1", clientv3.WithLease(7))
		must(t, err)
		etcd.Put("b", "1")
		etcd.Revoke(7)
		_, err = grant(t, cli, 8, 10)
		must(t, err)
		etcd.Restore(2, true)
		sameAll(t, "keys", etcd.Keys(""), []string{"a"})
		same(t, "revision", etcd.Revision(), 2)
		same(t, "leases", len(etcd.Leases()), 1)
		time.Sleep(11 * time.Second)
		sameAll(t, "the lease ages", etcd.Keys(""), nil)
		same(t, "revision", etcd.Revision(), 3)
	})
}

func TestStopLosesWritesThatWait(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: time.Second}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		go puts(t, cli, 5, time.Minute)
		time.Sleep(2500 * time.Millisecond)
		etcd.Stop()
		time.Sleep(time.Minute)
		same(t, "keys", etcd.CountKeys(""), 2)
		etcd.Start()
		_, err := cli.Put(within(t, 5*time.Second), "k/new", "")
		must(t, err)
	})
}
