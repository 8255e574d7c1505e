package tests

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/tests/v3/framework/integration"
	"google.golang.org/grpc"
)

func TestServingMemberCutOffFromItsPeers_TheWatchMoves(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := etcd.connect(t)
	_, events := discover(t, c, "/s/")
	if err := c.Register(etcdv3.Service{Key: "/s/own", Value: "own"}); err != nil {
		t.Fatal(err)
	}
	var took time.Duration
	for i, m := range etcd.Members { // one of them serves the watch
		others := slices.Delete(slices.Clone(etcd.Members), i, i+1)
		m.InjectPartition(t, others...)
		began := time.Now()
		key := fmt.Sprintf("v%d", i)
		eventually(t, 20*time.Second, "a write while the member is cut off", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := etcd.Client((i+1)%3).Put(ctx, "/s/"+key, key)
			return err == nil
		})
		eventually(t, 20*time.Second, "the change", func() bool { return slices.Contains(events.last().Instances, key) })
		took = max(took, time.Since(began))
		m.RecoverPartition(t, others...)
		etcd.WaitLeader(t)
	}
	within(t, 12, 15*time.Second, took)
	for _, e := range events.all() {
		if e.Err != nil || len(events.all()) > 1 && len(e.Instances) > 0 && !slices.Contains(e.Instances, "own") {
			t.Errorf("event %+v", e)
		}
	}
}

func TestServingMembersLinkSilent_TheWatchMovesAndTheLeaseIsKept(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := etcd.connect(t)
	_, events := discover(t, c, "/s/")
	if err := c.Register(etcdv3.Service{Key: "/s/own", Value: "own"}); err != nil {
		t.Fatal(err)
	}
	lease := c.LeaseID()
	var took time.Duration
	for i, b := range etcd.bridges { // one of them carries the watch, one the heartbeats
		b.silence()
		began := time.Now()
		key := fmt.Sprintf("v%d", i)
		mustPut(t, etcd.Client(i), "/s/"+key, key)
		eventually(t, 20*time.Second, "the change", func() bool { return slices.Contains(events.last().Instances, key) })
		took = max(took, time.Since(began))
		never(t, 12*time.Second-time.Since(began), "the lease was lost", func() bool { return !slices.Contains(etcd.values(t, "/s/"), "own") })
		b.speak()
	}
	within(t, 12, 15*time.Second, took)
	if c.LeaseID() != lease {
		t.Error("the lease was lost meanwhile")
	}
	for _, e := range events.all() {
		if e.Err != nil {
			t.Errorf("an error although members were healthy: %v", e.Err)
		}
	}
}

func TestSilentLinkOfAWrappedClientWithoutKeepAlive_TheWatchMoves(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := wrap(t, plain(t, etcd.endpoints()...))
	_, events := discover(t, c, "/s/")
	if err := c.Register(etcdv3.Service{Key: "/s/own", Value: "own"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	var took time.Duration
	for i, b := range etcd.bridges {
		b.silence()
		began := time.Now()
		key := fmt.Sprintf("v%d", i)
		mustPut(t, etcd.Client(i), "/s/"+key, key)
		eventually(t, 20*time.Second, "the change", func() bool { return slices.Contains(events.last().Instances, key) })
		took = max(took, time.Since(began))
		if !slices.Contains(etcd.values(t, "/s/"), "own") && machine.since(began) < time.Second {
			t.Error("the registration was lost")
		}
		b.speak()
	}
	within(t, 12, 15*time.Second, took)
}

func TestEtcdOutOfReach_IsToldAndOver(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]struct{ off, on func(*node) }{
		"refused": {(*node).cutOff, (*node).letIn},
		"silent":  {(*node).hush, (*node).wakeUp},
		"stopped": {(*node).stop, (*node).start},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			mustPut(t, n.admin(), "/s/1", "a", "/s/2", "b")
			c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
			s, events := discover(t, c, "/s/")
			breaks.off(n)
			took := eventually(t, 20*time.Second, "an error", func() bool { return events.last().Err != nil })
			within(t, 13, 15*time.Second, took)
			late := record(t, s)
			eventually(t, time.Second, "the last known set and the error", func() bool { return len(late.all()) == 2 })
			if all := late.all(); !slices.Equal(all[0].Instances, []string{"a", "b"}) || all[1].Err == nil {
				t.Errorf("a late subscriber got %+v", all)
			}
			if s.State().Err == nil {
				t.Error("State knows no error")
			}
			time.Sleep(4 * time.Second) // let the back-off grow
			breaks.on(n)
			took = eventually(t, 10*time.Second, "the set", func() bool { return events.shows("a", "b") && late.shows("a", "b") })
			within(t, 13, 5*time.Second, took)
			if n := len(events.all()); n != 3 {
				t.Errorf("%d events, want the set, the error, and the set: %+v", n, events.all())
			}
		})
	}
}

func (n *node) cutOff() { n.cut() }
func (n *node) letIn()  { n.mend() }
func (n *node) hush()   { n.silence() }
func (n *node) wakeUp() { n.speak() }
func TestShortBreak_ReportsNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	mustPut(t, n.admin(), "/s/1", "a")
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	_, events := discover(t, c, "/s/")
	for range 3 {
		n.cut()
		time.Sleep(1500 * time.Millisecond)
		n.mend()
		time.Sleep(2500 * time.Millisecond)
	}
	mustPut(t, n.admin(), "/s/2", "b")
	eventually(t, 3*time.Second, "the change", func() bool { return events.shows("a", "b") })
	if n := len(events.all()); n != 2 {
		t.Errorf("%d events: %+v", n, events.all())
	}
	holds(t, 13)
}

func TestEtcdBackWithAnotherStore_IsNoticed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*node){
		"empty":             func(n *node) {},
		"overtaken":         func(n *node) { mustPut(n.t, n.admin(), slices.Repeat([]string{"/other", "x"}, 40)...) },
		"the same revision": func(n *node) { mustPut(n.t, n.admin(), slices.Repeat([]string{"/s/other", "c"}, 2)...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			mustPut(t, n.admin(), "/s/1", "a", "/s/2", "b")
			c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
			_, events := discover(t, c, "/s/")
			n.stop()
			n.wipe()
			n.cut()
			n.start()
			change(n)
			n.mend()
			want := values(t, n.admin(), "/s/")
			if len(want) > 1 {
				want = want[:1]
			}
			took := eventually(t, 40*time.Second, "the truth", func() bool { return events.shows(want...) })
			within(t, 14, 30*time.Second, took)
			mustPut(t, n.admin(), "/s/9", "z")
			eventually(t, 3*time.Second, "it goes on", func() bool { return events.shows(append(want, "z")...) })
		})
	}
}

func TestEtcdRestoredFromACopy_IsNoticed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	mustPut(t, n.admin(), "/s/1", "a")
	n.stop()
	restore := n.backUp()
	n.start()
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	mustPut(t, n.admin(), "/s/2", "b", "/s/3", "c")
	_, events := discover(t, c, "/s/")
	n.stop()
	restore()
	n.start()
	took := eventually(t, 40*time.Second, "the truth", func() bool { return events.shows("a") })
	within(t, 14, 30*time.Second, took)
	mustPut(t, n.admin(), "/s/4", "d")
	eventually(t, 3*time.Second, "it goes on", func() bool { return events.shows("a", "d") })
}

func TestLongOutageOfAWrappedClient_IsOverAsSoon(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := wrap(t, plain(t, n.endpoint()))
	_, events := discover(t, c, "/s/")
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	n.cut()
	time.Sleep(25 * time.Second) // grpc's own back-off would be ten seconds by now
	n.mend()
	took := eventually(t, 15*time.Second, "all is well again", func() bool {
		return events.shows("v") && len(values(t, n.admin(), "/s/")) == 1
	})
	within(t, 3, 5*time.Second, took)
	within(t, 13, 5*time.Second, took)
}

// grpc gives each request to the next member. With two endpoints, a list and a
// watch in turn would meet the same ones for ever: the list the one that is
// well, and the watch the other.
func TestOneOfTwoEndpointsWithoutLeader_TheWatchFindsTheOther(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	alone, others := etcd.Members[1], []*integration.Member{etcd.Members[0], etcd.Members[2]}
	alone.InjectPartition(t, others...)
	defer alone.RecoverPartition(t, others...)
	eventually(t, 20*time.Second, "the member has no leader", func() bool { return alone.Server.Leader() == 0 })
	var lists atomic.Int64
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if r, ok := req.(*pb.RangeRequest); ok && !r.CountOnly {
				lists.Add(1)
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		})}}, etcd.endpoints(0, 1)...)
	_, events := discover(t, c, "/s/")
	began := time.Now()
	took := eventually(t, 20*time.Second, "four seconds without a list", func() bool {
		n := lists.Load()
		time.Sleep(4 * time.Second)
		return lists.Load() == n
	})
	within(t, 12, 15*time.Second, took-4*time.Second)
	mustPut(t, etcd.Client(0), "/s/1", "v")
	n := lists.Load()
	eventually(t, time.Second, "the change", func() bool { return events.shows("v") })
	if lists.Load() != n && machine.since(began) == 0 { // else it may be a list for safety
		t.Error("a change was listed")
	}
}
