package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

func TestUserAndPassword_SurviveTokenExpiryAndRestarts(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t, func(cfg *embed.Config) { cfg.AuthTokenTTL = 2 })
	admin := n.admin()
	enableAuth(t, admin, "svc", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	journal := &journal{}
	counter, auths := &beatCounter{}, &callCounter{method: "/Authenticate"}
	c, _ := connect(t, etcdv3.ClientOptions{
		Username: "svc", Password: "svc-pass", DialOptions: []grpc.DialOption{counter.option(), auths.option()},
	}, n.endpoint())
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "a", TTL: etcdv3.NewTTLOption(500*time.Millisecond, 4*time.Second)}, journal.logger())
	r.Register()
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	s, err := etcdv3.NewInstancer(c, "/s/", journal.logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	events := record(t, s)
	time.Sleep(5 * time.Second) // the first token has expired
	eventually(t, 5*time.Second, "more heartbeats than authentications", func() bool {
		counter.mu.Lock()
		beats := len(counter.beats[c.LeaseID()])
		counter.mu.Unlock()
		return beats >= 8 && auths.count() <= beats/2+1
	})
	late := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/2", Value: "b", TTL: fast}, journal.logger())
	late.Register()
	eventually(t, 3*time.Second, "a registration after the token expired", func() bool { return events.shows("a", "b") })
	if second, err := etcdv3.NewInstancer(c, "/s/", journal.logger()); err != nil || second.State().Err != nil {
		t.Error("an Instancer after the token expired", err, second.State().Err)
	} else {
		second.Stop()
	}
	n.stop()
	n.start()
	if err := c.Register(etcdv3.Service{Key: "/s/3", Value: "c"}); err != nil {
		t.Error("after a restart:", err)
	}
	eventually(t, 5*time.Second, "discovery after a restart", func() bool { return events.shows("a", "b", "c") })
	wrong, _ := connect(t, etcdv3.ClientOptions{Username: "svc", Password: "a-wrong-pass", HeaderTimeoutPerRequest: 2 * time.Second}, n.endpoint())
	_, err = wrong.GetEntries("/s/")
	if !errors.Is(err, rpctypes.ErrAuthFailed) || !strings.Contains(err.Error(), "ClientOptions.Username") {
		t.Errorf("a wrong password: %v", err)
	}
	holds(t, 24)
	for _, secret := range []string{"svc-pass", "a-wrong-pass"} {
		if strings.Contains(journal.String(), secret) || strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("a password was logged:\n%s\n%v", journal, err)
		}
	}
	holds(t, 25)
}

func TestUserThatMayNotRead_RegistersAgainAllTheSame(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	admin := n.admin()
	enableAuth(t, admin, "writer", "/s/", clientv3.PermissionType(clientv3.PermWrite))
	root := plainAs(t, "root", "root-pass", n.config.ListenClientUrls[0].String())
	c, _ := connect(t, etcdv3.ClientOptions{Username: "writer", Password: "writer-pass"}, n.endpoint())
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := root.Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, 5*time.Second, "registered again", func() bool { return len(values(t, root, "/s/")) == 1 })
		within(t, 2, 2*time.Second, took)
	}
	if s, _ := discover(t, c, "/s/"); !errors.Is(s.State().Err, rpctypes.ErrPermissionDenied) {
		t.Errorf("a prefix that the user may not read: %v", s.State().Err)
	}
	if err := c.Register(etcdv3.Service{Key: "/t/1", Value: "v"}); !errors.Is(err, rpctypes.ErrPermissionDenied) || !strings.Contains(err.Error(), `"/t/1"`) {
		t.Errorf("a key that the user may not write: %v", err)
	}
	if err := c.Deregister(etcdv3.Service{Key: "/s/1"}); err != nil || len(values(t, root, "/s/")) != 0 {
		t.Error(err)
	}
}

func TestBadServices_AreAClearError(t *testing.T) {
	t.Parallel()
	heavy(t)
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	if err := c.Register(etcdv3.Service{Value: "v"}); !errors.Is(err, etcdv3.ErrNoKey) {
		t.Error(err)
	}
	if err := c.Register(etcdv3.Service{Key: "/s/1"}); !errors.Is(err, etcdv3.ErrNoValue) {
		t.Error(err)
	}
	for _, size := range []int{1600 << 10, 3 << 20} { // above the server's limit, and above the client's
		began := time.Now()
		err := c.Register(etcdv3.Service{Key: "/s/1", Value: strings.Repeat("x", size)})
		if err == nil || !strings.Contains(err.Error(), "Value") || len(err.Error()) > 500 {
			t.Errorf("%d bytes: %.200v", size, err)
		}
		if took := time.Since(began); took > requestTimeout+machine.since(began) {
			t.Errorf("%d bytes: it took %v", size, took)
		}
	}
	if leases, err := etcd.Client(0).Leases(t.Context()); err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases are left: %v, %v", leases, err)
	}
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1"}, nil)
	r.Register()
	if !errors.Is(r.Err(), etcdv3.ErrNoValue) {
		t.Error(r.Err())
	}
	r.Deregister()
}

func TestNamespacedClient(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	cli := plain(t, etcd.endpoints()...)
	cli.KV = namespace.NewKV(cli.KV, "ns/")
	cli.Watcher = namespace.NewWatcher(cli.Watcher, "ns/")
	cli.Lease = namespace.NewLease(cli.Lease, "ns/")
	c, leave := wrap(t, cli)
	s, err := etcdv3.NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	events := record(t, s)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	mustPut(t, etcd.Client(0), "/s/2", "outside", "ns/s/3", "outside", "ns//s/4", "inside")
	eventually(t, time.Second, "what is in the namespace", func() bool { return events.shows("inside", "v") })
	if _, err := etcd.Client(0).Delete(t.Context(), "ns//s/1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "put back", func() bool { return slices.Equal(etcd.values(t, "ns//s/1"), []string{"v"}) })
	s.Stop()
	leave()
	eventually(t, 3*time.Second, "gone", func() bool { return len(etcd.values(t, "ns//s/1")) == 0 })
}

// slowWatcher takes its time to begin a watch, and knows how many it begins.
type slowWatcher struct {
	clientv3.Watcher
	begins atomic.Int64
}

func (w *slowWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	w.begins.Add(1)
	defer w.begins.Add(-1)
	time.Sleep(20 * time.Millisecond)
	return w.Watcher.Watch(ctx, key, opts...)
}

func TestDeregister_LeavesNoWatchBehindThatBegins(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	for i := range 20 {
		cli := plain(t, etcd.endpoints()...)
		slow := &slowWatcher{Watcher: namespace.NewWatcher(cli.Watcher, "ns/")}
		cli.Watcher = slow
		c, leave := wrap(t, cli)
		s := etcdv3.Service{Key: "/s/1", Value: "v"}
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
		began := time.Now()
		if err := c.Deregister(s); err != nil {
			t.Fatal(err)
		}
		if n := slow.begins.Load(); n != 0 && machine.since(began) == 0 {
			t.Errorf("%d watches begin", n)
		}
		leave()
		cli.Close() // under -race, the namespace notices a watch that begins
	}
}

func TestWrappedClientClosedFirst_NothingHangs(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	cli := plain(t, etcd.endpoints()...)
	c, _ := wrap(t, cli)
	s := etcdv3.Service{Key: "/s/1", Value: "v"}
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	in, err := etcdv3.NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cli.Close()
	if err := c.Register(s); err == nil {
		t.Error("registered on a closed client")
	}
	_ = c.Deregister(s)
	if _, err := c.GetEntries("/s/"); err == nil {
		t.Error("listed on a closed client")
	}
	in.Stop()
	if took := time.Since(began); took > patienceFactor*2*time.Second+machine.since(began) {
		t.Errorf("it took %v", took)
	}
	for _, bad := range []*clientv3.Client{nil, {}, cli, clientv3.NewCtxClient(context.Background())} {
		if c, err := etcdv3.NewClientFrom(t.Context(), bad, etcdv3.ClientOptions{}); err == nil || c != nil {
			t.Errorf("NewClientFrom(%v): %v, %v", bad, c, err)
		}
	}
	holds(t, 9)
}

func TestLifecycles_InEveryOrderFromManyGoroutines(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	for round := range 30 {
		cli := plain(t, etcd.endpoints()...)
		ctx, leave := context.WithCancel(t.Context())
		c, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := etcdv3.NewInstancer(c, "/s/", nil)
		if err != nil {
			t.Fatal(err)
		}
		events := record(t, s)
		r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v"}, nil)
		ends := []func(){
			leave, r.Register, r.Deregister, s.Stop,
			func() { _ = c.Deregister(etcdv3.Service{Key: "/s/1"}) },
			func() { _ = c.Register(etcdv3.Service{Key: fmt.Sprint("/s/", round), Value: "w"}) },
			func() { cli.Close() },
			func() { s.Deregister(events.ch) },
			func() { _, _ = c.GetEntries("/s/") },
			func() { c.WatchPrefix("/s/", make(chan struct{})) },
		}
		began := time.Now()
		var all sync.WaitGroup
		for i := range 2 * len(ends) {
			all.Go(func() {
				time.Sleep(time.Duration((i*7+round*13)%20) * time.Millisecond)
				ends[(i+round)%len(ends)]()
			})
		}
		all.Wait()
		if took := time.Since(began); took > patienceFactor*10*time.Second+machine.since(began) {
			t.Fatalf("round %d took %v", round, took)
		}
	}
	holds(t, 9)
	holds(t, 17)
	holds(t, 26)
}
