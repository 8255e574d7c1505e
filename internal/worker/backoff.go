package worker

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// BackoffFirst is the shortest wait between two attempts.
	BackoffFirst = 100 * time.Millisecond

	// BackoffMax is the longest wait of a Backoff that sets no other. Two seconds
	// leave three for the attempt itself, in the promise that all is well again
	// five seconds after etcd answers.
	BackoffMax = 2 * time.Second
)

// A Backoff is the wait before the next attempt. It doubles with jitter, so that
// a fleet that lost etcd at one moment does not come back at one moment. Its
// zero value waits between BackoffFirst and BackoffMax.
type Backoff struct {
	First time.Duration // the first wait, BackoffFirst if it is zero
	Max   time.Duration // the longest wait, BackoffMax if it is zero
	last  time.Duration // the wait before jitter
}

// Next returns how long to wait now: twice as long each time, between half and
// all of it at random.
func (b *Backoff) Next() time.Duration {
	first, most := b.First, b.Max
	if first <= 0 {
		first = BackoffFirst
	}
	if most <= 0 {
		most = BackoffMax
	}
	b.last = min(max(2*b.last, 2*first), most)
	return b.last/2 + rand.N(b.last/2+1)
}

// Wait sleeps for that long, and reports whether ctx still lives.
func (b *Backoff) Wait(ctx context.Context) bool { return Sleep(ctx, b.Next()) }

// Reset starts over after a success.
func (b *Backoff) Reset() { b.last = 0 }
