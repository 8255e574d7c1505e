package etcdv3

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-kit/kit/sd"
)

// cache holds the last state of a watched prefix, and passes it on to its
// subscribers. Each has a goroutine of its own that sends the newest state
// when the subscriber takes it: who reads slowly gets fewer events, nobody
// waits for anybody, and what is sent last is the truth.
type cache struct {
	mu          sync.Mutex // guards all below
	state       state
	changed     chan struct{} // closed, and replaced, at every change of state
	subscribers map[chan<- sd.Event]*subscriber
	stopped     bool

	ahead atomic.Bool // a subscriber keeps a copy ahead
}

// state is what is known: the last set, if there ever was one, and why it may
// be stale, if it may.
type state struct {
	set     instances
	known   bool
	err     error
	version int // counts the states
}

// event is the state as go-kit passes it on: a set or an error, never both.
func (s state) event() sd.Event {
	if s.err != nil || !s.known {
		return sd.Event{Err: s.err}
	}
	return sd.Event{Instances: s.set.strings()}
}

// same reports whether a subscriber that saw one state would learn nothing
// from the other.
func (s state) same(other state) bool {
	if s.err != nil || other.err != nil {
		return s.err != nil && other.err != nil && s.err.Error() == other.err.Error()
	}
	return s.known == other.known && s.set.equal(other.set)
}

func newCache() *cache {
	return &cache{changed: make(chan struct{}), subscribers: map[chan<- sd.Event]*subscriber{}}
}

// update makes set the last known one.
func (c *cache) update(set instances) { c.change(state{set: set, known: true}) }

// updateStrings does so with a slice, which it copies.
func (c *cache) updateStrings(all []string) {
	sorted := slices.Clone(all)
	slices.Sort(sorted)
	c.update(newInstances(slices.Compact(sorted)))
}

// fail says why the last known set may be stale.
func (c *cache) fail(err error) {
	c.mu.Lock()
	last := c.state
	c.mu.Unlock()
	last.err = err
	c.change(last)
}

func (c *cache) change(next state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	next.version = c.state.version + 1
	c.state = next
	close(c.changed)
	c.changed = make(chan struct{})
}

// current returns the state, and what is closed when it changes.
func (c *cache) current() (state, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.changed
}

// State returns the current state as an event of the caller's own.
func (c *cache) State() sd.Event {
	now, _ := c.current()
	return now.event()
}

// register subscribes ch, and returns when it has taken the current state, or
// when it was deregistered meanwhile. A channel that is registered already
// starts anew.
func (c *cache) register(ch chan<- sd.Event) {
	if ch == nil {
		return
	}
	s := c.subscribe(ch)
	for s == nil {
		c.deregister(ch)
		s = c.subscribe(ch)
	}
	select {
	case <-s.delivered:
	case <-s.done:
	}
}

// subscribe starts a subscriber for ch, and returns nil if there is one.
func (c *cache) subscribe(ch chan<- sd.Event) *subscriber {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subscribers[ch] != nil {
		return nil
	}
	s := &subscriber{cache: c, ch: ch, once: c.stopped, delivered: make(chan struct{})}
	s.worker = start(context.Background(), s.pump)
	c.subscribers[ch] = s
	return s
}

// deregister unsubscribes ch. Once it has returned nothing is sent to ch, also
// if another call was the one that ended the subscription.
func (c *cache) deregister(ch chan<- sd.Event) {
	c.mu.Lock()
	s := c.subscribers[ch]
	c.mu.Unlock()
	if s == nil {
		return
	}
	s.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.subscribers[ch] == s {
		delete(c.subscribers, ch)
	}
}

// stop ends all subscriptions, and returns when nothing is sent any more.
func (c *cache) stop() {
	c.mu.Lock()
	c.stopped = true
	all := slices.Collect(maps.Keys(c.subscribers))
	c.mu.Unlock()
	for _, ch := range all {
		c.deregister(ch)
	}
}

// after returns what a subscriber gets next that has seen another state, or
// none yet: nil, if that was no other. A set that was never seen comes before
// the error that may make it stale.
func (s state) after(seen *state) *state {
	if s.err != nil && s.known && (seen == nil || !seen.known || !seen.set.equal(s.set)) {
		return &state{set: s.set, known: true, version: s.version}
	}
	if seen != nil && s.same(*seen) {
		return nil
	}
	return &s
}
