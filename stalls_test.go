package etcdv3

import (
	"sync"
	"time"
)

// stalls records when the machine did not let this process run: one that is
// shared can stand still for seconds. Bounds are of the time in which it runs.
type stalls struct {
	mu   sync.Mutex // guards all
	all  []stall
	stop chan struct{}
	done chan struct{}
}

type stall struct {
	end  time.Time
	took time.Duration
}

// shortestStall is longer than a scheduler makes a goroutine wait as a rule.
const shortestStall = 50 * time.Millisecond

var machine = &stalls{stop: make(chan struct{}), done: make(chan struct{})}

// watch records until close is called.
func (s *stalls) watch() {
	defer close(s.done)
	const tick = 20 * time.Millisecond
	for last := time.Now(); ; {
		select {
		case <-s.stop:
			return
		case <-time.After(tick):
		}
		now := time.Now()
		if took := now.Sub(last) - tick; took >= shortestStall {
			s.mu.Lock()
			s.all = append(s.all, stall{now, took})
			s.mu.Unlock()
		}
		last = now
	}
}

func (s *stalls) close() {
	close(s.stop)
	<-s.done
}

// since returns for how long the machine stood still since a moment.
func (s *stalls) since(began time.Time) (total time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.all {
		total += min(st.took, max(0, st.end.Sub(began)))
	}
	return total
}
