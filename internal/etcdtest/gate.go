package etcdtest

import (
	"context"
	"net"
	"sync"
	"time"
)

// gate holds up who comes while it is shut.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed when the gate opens, nil while it is open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = make(chan struct{})
	}
}

func (g *gate) unshut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

// wait returns when the gate is open. It returns an error if ctx or the cluster
// ends before that.
func (g *gate) wait(ctx context.Context, closed <-chan struct{}) error {
	for {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open == nil {
			return nil
		}
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		case <-closed:
			return net.ErrClosed
		}
	}
}

// station serves one at a time, in the order in which they came.
type station chan struct{}

func newStation() station { return make(station, 1) }

// enter returns when it is the caller's turn, false if the cluster ends before.
func (s station) enter(closed <-chan struct{}) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-closed:
		return false
	}
}

func (s station) leave() { <-s }

// sleep waits, and returns false if the cluster ends before that.
func (e *Etcd) sleep(d time.Duration) bool {
	if d <= 0 {
		return !e.isClosed()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.closed:
		return false
	}
}

// sleepFor waits, and returns false if ctx or the cluster ends before that.
func (e *Etcd) sleepFor(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil && !e.isClosed()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-e.closed:
		return false
	}
}
