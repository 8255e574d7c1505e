package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// mustPut puts keys as another process would, without a lease.
func mustPut(t testing.TB, cli *clientv3.Client, kvs ...string) {
	t.Helper()
	for i := 0; i < len(kvs); i += 2 {
		if _, err := cli.Put(context.Background(), kvs[i], kvs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
}

// rangeCounter counts the range requests of a client.
type rangeCounter struct {
	mu sync.Mutex
	n  int
}

func (r *rangeCounter) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if method == "/etcdserverpb.KV/Range" {
			r.mu.Lock()
			r.n++
			r.mu.Unlock()
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	})
}

func (r *rangeCounter) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func TestOneChange_IsOneEventAndNoList(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	counter := &rangeCounter{}
	c, _ := connect(t, ClientOptions{DialOptions: []grpc.DialOption{counter.option()}}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	listed := counter.count()
	want := []string{}
	for i := range 50 {
		mustPut(t, etcd.Client(0), fmt.Sprintf("/s/%02d", i), fmt.Sprintf("v%02d", i))
		want = append(want, fmt.Sprintf("v%02d", i))
		eventually(t, time.Second, "the change is seen", func() bool { return events.shows(want...) })
	}
	if got := len(events.all()); got != 51 {
		t.Errorf("%d events for 50 changes and the first set", got)
	}
	time.Sleep(2 * time.Second) // past the first sign of life
	if n := counter.count() - listed; n != 0 {
		t.Errorf("%d range requests", n)
	}
	holds(t, 10)
}

func TestConnectionDropped100Times_NothingIsMissed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	admin := n.admin()
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	_, events := discover(t, c, "/s/")
	// The set grows by one instance at a time and then shrinks to the last, so
	// every set that etcd holds is a run of numbers.
	const steps = 100
	for i := range steps {
		n.drop()
		mustPut(t, admin, fmt.Sprintf("/s/%03d", i), fmt.Sprintf("%03d", i))
		time.Sleep(5 * time.Millisecond)
	}
	for i := range steps - 1 {
		n.drop()
		if _, err := admin.Delete(t.Context(), fmt.Sprintf("/s/%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
	took := eventually(t, 10*time.Second, "the truth", func() bool { return events.shows(fmt.Sprintf("%03d", steps-1)) })
	within(t, 11, 5*time.Second, took)
	for _, e := range events.all() {
		if e.Err != nil {
			t.Errorf("a short break was reported: %v", e.Err)
		}
		for i := 1; i < len(e.Instances); i++ {
			a, _ := strconv.Atoi(e.Instances[i-1])
			if b, _ := strconv.Atoi(e.Instances[i]); b != a+1 {
				t.Fatalf("etcd never held %v", e.Instances)
			}
		}
	}
}

func TestCompactedWhileDisconnected_GoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	admin := n.admin()
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	mustPut(t, admin, "/s/1", "a", "/s/2", "b")
	_, events := discover(t, c, "/s/")
	n.cut()
	mustPut(t, admin, "/s/1", "c", "/s/3", "d")
	resp, err := admin.Delete(t.Context(), "/s/2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Compact(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	n.mend()
	took := eventually(t, 5*time.Second, "the truth", func() bool { return events.shows("c", "d") })
	within(t, 11, 5*time.Second, took)
	mustPut(t, admin, "/s/4", "e")
	eventually(t, 3*time.Second, "it goes on", func() bool { return events.shows("c", "d", "e") })
}

func TestServingMemberCutOffFromItsPeers_TheWatchMoves(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := etcd.connect(t)
	_, events := discover(t, c, "/s/")
	if err := c.Register(Service{Key: "/s/own", Value: "own"}); err != nil {
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
	if err := c.Register(Service{Key: "/s/own", Value: "own"}); err != nil {
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
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	c, err := NewClientFrom(ctx, plain(t, etcd.endpoints()...), ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, events := discover(t, c, "/s/")
	if err := c.Register(Service{Key: "/s/own", Value: "own"}); err != nil {
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
		if !slices.Contains(etcd.values(t, "/s/"), "own") {
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
			c, _ := connect(t, ClientOptions{}, n.endpoint())
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
	c, _ := connect(t, ClientOptions{}, n.endpoint())
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
			c, _ := connect(t, ClientOptions{}, n.endpoint())
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
	c, _ := connect(t, ClientOptions{}, n.endpoint())
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

func TestSets_AreSortedUniqueAndTheSubscribersOwn(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	mustPut(t, etcd.Client(0), "/s/1", "b", "/s/2", "a", "/s/3", "b")
	s, events := discover(t, c, "/s/")
	if !events.shows("a", "b") {
		t.Fatalf("first event: %+v", events.last())
	}
	s.State().Instances[0] = "spoiled"
	events.last().Instances[0] = "spoiled"
	mustPut(t, etcd.Client(0), "/s/4", "a") // another key of a value that is there
	mustPut(t, etcd.Client(0), "/s/5", "c")
	eventually(t, time.Second, "the change", func() bool { return events.shows("a", "b", "c") })
	if n := len(events.all()); n != 2 {
		t.Errorf("%d events: an unchanged set was sent twice", n)
	}
	for _, key := range []string{"/s/1", "/s/2"} { // one key of each pair
		if _, err := etcd.Client(0).Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, etcd.Client(0), "/s/6", "d")
	eventually(t, time.Second, "the change", func() bool { return events.shows("a", "b", "c", "d") })
	holds(t, 15)
}

func TestBurst_CoalescesToTheTruth(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	s, fast := discover(t, c, "/s/")
	slow := make(chan sd.Event, 1)
	s.Register(slow)
	defer s.Deregister(slow)
	cli := etcd.Client(0)
	var ops []clientv3.Op
	for i := range 1000 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("/s/%04d", i), fmt.Sprintf("%04d", i)))
	}
	for chunk := range slices.Chunk(ops, 100) { // responses of a hundred events
		if _, err := cli.Txn(t.Context()).Then(chunk...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "all instances", func() bool { return len(fast.last().Instances) == 1000 })
	var last sd.Event
	for n := 0; len(last.Instances) != 1000; n++ {
		if n == 3 {
			t.Fatalf("the slow subscriber's event %d has %d instances", n, len(last.Instances))
		}
		last = <-slow
	}
	holds(t, 15)
}

func TestSubscriberThatDoesNotRead_StopsNobody(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	s, events := discover(t, c, "/s/")
	deaf := make(chan sd.Event) // not even its first event
	registered := make(chan struct{})
	go func() {
		s.Register(deaf)
		close(registered)
	}()
	stuck := make(chan sd.Event, 1) // its first event and no other
	s.Register(stuck)
	for i := range 20 {
		mustPut(t, etcd.Client(0), "/s/1", fmt.Sprint(i))
		eventually(t, time.Second, "others see it", func() bool { return events.shows(fmt.Sprint(i)) })
	}
	s.Deregister(deaf)
	s.Deregister(stuck)
	<-registered
	close(deaf)
	close(stuck) // a send after Deregister would panic
	mustPut(t, etcd.Client(0), "/s/1", "last")
	eventually(t, time.Second, "others see it", func() bool { return events.shows("last") })
	holds(t, 16)
}

func TestThousandSubscribersComeAndGo(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	s, _ := discover(t, c, "/s/")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			mustPut(t, etcd.Client(0), "/s/1", fmt.Sprint(i))
		}
	})
	var come sync.WaitGroup
	for i := range 1000 {
		come.Go(func() {
			ch := make(chan sd.Event, i%3)
			go func() {
				for range 1 + i%5 {
					if _, ok := <-ch; !ok {
						return
					}
				}
			}()
			time.AfterFunc(time.Duration(i%50)*time.Millisecond, func() {
				s.Deregister(ch)
			})
			s.Register(ch)
			time.Sleep(time.Duration(i%50) * time.Millisecond)
			s.Deregister(ch)
			close(ch)
		})
	}
	come.Wait()
	cancel()
	all.Wait()
	holds(t, 16)
}

func TestRegister_DeliversTheStateBeforeItReturns(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	mustPut(t, etcd.Client(0), "/s/1", "a")
	s, _ := discover(t, c, "/s/")
	for range 100 {
		ch := make(chan sd.Event, 1)
		s.Register(ch)
		select {
		case e := <-ch:
			if !slices.Equal(e.Instances, []string{"a"}) {
				t.Fatalf("%+v", e)
			}
		default:
			t.Fatal("Register returned before it delivered")
		}
		s.Register(ch) // again: the state again
		<-ch
		s.Deregister(ch)
	}
	s.Register(nil)
	s.Deregister(nil)
	holds(t, 16)
}

func TestStop_LeavesNothing(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	mustPut(t, etcd.Client(0), "/s/1", "a")
	s, err := NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan sd.Event, 10)
	s.Register(ch)
	var all sync.WaitGroup
	for range 5 {
		all.Go(s.Stop)
	}
	all.Wait()
	<-ch
	mustPut(t, etcd.Client(0), "/s/2", "b")
	never(t, 300*time.Millisecond, "an event after Stop", func() bool { return len(ch) > 0 })
	close(ch)
	after := make(chan sd.Event, 1)
	s.Register(after)
	if e := <-after; !slices.Equal(e.Instances, []string{"a"}) {
		t.Errorf("after Stop: %+v", e)
	}
	holds(t, 17)
}

func TestContextEnds_SubscribersKeepTheLastSet(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, leave := etcd.connect(t)
	if err := c.Register(Service{Key: "/s/1", Value: "a"}); err != nil {
		t.Fatal(err)
	}
	s, events := discover(t, c, "/s/")
	leave()
	never(t, 2*time.Second, "an event after the end", func() bool { return len(events.all()) != 1 })
	if got := s.State(); got.Err != nil || !slices.Equal(got.Instances, []string{"a"}) {
		t.Errorf("State: %+v", got)
	}
	holds(t, 17)
}

// wrapper is a Client of a program's own, around ours.
type wrapper struct {
	Client
	mu     sync.Mutex
	listed int
}

func (w *wrapper) GetEntries(prefix string) ([]string, error) {
	w.mu.Lock()
	w.listed++
	w.mu.Unlock()
	values, err := w.Client.GetEntries(prefix)
	for i := range values {
		values[i] = "wrapped-" + values[i]
	}
	return values, err
}

func TestForeignClient_WorksThroughTheInterface(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	admin := n.admin()
	mustPut(t, admin, "/s/1", "b")
	w := &wrapper{Client: c}
	_, events := discover(t, w, "/s/")
	if !events.shows("wrapped-b") {
		t.Fatalf("first event: %+v", events.last())
	}
	for i := range 200 {
		mustPut(t, admin, fmt.Sprintf("/s/x%03d", i), "a")
	}
	eventually(t, 2*time.Second, "the change", func() bool { return events.shows("wrapped-a", "wrapped-b") })
	n.cut()
	took := eventually(t, 20*time.Second, "an error", func() bool { return events.last().Err != nil })
	t.Log("error after", took)
	n.mend()
	eventually(t, 5*time.Second, "the set", func() bool { return events.shows("wrapped-a", "wrapped-b") })
	holds(t, 18)
}

// blockingClient lists only when it is let, and so collects signals.
type blockingClient struct {
	Client
	lists chan struct{}
	let   chan struct{}
}

func (c *blockingClient) GetEntries(string) ([]string, error) {
	c.lists <- struct{}{}
	<-c.let
	return []string{"x"}, nil
}

func (c *blockingClient) WatchPrefix(_ string, ch chan struct{}) {
	for range 100 {
		ch <- struct{}{}
	}
}

func TestForeignClient_SignalsCoalesce(t *testing.T) {
	c := &blockingClient{lists: make(chan struct{}, 1000), let: make(chan struct{}, 1)}
	c.let <- struct{}{}
	s, err := NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-c.lists
	<-c.lists // a hundred signals come while this one is blocked
	time.Sleep(50 * time.Millisecond)
	close(c.let)
	<-c.lists
	never(t, 200*time.Millisecond, "more than one list for them", func() bool { return len(c.lists) > 0 })
	s.Stop()
	holds(t, 18)
}

func TestWatchPrefix_SignalsOnceForEachChange(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, leave := etcd.connect(t)
	signals := make(chan struct{})
	done := make(chan struct{})
	go func() {
		c.WatchPrefix("/s/", signals)
		close(done)
	}()
	next := func(what string) {
		t.Helper()
		select {
		case <-signals:
		case <-time.After(2 * time.Second):
			t.Fatal("no signal", what)
		}
	}
	none := func(what string) {
		t.Helper()
		select {
		case <-signals:
			t.Fatal("a signal", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
	next("when the watch stands")
	none("without a change")
	for i := range 5 {
		mustPut(t, etcd.Client(0), "/s/1", fmt.Sprint(i/2)) // some of them the same value
		next("for a change")
	}
	mustPut(t, etcd.Client(0), "/x/1", "x")
	none("for another prefix")
	for i := range 20 { // the receiver is busy
		mustPut(t, etcd.Client(0), "/s/2", fmt.Sprint(i))
	}
	time.Sleep(200 * time.Millisecond)
	next("for many changes")
	none("more")
	leave()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("WatchPrefix does not end with the context")
	}
	holds(t, 19)
}

func TestPrefix_IsPlainBytes(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	mustPut(t, etcd.Client(0), "/s/foo/1", "a", "/s/foobar/1", "b", "/t", "c", "/s/\xff\xff", "d")
	for prefix, want := range map[string][]string{
		"/s/foo": {"a", "b"}, "/s/foo/": {"a"}, "/s/foo/1": {"a"}, "": {"a", "b", "c", "d"}, "/s/\xff": {"d"}, "\xff": {},
	} {
		if s, _ := discover(t, c, prefix); !slices.Equal(s.State().Instances, want) {
			t.Errorf("prefix %q: %+v, want %v", prefix, s.State(), want)
		}
		got, err := c.GetEntries(prefix)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("GetEntries %q: %v, %v, want %v", prefix, got, err, want)
		}
	}
	holds(t, 20)
}

func TestManyPages_AreOneRevision(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	admin := n.admin()
	const many = 2*pageSize + 7
	for from := 0; from < many; from += 100 {
		var ops []clientv3.Op
		for i := from; i < min(from+100, many); i++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/s/%06d", i), fmt.Sprintf("%06d", i)))
		}
		if _, err := admin.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := connect(t, ClientOptions{}, n.endpoint())
	s, events := discover(t, c, "/s/")
	got := s.State().Instances
	if len(got) != many || !slices.IsSorted(got) || got[many-1] != fmt.Sprintf("%06d", many-1) {
		t.Fatalf("%d instances", len(got))
	}
	mustPut(t, admin, "/s/x", "x")
	eventually(t, 2*time.Second, "a change", func() bool { return len(events.last().Instances) == many+1 })
	entries, err := c.GetEntries("/s/")
	if err != nil || len(entries) != many+1 {
		t.Fatal(len(entries), err)
	}
}

func TestNilClient_IsAnError(t *testing.T) {
	if _, err := NewInstancer(nil, "/s/", nil); err == nil || !strings.Contains(err.Error(), "client is nil") {
		t.Error(err)
	}
	r := NewRegistrar(nil, Service{Key: "k", Value: "v"}, nil)
	r.Register()
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "client is nil") {
		t.Error(err)
	}
	r.Deregister()
	if err := r.Err(); err == nil {
		t.Error("no error")
	}
}

func TestThousandCycles_LeaveNothing(t *testing.T) {
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	cycle := func(i int) {
		s := Service{Key: fmt.Sprintf("/s/%d", i%10), Value: "v"}
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		in, err := NewInstancer(c, "/s/", nil)
		if err != nil {
			t.Fatal(err)
		}
		ch := make(chan sd.Event, 1)
		in.Register(ch)
		in.Stop()
		if err := c.Deregister(s); err != nil {
			t.Fatal(err)
		}
	}
	usage := func() (goroutines int, heap uint64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	for i := range 100 {
		cycle(i)
	}
	before, heap := usage()
	for i := range 1000 {
		cycle(i)
	}
	eventually(t, 5*time.Second, "the goroutines are flat", func() bool {
		now, _ := usage()
		return now <= before+10
	})
	// The member in this process keeps every revision: about a kilobyte a cycle.
	if _, now := usage(); now > heap+8<<20 {
		t.Errorf("the heap grew from %d to %d", heap, now)
	}
	holds(t, 26)
}

func TestPermissionRevokedAndGranted_IsToldAndOver(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	enableAuth(t, etcd.Client(0), "reader", "/s/", clientv3.PermissionType(clientv3.PermRead))
	root := plainAs(t, "root", "root-pass", etcd.Members[0].GRPCURL)
	mustPut(t, root, "/s/1", "a")
	c, _ := connect(t, ClientOptions{Username: "reader", Password: "reader-pass"}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	if !events.shows("a") {
		t.Fatalf("first event: %+v", events.last())
	}
	if other, _ := discover(t, c, "/t/"); !errors.Is(other.State().Err, rpctypes.ErrPermissionDenied) || !strings.Contains(other.State().Err.Error(), `"/t/"`) {
		t.Errorf("a prefix that the user may not read: %v", other.State().Err)
	}
	if _, err := root.RoleRevokePermission(t.Context(), "reader", "/s/", clientv3.GetPrefixRangeEnd("/s/")); err != nil {
		t.Fatal(err)
	}
	etcd.bridges[0].drop() // etcd checks a watch when it begins
	eventually(t, 15*time.Second, "an error", func() bool { return events.last().Err != nil })
	if _, err := root.RoleGrantPermission(t.Context(), "reader", "/s/", clientv3.GetPrefixRangeEnd("/s/"), clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	mustPut(t, root, "/s/2", "b")
	eventually(t, 5*time.Second, "the set", func() bool { return events.shows("a", "b") })
	holds(t, 11)
}
