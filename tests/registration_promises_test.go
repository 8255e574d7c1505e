package tests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// fast is a registration whose faults take less time to show than the default.
var fast = etcdv3.NewTTLOption(time.Second, 4*time.Second)

func TestHeartbeat_IsTheOneThatTheUserSet(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	counter := &beatCounter{}
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{counter.option()}}, etcd.endpoints()...)
	set := map[int64]time.Duration{}
	for i, heartbeat := range []time.Duration{500 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
		ttl := time.Duration(20+i) * time.Second
		if err := c.Register(etcdv3.Service{Key: fmt.Sprintf("/s/%d", i), Value: "v", TTL: etcdv3.NewTTLOption(heartbeat, ttl)}); err != nil {
			t.Fatal(err)
		}
		set[c.LeaseID()] = heartbeat
		left, err := etcd.Client(0).TimeToLive(context.Background(), clientv3.LeaseID(c.LeaseID()))
		if err != nil || left.GrantedTTL != int64(20+i) {
			t.Fatalf("lease %v, %v: want a TTL of %v", left, err, ttl)
		}
	}
	time.Sleep(10 * time.Second)
	counter.mu.Lock()
	defer counter.mu.Unlock()
	for id, heartbeat := range set {
		beats := counter.beats[id]
		if len(beats) < 5 {
			t.Fatalf("heartbeat %v: %d beats", heartbeat, len(beats))
		}
		var gaps []time.Duration
		for i := range beats[1:] {
			gaps = append(gaps, beats[i+1].Sub(beats[i]))
		}
		slices.Sort(gaps)
		if median := gaps[len(gaps)/2]; (median - heartbeat).Abs() > heartbeat/10 {
			t.Errorf("heartbeat %v: from beat to beat it was %v", heartbeat, gaps)
		}
	}
	if n := counter.opens["/etcdserverpb.Lease/LeaseKeepAlive"]; n != 1 {
		t.Errorf("%d heartbeat streams, want 1", n)
	}
	holds(t, 1)
}

func TestLeaseRevoked_RegistersAgain(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	journal := &journal{}
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}, journal.logger())
	r.Register()
	defer r.Deregister()
	for round := range 3 {
		if _, err := etcd.Client(0).Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err) // else the key went with its lease
		}
		took := eventually(t, 5*time.Second, "registered again", func() bool { return len(etcd.values(t, "/s/")) == 1 })
		within(t, 2, 2*time.Second, took)
		eventually(t, time.Second, "Err is nil", func() bool { return r.Err() == nil })
		// The line follows Err, on the goroutine of the registration.
		eventually(t, time.Second, "the log says so", func() bool { return journal.count("registered again") == round+1 })
	}
	if n := journal.count("registration lost"); n != 3 {
		t.Errorf("%d losses were logged, want 3:\n%s", n, journal)
	}
}

func TestOutageLongerThanTheTTL_RegistersAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}, nil)
	r.Register()
	defer r.Deregister()
	n.cut()
	admin := n.admin()
	eventually(t, 10*time.Second, "the lease expired", func() bool { return len(values(t, admin, "/s/")) == 0 })
	eventually(t, 10*time.Second, "Err says so", func() bool { return r.Err() != nil })
	time.Sleep(5 * time.Second) // let the back-off grow
	n.mend()
	took := eventually(t, 10*time.Second, "registered again", func() bool { return len(values(t, admin, "/s/")) == 1 })
	within(t, 3, 5*time.Second, took)
	eventually(t, time.Second, "Err is nil", func() bool { return r.Err() == nil })
}

func TestEtcdBackEmpty_RegistersAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	for i := range 20 {
		if err := c.Register(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i), Value: fmt.Sprintf("v%02d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	n.stop()
	n.wipe()
	time.Sleep(time.Second)
	n.start()
	admin := n.admin()
	took := eventually(t, 10*time.Second, "all are registered again", func() bool { return len(values(t, admin, "/s/")) == 20 })
	within(t, 3, 5*time.Second, took)
}

func TestEtcdRestored_RegistersAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	if err := c.Register(etcdv3.Service{Key: "/s/old", Value: "old", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	n.stop()
	restore := n.backUp()
	n.start()
	if err := c.Register(etcdv3.Service{Key: "/s/new", Value: "new", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	if err := c.Register(etcdv3.Service{Key: "/s/old", Value: "replaced", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	n.stop()
	restore()
	n.start()
	admin := n.admin()
	took := eventually(t, 10*time.Second, "all are registered again", func() bool {
		return slices.Equal(values(t, admin, "/s/"), []string{"new", "replaced"})
	})
	within(t, 3, 5*time.Second, took)
	never(t, 6*time.Second, "a key went away", func() bool { return len(values(t, admin, "/s/")) != 2 })
}

func TestRegisterWhileEtcdIsAway_GoesOnTrying(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.cut()
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	journal := &journal{}
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v"}, journal.logger())
	began := time.Now()
	r.Register()
	within(t, 6, 3*time.Second+500*time.Millisecond, time.Since(began))
	if r.Err() == nil || journal.count("not registered") != 1 {
		t.Errorf("err %v, log:\n%s", r.Err(), journal)
	}
	began = time.Now()
	if err := c.Register(etcdv3.Service{Key: "/s/2", Value: "v"}); err == nil || !strings.Contains(err.Error(), `"/s/2"`) {
		t.Errorf("Client.Register: %v", err)
	}
	within(t, 6, 3*time.Second+500*time.Millisecond, time.Since(began))
	time.Sleep(6 * time.Second)
	n.mend()
	admin := n.admin()
	took := eventually(t, 10*time.Second, "registered", func() bool { return len(values(t, admin, "/s/1")) == 1 })
	within(t, 6, 5*time.Second, took)
	never(t, 2*time.Second, "the failed Register left something", func() bool { return len(values(t, admin, "/s/2")) != 0 })
	r.Deregister()
	if journal.count("action=register") != 1 || len(values(t, admin, "/s/")) != 0 {
		t.Errorf("log:\n%s", journal)
	}
}

func TestRegisterAgain_ReplacesTheValueWithoutAGap(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := etcd.Client(0).Watch(ctx, "/s/", clientv3.WithPrefix())
	ttls := []*etcdv3.TTLOption{fast, fast, etcdv3.NewTTLOption(time.Second, 8*time.Second), nil}
	for i, ttl := range ttls {
		if err := c.Register(etcdv3.Service{Key: "/s/1", Value: fmt.Sprint("v", i), TTL: ttl}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < len(ttls); {
		for _, e := range (<-changes).Events {
			if e.Type != clientv3.EventTypePut || string(e.Kv.Value) != fmt.Sprint("v", i) {
				t.Fatalf("event %d: %v", i, e)
			}
			i++
		}
	}
	leases, err := etcd.Client(0).Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 || int64(leases.Leases[0].ID) != c.LeaseID() {
		t.Fatalf("leases %v, %v; want one, %x", leases, err, c.LeaseID())
	}
	holds(t, 7)
}

func TestManyServicesOnOneClient_LiveIndependently(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			s := etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i), Value: fmt.Sprintf("v%02d", i), TTL: fast}
			if err := c.Register(s); err != nil {
				t.Error(err)
			}
			if i%2 == 1 {
				if err := c.Deregister(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	never(t, 6*time.Second, "another number than 25", func() bool { return len(etcd.values(t, "/s/")) != 25 })
	holds(t, 7)
}
