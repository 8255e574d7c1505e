package etcdv3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// fast is a registration whose faults take less time to show than the default.
var fast = NewTTLOption(time.Second, 4*time.Second)

// journal is a logger that can be read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) logger() log.Logger { return log.NewLogfmtLogger(j) }

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// count returns how many lines hold a text.
func (j *journal) count(text string) (n int) {
	for _, line := range strings.Split(j.String(), "\n") {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// beatCounter sees the heartbeats of a client on their way out.
type beatCounter struct {
	mu    sync.Mutex
	beats map[int64][]time.Time
	opens map[string]int
}

func (b *beatCounter) option() grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.opens == nil {
			b.opens, b.beats = map[string]int{}, map[int64][]time.Time{}
		}
		b.opens[method]++
		return countedStream{s, b}, err
	})
}

type countedStream struct {
	grpc.ClientStream
	counter *beatCounter
}

func (s countedStream) SendMsg(m any) error {
	if req, ok := m.(*pb.LeaseKeepAliveRequest); ok {
		s.counter.mu.Lock()
		s.counter.beats[req.ID] = append(s.counter.beats[req.ID], time.Now())
		s.counter.mu.Unlock()
	}
	return s.ClientStream.SendMsg(m)
}

func TestHeartbeat_IsTheOneThatTheUserSet(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	counter := &beatCounter{}
	c, _ := connect(t, ClientOptions{DialOptions: []grpc.DialOption{counter.option()}}, etcd.endpoints()...)
	set := map[int64]time.Duration{}
	for i, heartbeat := range []time.Duration{500 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
		ttl := time.Duration(20+i) * time.Second
		if err := c.Register(Service{Key: fmt.Sprintf("/s/%d", i), Value: "v", TTL: NewTTLOption(heartbeat, ttl)}); err != nil {
			t.Fatal(err)
		}
		set[c.LeaseID()] = heartbeat
		left, err := etcd.Client(0).TimeToLive(context.Background(), clientv3.LeaseID(c.LeaseID()))
		if err != nil || left.GrantedTTL != int64(20+i) {
			t.Fatalf("lease %v, %v: want a TTL of %v", left, err, ttl)
		}
	}
	time.Sleep(6 * time.Second)
	counter.mu.Lock()
	defer counter.mu.Unlock()
	for id, heartbeat := range set {
		beats := counter.beats[id]
		if len(beats) < 3 {
			t.Fatalf("heartbeat %v: %d beats", heartbeat, len(beats))
		}
		mean := beats[len(beats)-1].Sub(beats[0]) / time.Duration(len(beats)-1)
		if off := mean - heartbeat; off.Abs() > heartbeat/10 {
			t.Errorf("heartbeat %v: the mean was %v", heartbeat, mean)
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
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "v", TTL: fast}, journal.logger())
	r.Register()
	defer r.Deregister()
	for range 3 {
		if _, err := etcd.Client(0).Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err)
		}
		lost := len(etcd.values(t, "/s/")) == 0
		took := eventually(t, 5*time.Second, "registered again", func() bool { return len(etcd.values(t, "/s/")) == 1 })
		if !lost {
			t.Error("the key outlived its lease")
		}
		within(t, 2, 2*time.Second, took)
		eventually(t, time.Second, "Err is nil", func() bool { return r.Err() == nil })
	}
	if journal.count("registration lost") != 3 || journal.count("registered again") != 3 {
		t.Errorf("log:\n%s", journal)
	}
}

func TestOutageLongerThanTheTTL_RegistersAgain(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "v", TTL: fast}, nil)
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
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	for i := range 20 {
		if err := c.Register(Service{Key: fmt.Sprintf("/s/%02d", i), Value: fmt.Sprintf("v%02d", i)}); err != nil {
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
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	if err := c.Register(Service{Key: "/s/old", Value: "old", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	n.stop()
	restore := n.backUp()
	n.start()
	if err := c.Register(Service{Key: "/s/new", Value: "new", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	if err := c.Register(Service{Key: "/s/old", Value: "replaced", TTL: fast}); err != nil {
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

func TestKeyDeleted_IsPutBackAtTheNextHeartbeat(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(2*time.Second, 10*time.Second)}, nil)
	r.Register()
	lease := c.LeaseID()
	for range 3 {
		if _, err := etcd.Client(0).Delete(t.Context(), "/s/1"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 500*time.Millisecond, "Err says so", func() bool { return r.Err() != nil })
		took := eventually(t, 5*time.Second, "put back", func() bool { return len(etcd.values(t, "/s/")) == 1 })
		if took < 500*time.Millisecond {
			t.Errorf("put back after %v, which is at once", took)
		}
		within(t, 4, 3*time.Second, took)
		eventually(t, time.Second, "Err is nil", func() bool { return r.Err() == nil })
	}
	if c.LeaseID() != lease {
		t.Error("the lease is another one")
	}
	if _, err := etcd.Client(0).Delete(t.Context(), "/s/1"); err != nil {
		t.Fatal(err)
	}
	r.Deregister() // a process that is leaving anyway
	never(t, 3*time.Second, "the key came back", func() bool { return len(etcd.values(t, "/s/")) != 0 })
}

func TestKeyTaken_IsLeftAloneUntilItIsFree(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	a, _ := etcd.connect(t)
	b, _ := etcd.connect(t)
	journal := &journal{}
	service := func(value string) Service { return Service{Key: "/s/1", Value: value, TTL: fast} }
	ra := NewRegistrar(a, service("a"), journal.logger())
	ra.Register()
	if err := b.Register(service("b")); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "a knows", func() bool { return ra.Err() != nil })
	never(t, 3*time.Second, "a fights", func() bool { return !slices.Equal(etcd.values(t, "/s/"), []string{"b"}) })
	if journal.count("another owner") != 1 {
		t.Errorf("log:\n%s", journal)
	}
	if err := b.Deregister(service("b")); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 5*time.Second, "a has the key again", func() bool { return slices.Equal(etcd.values(t, "/s/"), []string{"a"}) })
	within(t, 5, 2*time.Second, took)
	eventually(t, time.Second, "a is registered", func() bool { return ra.Err() == nil })
}

func TestTwoOwnersOfOneKey_DoNotFight(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	journals := []*journal{{}, {}}
	for i, j := range journals {
		c, _ := connect(t, ClientOptions{}, n.endpoint())
		r := NewRegistrar(c, Service{Key: "/s/1", Value: fmt.Sprint("owner", i), TTL: fast}, j.logger())
		r.Register()
		defer r.Deregister()
	}
	n.cut()
	admin := n.admin()
	eventually(t, 10*time.Second, "both leases expired", func() bool { return len(values(t, admin, "/s/")) == 0 })
	n.mend()
	eventually(t, 5*time.Second, "one has the key", func() bool { return len(values(t, admin, "/s/")) == 1 })
	before, err := admin.Get(t.Context(), "/s/1")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	after, err := admin.Get(t.Context(), "/s/1")
	if err != nil {
		t.Fatal(err)
	}
	if before.Kvs[0].ModRevision != after.Kvs[0].ModRevision {
		t.Errorf("the key was written %d times more", after.Kvs[0].Version-before.Kvs[0].Version)
	}
	holds(t, 5)
}

func TestRegisterWhileEtcdIsAway_GoesOnTrying(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.cut()
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	journal := &journal{}
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, journal.logger())
	began := time.Now()
	r.Register()
	within(t, 6, 3*time.Second+200*time.Millisecond, time.Since(began))
	if r.Err() == nil || journal.count("err=") != 1 {
		t.Errorf("err %v, log:\n%s", r.Err(), journal)
	}
	began = time.Now()
	if err := c.Register(Service{Key: "/s/2", Value: "v"}); err == nil || !strings.Contains(err.Error(), `"/s/2"`) {
		t.Errorf("Client.Register: %v", err)
	}
	within(t, 6, 3*time.Second+200*time.Millisecond, time.Since(began))
	time.Sleep(6 * time.Second)
	n.mend()
	admin := n.admin()
	took := eventually(t, 10*time.Second, "registered", func() bool { return len(values(t, admin, "/s/1")) == 1 })
	within(t, 6, 5*time.Second, took)
	never(t, 2*time.Second, "the failed Register left something", func() bool { return len(values(t, admin, "/s/2")) != 0 })
	r.Deregister()
	if journal.count("err=") != 1 || len(values(t, admin, "/s/")) != 0 {
		t.Errorf("log:\n%s", journal)
	}
}

func TestDeregisterWhileItStillTries_StopsTrying(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.cut()
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, nil)
	r.Register()
	began := time.Now()
	r.Deregister()
	within(t, 8, 3*time.Second+200*time.Millisecond, time.Since(began))
	n.mend()
	admin := n.admin()
	never(t, 5*time.Second, "registered", func() bool { return len(values(t, admin, "/s/")) != 0 })
}

func TestRegisterAgain_ReplacesTheValueWithoutAGap(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := etcd.Client(0).Watch(ctx, "/s/", clientv3.WithPrefix())
	ttls := []*TTLOption{fast, fast, NewTTLOption(time.Second, 8*time.Second), nil}
	for i, ttl := range ttls {
		if err := c.Register(Service{Key: "/s/1", Value: fmt.Sprint("v", i), TTL: ttl}); err != nil {
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
			s := Service{Key: fmt.Sprintf("/s/%02d", i), Value: fmt.Sprintf("v%02d", i), TTL: fast}
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

func TestDeregister_RemovesKeyAndLeaseAtOnce(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	s := Service{Key: "/s/1", Value: "v"}
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing, which is no error
		if err := c.Deregister(Service{Key: s.Key}); err != nil {
			t.Fatal(err)
		}
		leases, err := etcd.Client(0).Leases(t.Context())
		if err != nil || len(leases.Leases) != 0 || len(etcd.values(t, "/s/")) != 0 {
			t.Fatalf("left: %v, %v", leases, err)
		}
	}
	if err := c.Deregister(Service{}); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	// From a client that never registered it, by key alone.
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	other, _ := etcd.connect(t)
	if err := other.Deregister(Service{Key: s.Key}); err != nil || len(etcd.values(t, "/s/")) != 0 {
		t.Fatal(err, etcd.values(t, "/s/"))
	}
	holds(t, 8)
}

func TestDeregister_LeavesTheKeyOfAnotherOwner(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	a, _ := etcd.connect(t)
	b, _ := etcd.connect(t)
	if err := a.Register(Service{Key: "/s/1", Value: "a", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	if err := b.Register(Service{Key: "/s/1", Value: "b", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // however often
		if err := a.Deregister(Service{Key: "/s/1"}); err != nil {
			t.Fatal(err)
		}
	}
	never(t, time.Second, "b's key is gone", func() bool { return !slices.Equal(etcd.values(t, "/s/"), []string{"b"}) })
	if err := b.Deregister(Service{Key: "/s/1"}); err != nil {
		t.Fatal(err)
	}
	never(t, 3*time.Second, "the key came back", func() bool { return len(etcd.values(t, "/s/")) != 0 })
	holds(t, 8)
}

func TestDeregisterWhileEtcdIsAway_LetsTheLeaseRunOut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	s := Service{Key: "/s/1", Value: "v", TTL: fast}
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	n.silence()
	began := time.Now()
	err := c.Deregister(s)
	within(t, 8, 3*time.Second+200*time.Millisecond, time.Since(began))
	if err == nil {
		t.Error("no error although etcd was away")
	}
	n.speak()
	admin := n.admin()
	eventually(t, 8*time.Second, "the lease ran out", func() bool { return len(values(t, admin, "/s/")) == 0 })
	never(t, 3*time.Second, "the key came back", func() bool { return len(values(t, admin, "/s/")) != 0 })
}

func TestDeregisterGuarded(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	put := func(key, value string) uint64 {
		if err := c.Register(Service{Key: key, Value: value, TTL: fast}); err != nil {
			t.Fatal(err)
		}
		resp, err := etcd.Client(0).Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(resp.Kvs[0].ModRevision)
	}
	revision := put("/s/1", "v")
	for _, wrong := range []*DeleteOptions{{PrevValue: "w"}, {PrevIndex: revision + 1}, {PrevValue: "v", PrevIndex: revision - 1}} {
		if err := c.Deregister(Service{Key: "/s/1", DeleteOptions: wrong}); !errors.Is(err, ErrCompareFailed) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	never(t, 6*time.Second, "it ended although the guard failed", func() bool { return len(etcd.values(t, "/s/1")) != 1 })
	if err := c.Deregister(Service{Key: "/s/1", DeleteOptions: &DeleteOptions{PrevValue: "v", PrevIndex: revision}}); err != nil {
		t.Fatal(err)
	}
	put("/s", "root")
	put("/s/1", "v")
	put("/s/2/3", "v")
	put("/sx", "another")
	if err := c.Deregister(Service{Key: "/s", DeleteOptions: &DeleteOptions{Recursive: true}}); err != nil {
		t.Fatal(err)
	}
	never(t, 3*time.Second, "something came back, or too much went", func() bool {
		return !slices.Equal(etcd.values(t, "/s"), []string{"another"})
	})
	holds(t, 8)
}

func TestContextEnds_EverythingIsRevoked(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, leave := etcd.connect(t)
	for i := range 20 {
		if err := c.Register(Service{Key: fmt.Sprintf("/s/%02d", i), Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	leave()
	for i := range 5 { // Deregister during and after that is safe
		if err := c.Deregister(Service{Key: fmt.Sprintf("/s/%02d", i)}); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 5*time.Second, "all keys are gone", func() bool { return len(etcd.values(t, "/s/")) == 0 })
	within(t, 9, 3*time.Second, time.Since(began))
	eventually(t, time.Second, "the connection is closed", func() bool { return c.cli.Ctx().Err() != nil })
	if err := c.Deregister(Service{Key: "/s/00"}); err != nil {
		t.Error(err)
	}
	if err := c.Register(Service{Key: "/s/00", Value: "v"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.GetEntries("/s/"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestContextEnds_AWrappedClientIsLeftOpen(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	cli := plain(t, etcd.endpoints()...)
	ctx, leave := context.WithCancel(t.Context())
	c, err := NewClientFrom(ctx, cli, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Register(Service{Key: "/s/1", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	leave()
	took := eventually(t, 5*time.Second, "the key is gone", func() bool { return len(etcd.values(t, "/s/")) == 0 })
	within(t, 9, 3*time.Second, took)
	if _, err := cli.Get(t.Context(), "/s/1"); err != nil {
		t.Errorf("the wrapped client was closed: %v", err)
	}
}
