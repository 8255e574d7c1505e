// Package worker is one goroutine that has an owner, who stops it and waits. It
// holds the only go statement of this module's product code. With it stands what
// such goroutines wait with.
package worker

import (
	"context"
	"time"
)

const (
	// A wait that was longer than it should be by StoodStill means that the process
	// stood still: it was stopped, or had no processor.
	StoodStill = 500 * time.Millisecond

	// AfterStandstill is how long what has come meanwhile has to be read after that,
	// before owners hear that etcd is silent: it was not etcd.
	AfterStandstill = time.Second
)

// A Worker is one goroutine that has an owner: who starts a worker stops it.
type Worker struct {
	cancel context.CancelFunc
	done   chan struct{} // closed once the goroutine has returned
}

// Start runs life until it returns. The context that life gets ends with ctx,
// and by Cancel or Stop.
func Start(ctx context.Context, life func(context.Context)) *Worker {
	ctx, cancel := context.WithCancel(ctx)
	w := &Worker{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer cancel()
		life(ctx)
	}()
	return w
}

// Cancel ends the worker's context and does not wait.
func (w *Worker) Cancel() { w.cancel() }

// Done is closed once the worker's goroutine has returned.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Ends waits until the worker's goroutine has returned, or ctx has ended, and
// reports whether it has returned. If both came together, it has: a process that
// stood still finds what was done in time.
func (w *Worker) Ends(ctx context.Context) bool {
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	return IsClosed(w.done)
}

// Stop ends the worker's context and returns once its goroutine has. It may be
// called often, and from many goroutines, but not by the worker itself.
func (w *Worker) Stop() {
	w.cancel()
	<-w.done
}

// StopWithin is Stop, for no longer than a time.
func (w *Worker) StopWithin(timeout time.Duration) {
	w.cancel()
	select {
	case <-w.done:
	case <-time.After(timeout):
	}
}

// Poke puts a token into a channel that holds one, if there is none.
func Poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// IsClosed reports whether a channel that carries nothing was closed.
func IsClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// Later returns the later of two moments.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Sleep waits for d, and reports whether it did so before ctx ended.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
