package etcdtest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// guarded is a cluster with a user who may write below s/ and read below r/.
func guarded(t *testing.T, settings etcdtest.Settings, story func(*testing.T, *etcdtest.Etcd, *clientv3.Client)) {
	t.Helper()
	virtually(t, etcdtest.Config{Members: 2, Settings: settings}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		etcd.SetUser("root", "secret")
		etcd.SetUser("ann", "pass", etcdtest.ReadWrite("s/"), etcdtest.Read("r/"))
		etcd.EnableAuth()
		story(t, etcd, cli)
	})
}

func authenticate(t *testing.T, cli *clientv3.Client, ctx context.Context, name, password string) (string, error) {
	t.Helper()
	resp, err := pb.NewAuthClient(cli.ActiveConnection()).Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	return resp.GetToken(), err
}

func with(t *testing.T, token string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, token)
}

// as returns the context of a user.
func as(t *testing.T, cli *clientv3.Client, name, password string) context.Context {
	t.Helper()
	token, err := authenticate(t, cli, t.Context(), name, password)
	must(t, err)
	return with(t, token)
}

func TestAuthentication(t *testing.T) {
	guarded(t, etcdtest.Settings{}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		_, err := authenticate(t, cli, t.Context(), "ann", "wrong")
		wantError(t, "password", err, rpctypes.ErrAuthFailed)
		_, err = authenticate(t, cli, t.Context(), "bob", "pass")
		wantError(t, "user", err, rpctypes.ErrAuthFailed)
		_, err = authenticate(t, cli, with(t, "unknown"), "ann", "pass")
		must(t, err)
		same(t, "authentications", etcd.Count("Authenticate"), 3)
		etcd.Set(func(s *etcdtest.Settings) { s.AsEtcd34 = true })
		_, err = authenticate(t, cli, with(t, "unknown"), "ann", "pass")
		wantError(t, "etcd 3.4", err, rpctypes.ErrInvalidAuthToken)
		etcd.DisableAuth()
		_, err = authenticate(t, cli, t.Context(), "ann", "pass")
		wantError(t, "disabled", err, rpctypes.ErrAuthNotEnabled)
	})
}

func TestPermissions(t *testing.T) {
	guarded(t, etcdtest.Settings{}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		kv := pb.NewKVClient(cli.ActiveConnection())
		put := func(ctx context.Context, key string) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key)})
			return err
		}
		read := func(ctx context.Context, key, end string) error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
			return err
		}
		ann := as(t, cli, "ann", "pass")
		must(t, put(ann, "s/a"))
		must(t, read(ann, "s/", "s0"))
		must(t, read(ann, "r/a", ""))
		wantError(t, "write", put(ann, "r/a"), rpctypes.ErrPermissionDenied)
		wantError(t, "read more", read(ann, "s/", "s1"), rpctypes.ErrPermissionDenied)
		wantError(t, "read all", read(ann, "\x00", "\x00"), rpctypes.ErrPermissionDenied)
		wantError(t, "nobody", put(t.Context(), "s/a"), rpctypes.ErrUserEmpty)
		wantError(t, "unknown", put(with(t, "unknown"), "s/a"), rpctypes.ErrInvalidAuthToken)
		must(t, put(as(t, cli, "root", "secret"), "x"))
		_, err := kv.Txn(ann, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("x")}}})
		wantError(t, "compare", err, rpctypes.ErrPermissionDenied)
		_, err = pb.NewLeaseClient(cli.ActiveConnection()).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 10})
		wantError(t, "grant", err, rpctypes.ErrUserEmpty)
		etcd.SetUser("ann", "pass", etcdtest.Read("s/"))
		wantError(t, "revoked", put(ann, "s/a"), rpctypes.ErrPermissionDenied)
		must(t, read(ann, "s/a", ""))
		etcd.SetUser("ann", "other", etcdtest.ReadWrite("s/"))
		wantError(t, "password changed", put(ann, "s/a"), rpctypes.ErrInvalidAuthToken)
	})
}

// only returns a bare client of one member: clientv3 would ask another one.
func only(t *testing.T, etcd *etcdtest.Etcd, i int) pb.KVClient {
	t.Helper()
	return pb.NewKVClient(dial(t, etcd, i))
}

func dial(t *testing.T, etcd *etcdtest.Etcd, i int) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+etcd.Member(i).Address(), etcd.Dialer(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestTokensEnd(t *testing.T) {
	guarded(t, etcdtest.Settings{TokenTTL: time.Minute}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		ann := as(t, cli, "ann", "pass")
		read := func() error {
			_, err := cli.Get(ann, "s/a")
			_, other := cli.Get(ann, "s/a") // the other member
			if err == nil {
				err = other
			}
			return err
		}
		must(t, read())
		time.Sleep(40 * time.Second)
		must(t, read())
		time.Sleep(40 * time.Second)
		must(t, read())
		time.Sleep(61 * time.Second)
		wantError(t, "expired", read(), rpctypes.ErrInvalidAuthToken)
		ann = as(t, cli, "ann", "pass")
		etcd.Member(0).Restart()
		time.Sleep(time.Second)
		for i, want := range []error{rpctypes.ErrInvalidAuthToken, nil} {
			_, err := only(t, etcd, i).Range(ann, &pb.RangeRequest{Key: []byte("s/a")})
			wantError(t, "one was restarted", err, want)
		}
	})
}

func TestPasswordsShareACore(t *testing.T) {
	guarded(t, etcdtest.Settings{PasswordTime: 60 * time.Millisecond}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		var all sync.WaitGroup
		d := took(func() {
			for range 10 {
				all.Go(func() {
					_, err := authenticate(t, cli, t.Context(), "ann", "pass")
					wantError(t, "in parallel", err, nil)
				})
			}
			all.Wait()
		})
		same(t, "ten passwords", d, 600*time.Millisecond)
		for range 10 {
			all.Go(func() { _, _ = authenticate(t, cli, within(t, time.Millisecond), "ann", "pass") })
		}
		all.Wait()
		d = took(func() { _, err := authenticate(t, cli, t.Context(), "ann", "pass"); must(t, err) })
		same(t, "after ten that were given up", d, 660*time.Millisecond)
	})
}

func TestWatchesOfAUser(t *testing.T) {
	guarded(t, etcdtest.Settings{}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		w := watch(t, cli, as(t, cli, "ann", "pass"))
		w.create(prefix("s/"))
		w.create(prefix("t/"))
		w.hears("0@1 created", "-1@1 created canceled rpc error: code = PermissionDenied desc = etcdserver: permission denied")
		etcd.ForgetTokens()
		w.create(prefix("s/"))
		w.hears("-1@1 created canceled rpc error: code = Unauthenticated desc = etcdserver: invalid auth token")
		etcd.Put("s/a", "1")
		w.hears("0@2 PUT s/a=1")
		nobody := watch(t, cli, t.Context())
		nobody.create(prefix("s/"))
		nobody.hears("-1@2 created canceled rpc error: code = InvalidArgument desc = etcdserver: user name is empty")
	})
}

func TestRenewalsAreCheckedIfWanted(t *testing.T) {
	guarded(t, etcdtest.Settings{}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		ann := as(t, cli, "ann", "pass")
		kv, leases := pb.NewKVClient(cli.ActiveConnection()), pb.NewLeaseClient(cli.ActiveConnection())
		_, err := leases.LeaseGrant(ann, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
		must(t, err)
		_, err = kv.Put(ann, &pb.PutRequest{Key: []byte("s/a"), Lease: 7})
		must(t, err)
		etcd.SetUser("ann", "pass", etcdtest.ReadWrite("r/"))
		k := keepAlive(t, cli, ann)
		k.renew(7)
		same(t, "not checked", <-k.answers, "7:60")
		etcd.Set(func(s *etcdtest.Settings) { s.CheckRenewals = true })
		k.renew(7)
		same(t, "checked", <-k.answers, "etcdserver: permission denied")
		_, err = leases.LeaseRevoke(ann, &pb.LeaseRevokeRequest{ID: 7})
		wantError(t, "revoke", err, rpctypes.ErrPermissionDenied)
	})
}

func TestStalledMemberWaitsForNewTokens(t *testing.T) {
	guarded(t, etcdtest.Settings{}, func(t *testing.T, etcd *etcdtest.Etcd, cli *clientv3.Client) {
		old := as(t, cli, "ann", "pass")
		etcd.Member(0).Stall()
		time.AfterFunc(5*time.Second, etcd.Member(0).Unstall)
		token, err := etcdAuth(t, etcd, 1)
		must(t, err)
		read := func(ctx context.Context) time.Duration {
			return took(func() {
				_, err := only(t, etcd, 0).Range(ctx, &pb.RangeRequest{Key: []byte("s/a"), Serializable: true})
				must(t, err)
			})
		}
		same(t, "an old token", read(old), 0)
		same(t, "a new token", read(with(t, token)), 5*time.Second)
	})
}

// etcdAuth has one member authenticate ann.
func etcdAuth(t *testing.T, etcd *etcdtest.Etcd, i int) (string, error) {
	t.Helper()
	resp, err := pb.NewAuthClient(dial(t, etcd, i)).Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "ann", Password: "pass"})
	return resp.GetToken(), err
}
