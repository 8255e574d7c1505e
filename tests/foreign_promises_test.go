package tests

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
)

// wrapper is a Client of a program's own, around ours.
type wrapper struct {
	etcdv3.Client
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
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
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
	etcdv3.Client
	lists chan struct{}
	let   chan struct{}
	more  chan struct{} // closed for the signals after the first
}

func (c *blockingClient) GetEntries(string) ([]string, error) {
	c.lists <- struct{}{}
	<-c.let
	return []string{"x"}, nil
}

func (c *blockingClient) WatchPrefix(_ string, ch chan struct{}) {
	ch <- struct{}{}
	<-c.more
	for range 100 {
		ch <- struct{}{}
	}
}

func TestForeignClient_SignalsCoalesce(t *testing.T) {
	c := &blockingClient{lists: make(chan struct{}, 1000), let: make(chan struct{}, 1), more: make(chan struct{})}
	c.let <- struct{}{}
	s, err := etcdv3.NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-c.lists
	<-c.lists // a hundred signals come while this one is blocked
	close(c.more)
	time.Sleep(50 * time.Millisecond)
	close(c.let)
	<-c.lists
	never(t, 200*time.Millisecond, "more than one list for them", func() bool { return len(c.lists) > 0 })
	s.Stop()
	holds(t, 18)
}
