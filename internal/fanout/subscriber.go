package fanout

import (
	"context"
	"runtime"
	"time"

	"github.com/go-kit/kit/sd"

	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/worker"
)

// subscriber is one channel and the goroutine that sends to it.
type subscriber struct {
	worker    *worker.Worker
	cache     *Cache
	ch        chan<- sd.Event
	once      bool          // the cache is stopped: send one event and end
	delivered chan struct{} // closed after the first event

	// The goroutine of pump owns these.
	seen    *state           // the last state that was sent
	counted int              // states up to this version were sent, or counted as coalesced
	ahead   *instances.Draft // the next event, or the one on offer
	stale   <-chan time.Time // when to drop the copy ahead; nil if none is kept
}

// While changes come faster than they are passed on, each event waits a little
// for more of them. An event copies the set, however little has changed. A
// change that comes alone does not wait.
const (
	shortestWait = 500 * time.Microsecond
	longestWait  = 4 * time.Millisecond
)

// While changes come, one subscriber copies the set ahead after each event. The
// next event then copies the difference only, which saves half a millisecond at
// 100,000 instances. Sets below worthAhead are not copied ahead, and a copy is
// dropped after keptAhead.
const (
	worthAhead = 4_000
	keptAhead  = time.Second
)

// pump offers the newest state that the subscriber has not seen, until it is taken.
// Until then a change replaces the state on offer.
func (s *subscriber) pump(ctx context.Context) {
	var wait time.Duration
	first, _ := s.cache.current()
	s.counted = first.version - 1
	defer s.keepNothing()
	for {
		now, changed := s.cache.current()
		next := now.after(s.seen)
		s.count(now, next)
		var ch chan<- sd.Event // nil, which is never ready, when there is no news
		var event sd.Event
		if next != nil {
			ch, event = s.ch, s.event(next)
		}
		select {
		case ch <- event:
			wait = s.sent(next, wait)
			if s.once {
				return
			}
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
		if !worker.Sleep(ctx, wait) {
			return
		}
	}
}

// sent notes that the subscriber has taken an event, and returns the wait before
// the next one.
func (s *subscriber) sent(taken *state, wait time.Duration) time.Duration {
	s.ahead = nil // the copy is the subscriber's now
	seen := s.seen
	s.seen, s.counted = taken, max(s.counted, taken.version)
	if told := s.cache.observer.Sent; told != nil {
		told(1)
	}
	switch {
	case seen == nil:
		close(s.delivered)
		return wait
	case taken.version == seen.version+1:
		wait = 0
	default:
		wait = longer(wait)
	}
	s.copyAhead(taken)
	return wait
}

// count tells how many states were replaced by the state on offer. If there is no
// news to offer, the current state has replaced them.
func (s *subscriber) count(now state, next *state) {
	replaced := now.version - 1 - s.counted
	if next != nil {
		replaced = next.version - 1 - s.counted
	}
	if replaced > 0 {
		s.counted += replaced
		if told := s.cache.observer.Coalesced; told != nil {
			told(replaced)
		}
	}
	if next == nil {
		s.counted = now.version
	}
}

// event returns a state as an event. A set is copied into the memory of the copy
// ahead, or of the event on offer that was not taken.
func (s *subscriber) event(next *state) sd.Event {
	if next.err != nil || !next.known {
		return next.event()
	}
	s.ahead = s.ahead.Become(next.set)
	return sd.Event{Instances: s.ahead.Strings()}
}

// copyAhead copies the set for the next event, if that is worth it.
func (s *subscriber) copyAhead(last *state) {
	if last.set.Len() < worthAhead || s.stale == nil && !s.cache.ahead.CompareAndSwap(false, true) {
		return
	}
	runtime.Gosched() // the subscriber first
	s.ahead, s.stale = last.set.WithRoom(), time.After(keptAhead)
}

// keepNothing gives up what was copied ahead.
func (s *subscriber) keepNothing() {
	if s.stale != nil {
		s.ahead, s.stale = nil, nil
		s.cache.ahead.Store(false)
	}
}

// longer returns the wait after one that was too short.
func longer(wait time.Duration) time.Duration {
	return min(max(2*wait, shortestWait), longestWait)
}
