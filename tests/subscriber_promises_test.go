package tests

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

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
	s, err := etcdv3.NewInstancer(c, "/s/", nil)
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
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "a"}); err != nil {
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

func TestThousandCycles_LeaveNothing(t *testing.T) {
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	cycle := func(i int) {
		s := etcdv3.Service{Key: fmt.Sprintf("/s/%d", i%10), Value: "v"}
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		in, err := etcdv3.NewInstancer(c, "/s/", nil)
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
