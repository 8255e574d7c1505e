package etcdv3

import (
	"context"
	"runtime"
	"time"

	"github.com/go-kit/kit/sd"
)

// subscriber is one channel and the goroutine that sends to it.
type subscriber struct {
	*worker
	cache     *cache
	ch        chan<- sd.Event
	once      bool          // the cache is stopped: one event, and that is all
	delivered chan struct{} // closed after the first event

	// Both belong to the goroutine of pump.
	ahead *draft           // the next event, or the one that is offered
	stale <-chan time.Time // when it is of no use any more, nil if no copy is kept ahead
}

// While changes come faster than they are passed on, each event waits a little
// for more of them: it is a copy of the set, however little has changed. A
// change that comes alone does not wait.
const (
	shortestWait = 500 * time.Microsecond
	longestWait  = 4 * time.Millisecond
)

// While changes come, one subscriber copies the set ahead, after each event, so
// that the next has only what is different to copy: half a millisecond for
// 100,000 instances. It does so for no fewer than worthAhead, and keeps the copy
// for no longer than keptAhead.
const (
	worthAhead = 4_000
	keptAhead  = time.Second
)

// pump sends the newest state whenever the subscriber takes one that it has
// not seen. While it waits for that, a change replaces what it offers.
func (s *subscriber) pump(ctx context.Context) {
	var seen *state
	var wait time.Duration
	defer s.keepNothing()
	for {
		now, changed := s.cache.current()
		next := now.after(seen)
		var ch chan<- sd.Event // nil, which is never ready, when there is no news
		var event sd.Event
		if next != nil {
			ch, event = s.ch, s.event(next)
		}
		select {
		case ch <- event:
			s.ahead = nil // it is the subscriber's
			if seen == nil {
				close(s.delivered)
			} else if next.version == seen.version+1 {
				wait = 0
			} else {
				wait = longer(wait)
			}
			if s.once {
				return
			}
			if seen != nil {
				s.copyAhead(next)
			}
			seen = next
		case <-changed:
			if next == nil {
				continue
			}
			wait = longer(wait)
		case <-s.stale:
			s.keepNothing()
		case <-ctx.Done():
			return
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// event returns a state as an event, out of the copy that was made ahead, or of
// the event that was not taken.
func (s *subscriber) event(next *state) sd.Event {
	if next.err != nil || !next.known {
		return next.event()
	}
	s.ahead = s.ahead.become(next.set)
	return sd.Event{Instances: s.ahead.all}
}

// copyAhead copies the set for the next event, if that is worth it.
func (s *subscriber) copyAhead(last *state) {
	if last.set.len < worthAhead || s.stale == nil && !s.cache.ahead.CompareAndSwap(false, true) {
		return
	}
	runtime.Gosched() // the subscriber first
	s.ahead, s.stale = last.set.withRoom(), time.After(keptAhead)
}

// keepNothing gives up what was copied ahead.
func (s *subscriber) keepNothing() {
	if s.stale != nil {
		s.ahead, s.stale = nil, nil
		s.cache.ahead.Store(false)
	}
}

// longer returns the wait after one that was not long enough.
func longer(wait time.Duration) time.Duration {
	return min(max(2*wait, shortestWait), longestWait)
}
