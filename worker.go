package etcdv3

import (
	"context"
	"time"

	"github.com/go-kit/kit/util/conn"
)

// A worker is one goroutine that has an owner. It is the only way in which
// this package starts one, but for what a timer sets off: who starts a worker
// stops it.
type worker struct {
	cancel context.CancelFunc
	done   chan struct{} // closed once the goroutine has returned
}

// start runs life until it returns; the context that it gets ends with ctx,
// and by stop.
func start(ctx context.Context, life func(context.Context)) *worker {
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer cancel()
		life(ctx)
	}()
	return w
}

// stop ends the worker's context and returns once its goroutine has. It may be
// called often, and from many goroutines, but not by the worker itself.
func (w *worker) stop() {
	w.cancel()
	<-w.done
}

// stopWithin is stop, for no longer than a time.
func (w *worker) stopWithin(timeout time.Duration) {
	w.cancel()
	select {
	case <-w.done:
	case <-time.After(timeout):
	}
}

// growStack makes the stack of a goroutine as deep as a request of grpc needs,
// at once: growing by itself it is copied three times, which is a twentieth of
// the time of a Register. The garbage collector shrinks it again.
//
//go:noinline
func growStack() byte {
	var deep [12 << 10]byte
	return last(deep[:])
}

//go:noinline
func last(b []byte) byte { return b[len(b)-1] }

// poke puts a token into a channel that holds one, if there is none.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sleep waits for d, and reports whether it did so before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

const (
	// backoffFirst and backoffMax bound the wait between attempts. Two
	// seconds at most leave three for the attempt itself in the promise that
	// all is well again five seconds after etcd answers.
	backoffFirst = 100 * time.Millisecond
	backoffMax   = 2 * time.Second
)

// backoff is the wait before the next attempt: it doubles with jitter, so that
// a fleet that lost etcd at one moment does not come back at one moment.
type backoff struct{ last time.Duration }

// next returns how long to wait now: longer each time.
func (b *backoff) next() time.Duration {
	// Exponential returns its argument times one to three.
	b.last = conn.Exponential(min(max(b.last, backoffFirst), backoffMax/3))
	return b.last
}

// wait sleeps for that long, and reports whether ctx still lives.
func (b *backoff) wait(ctx context.Context) bool { return sleep(ctx, b.next()) }

// reset starts over after a success.
func (b *backoff) reset() { b.last = 0 }
