// Package fanout holds the last state of a watched prefix and offers it to every
// subscriber: the newest state, in a copy of its own. Nobody waits for anybody.
package fanout

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-kit/kit/sd"

	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/worker"
)

// A Cache holds the last state of a watched prefix and passes it on to its
// subscribers. Each subscriber has a goroutine of its own, which sends the newest
// state when the subscriber takes it. A slow subscriber gets fewer events, and
// the last event is always the truth.
type Cache struct {
	observer Observer

	mu          sync.Mutex // guards all below
	state       state
	changed     chan struct{} // closed, and replaced, at every change of state
	subscribers map[chan<- sd.Event]*subscriber
	stopped     bool

	ahead atomic.Bool // a subscriber keeps a copy ahead
}

// An Observer hears what becomes of the states, from the subscribers' goroutines,
// several at a time. Its functions must not block, nor call the Cache. Each may be
// nil.
type Observer struct {
	Sent      func(n int) // n events were taken by a subscriber
	Coalesced func(n int) // n states were replaced by newer ones before a subscriber took them
}

// New returns a cache that knows nothing yet.
func New(observer Observer) *Cache {
	return &Cache{observer: observer, changed: make(chan struct{}), subscribers: map[chan<- sd.Event]*subscriber{}}
}

// Update makes set the last known one.
func (c *Cache) Update(set instances.Set) {
	c.change(func(state) state { return state{set: set, known: true} })
}

// UpdateStrings makes a copy of a slice, in any order, the last known set.
func (c *Cache) UpdateStrings(all []string) {
	sorted := slices.Clone(all)
	slices.Sort(sorted)
	c.Update(instances.FromSorted(slices.Compact(sorted)))
}

// Fail says why the last known set may be stale.
func (c *Cache) Fail(err error) {
	c.change(func(last state) state {
		last.err = err
		return last
	})
}

func (c *Cache) change(next func(last state) state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	version := c.state.version + 1
	c.state = next(c.state)
	c.state.version = version
	close(c.changed)
	c.changed = make(chan struct{})
}

// current returns the state, and a channel that is closed when the state changes.
func (c *Cache) current() (state, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.changed
}

// Last returns the last known set, whether there ever was one, and why it may be
// stale.
func (c *Cache) Last() (set instances.Set, known bool, err error) {
	now, _ := c.current()
	return now.set, now.known, now.err
}

// State returns the current state as an event of the caller's own.
func (c *Cache) State() sd.Event {
	now, _ := c.current()
	return now.event()
}

// Register subscribes ch. It returns once ch has taken the current state, or was
// deregistered meanwhile. If ch is registered already, it starts anew.
func (c *Cache) Register(ch chan<- sd.Event) {
	if ch == nil {
		return
	}
	s := c.subscribe(ch)
	for s == nil {
		c.Deregister(ch)
		s = c.subscribe(ch)
	}
	select {
	case <-s.delivered:
	case <-s.worker.Done():
	}
}

// subscribe starts a subscriber for ch. If there is one already, it returns nil.
func (c *Cache) subscribe(ch chan<- sd.Event) *subscriber {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subscribers[ch] != nil {
		return nil
	}
	s := &subscriber{cache: c, ch: ch, once: c.stopped, delivered: make(chan struct{})}
	s.worker = worker.Start(context.Background(), s.pump)
	c.subscribers[ch] = s
	return s
}

// Deregister unsubscribes ch. Once it has returned nothing is sent to ch, even if
// another call of Deregister ended the subscription.
func (c *Cache) Deregister(ch chan<- sd.Event) {
	c.mu.Lock()
	s := c.subscribers[ch]
	c.mu.Unlock()
	if s == nil {
		return
	}
	s.worker.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subscribers[ch] == s {
		delete(c.subscribers, ch)
	}
}

// Stop ends all subscriptions, and returns when nothing is sent any more. The last
// state stays, for State, and once for each channel that is registered later.
func (c *Cache) Stop() {
	c.mu.Lock()
	c.stopped = true
	all := slices.Collect(maps.Keys(c.subscribers))
	c.mu.Unlock()
	for _, ch := range all {
		c.Deregister(ch)
	}
}
