package tests

import (
	"sync"
	"time"
)

// stalls records when the machine did not let this process run: one that is
// shared can stand still for seconds. Bounds are of the time in which it runs.
type stalls struct {
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex // guards all below
	all  []stall
	last time.Time // when this was last looked at
}

type stall struct {
	end  time.Time
	took time.Duration
}

// shortestStall is longer than a scheduler makes a goroutine wait as a rule.
const shortestStall = 50 * time.Millisecond

var machine = &stalls{stop: make(chan struct{}), done: make(chan struct{})}

const stallTick = 20 * time.Millisecond

// watch records until close is called.
func (s *stalls) watch() {
	defer close(s.done)
	for {
		s.look()
		select {
		case <-s.stop:
			return
		case <-time.After(stallTick):
		}
	}
}

// look records a stall that has just ended.
func (s *stalls) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.last) {
		return // virtual time
	}
	if took := now.Sub(s.last) - stallTick; took >= shortestStall && !s.last.IsZero() {
		s.all = append(s.all, stall{now, took})
	}
	s.last = now
}

func (s *stalls) close() {
	close(s.stop)
	<-s.done
}

// since returns for how long the machine stood still since a moment.
func (s *stalls) since(began time.Time) (total time.Duration) {
	s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.all {
		total += min(st.took, max(0, st.end.Sub(began)))
	}
	return total
}
