package tests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

func TestSlowAnswers_ARegistrarIsRegisteredAfterItsRequests(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	const late = 1600 * time.Millisecond
	slow := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		select {
		case <-time.After(late):
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	c, _ := connect(t, etcdv3.ClientOptions{HeaderTimeoutPerRequest: defaultTimeout, DialOptions: []grpc.DialOption{slow}}, n.endpoint())
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v"}, nil)
	began := time.Now()
	r.Register()
	within(t, 21, defaultTimeout+500*time.Millisecond, time.Since(began))
	eventually(t, 30*time.Second, "registered", func() bool { return r.Err() == nil })
	within(t, 27, 2*late+time.Second, time.Since(began))
	first, err := n.admin().Get(t.Context(), "/s/1")
	if err != nil || len(first.Kvs) != 1 {
		t.Fatal(first, err)
	}
	time.Sleep(12 * time.Second)
	again, err := n.admin().Get(t.Context(), "/s/1")
	if err != nil || len(again.Kvs) != 1 || again.Kvs[0].CreateRevision != first.Kvs[0].CreateRevision || again.Kvs[0].Version != 1 {
		t.Errorf("the key was put or deleted meanwhile: %v, %v", again, err)
	}
}

// fleetSize is small enough for a machine that is busy with other tests.
const (
	fleetServices = 1000
	fleetClients  = 50
)

func TestFleet_StartsAndComesBackTogether(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	admin := n.admin()
	ideal := bareFleet(t, n)
	var grants, puts atomic.Int64
	counted := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		switch {
		case strings.HasSuffix(method, "/LeaseGrant"):
			grants.Add(1)
		case strings.HasSuffix(method, "/Txn"):
			puts.Add(1)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	registered := func() bool {
		resp, err := admin.Get(t.Context(), "/s/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && resp.Count == fleetServices
	}
	var clients []etcdv3.Client
	for range fleetClients {
		c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{counted}}, n.endpoint())
		clients = append(clients, c)
	}
	began := time.Now()
	var group sync.WaitGroup
	for i := range fleetServices {
		group.Go(func() {
			etcdv3.NewRegistrar(clients[i%fleetClients], etcdv3.Service{Key: fmt.Sprintf("/s/%05d", i), Value: "v"}, nil).Register()
		})
	}
	eventually(t, time.Minute, "all are registered", registered)
	inTime(t, 2*ideal+5*time.Second, time.Since(began))
	group.Wait()
	asked := func() {
		t.Helper()
		if g, p := grants.Swap(0), puts.Swap(0); g > fleetServices*3/2 || p > fleetServices*3/2 {
			t.Errorf("%d grants and %d puts for %d services", g, p, fleetServices)
		}
	}
	asked()
	n.stop()
	time.Sleep(time.Second)
	n.wipe()
	n.start()
	began = time.Now()
	eventually(t, time.Minute, "all are back", registered)
	inTime(t, 2*ideal+5*time.Second, time.Since(began))
	asked()
	holds(t, 28)
}

// bareFleet returns how long the same services take by bare grants and puts, with
// 20 in flight a client.
func bareFleet(t *testing.T, n *node) time.Duration {
	t.Helper()
	var all []*clientv3.Client
	for range fleetClients {
		all = append(all, plain(t, n.endpoint()))
	}
	began := time.Now()
	var group sync.WaitGroup
	for i := range fleetServices {
		cli := all[i%fleetClients]
		group.Go(func() {
			lease, err := cli.Grant(t.Context(), 10)
			if err == nil {
				_, err = cli.Put(t.Context(), fmt.Sprintf("/bare/%05d", i), "v", clientv3.WithLease(lease.ID))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	return time.Since(began)
}

func TestUsers_OneTokenForAClient(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	enableAuth(t, n.admin(), "user", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	calls := &callCounter{method: "/Authenticate"}
	c, _ := connect(t, etcdv3.ClientOptions{Username: "user", Password: "user-pass", DialOptions: []grpc.DialOption{calls.option()}}, n.endpoint())
	var registrars []*etcdv3.Registrar
	for i := range 20 {
		r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: fmt.Sprint("/s/", i), Value: "v", TTL: fast}, nil)
		r.Register()
		registrars = append(registrars, r)
		discover(t, c, fmt.Sprintf("/s/%d", i))
	}
	for range 5 {
		n.drop()
		time.Sleep(time.Second)
	}
	well := func() bool {
		return !slices.ContainsFunc(registrars, func(r *etcdv3.Registrar) bool { return r.Err() != nil })
	}
	eventually(t, 10*time.Second, "all are registered", well)
	if got := calls.count(); got != 1 {
		t.Errorf("%d authentications, want 1", got)
	}
	holds(t, 29)
}

func TestLimitOfStreams_FortyPrefixesAndServicesWork(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(cfg *embed.Config) { cfg.MaxConcurrentStreams = 4 })
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	var all []*recorder
	for i := range 40 {
		if err := c.Register(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i), Value: "v"}); err != nil {
			t.Fatal(err)
		}
		_, r := discover(t, c, fmt.Sprintf("/s/%02d", i))
		all = append(all, r)
	}
	for i, r := range all {
		eventually(t, 5*time.Second, "the set", func() bool { return r.shows("v") })
		if err := c.Deregister(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i)}); err != nil {
			t.Error(err)
		}
		eventually(t, 5*time.Second, "the change", func() bool { return r.shows() })
	}
	holds(t, 30)
}

func TestRoleRevoked_NeighboursDoNotNotice(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	admin := n.admin()
	enableAuth(t, admin, "user", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	root := plainAs(t, "root", "root-pass", n.endpoint())
	if _, err := root.RoleGrantPermission(t.Context(), "user", "/other/", clientv3.GetPrefixRangeEnd("/other/"), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	c, _ := connect(t, etcdv3.ClientOptions{Username: "user", Password: "user-pass"}, n.endpoint())
	journals := map[string]*journal{}
	var refused *etcdv3.Registrar
	ttl := etcdv3.NewTTLOption(500*time.Millisecond, 3*time.Second)
	for _, key := range []string{"/other/1", "/s/1", "/s/2", "/s/3"} {
		j := &journal{}
		r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: key, Value: "v", TTL: ttl}, j.logger())
		r.Register()
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		journals[key] = j
		if refused == nil {
			refused = r
		}
	}
	if _, err := root.RoleRevokePermission(t.Context(), "user", "/other/", clientv3.GetPrefixRangeEnd("/other/")); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 10*time.Second, "the refused one tells why", func() bool {
		return refused.Err() != nil && strings.Contains(refused.Err().Error(), "permission denied")
	})
	within(t, 32, 500*time.Millisecond+time.Second, took)
	began := time.Now()
	time.Sleep(10 * time.Second)
	for key, j := range journals {
		if lines := j.count("action=register"); key != "/other/1" && (lines != 1 || j.count("level=warn") != 0) {
			if stood := machine.since(began); stood < time.Second {
				t.Errorf("%s noticed, while the machine stood still for %v:\n%s", key, stood, j)
			}
		}
	}
	holds(t, 31)
}
