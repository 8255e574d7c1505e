package etcd

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/meter"
)

const (
	// A client begins with inFlightFirst turns at a time. A hundred clients send 800
	// grants then. With 20 each, etcd was seen to grant leases for a second, and to
	// take no key meanwhile. etcd lets 5,000 writes wait.
	inFlightFirst = 8
	inFlightLeast = 4
	inFlightMost  = 256

	// If an answer takes no more than growWithin times the fastest lately, more
	// turns are let in. They become half as many again in the time of an
	// answer.
	growWithin = 1.4
	growBy     = 0.5

	// The fastest answer counts for fastestFor. A limit that grows with an etcd that
	// gets slower would have no end.
	fastestFor = time.Minute
)

// Queue is where work waits until etcd has answered what went before. A turn is
// one piece of work, such as a lease and the key under it. Turns come in order,
// and as many at a time as etcd answers without taking longer. Who waits here
// costs etcd nothing.
type Queue struct {
	metrics *meter.Metrics
	reasons *reasons

	mu      sync.Mutex // guards all below
	limit   float64
	inside  int
	waiting *list.List    // of chan struct{}, each closed when its turn has come
	fastest time.Duration // answer lately
	since   time.Time     // when that was, zero before the first
}

func newQueue(m *meter.Metrics, r *reasons) *Queue {
	return &Queue{metrics: m, reasons: r, limit: inFlightFirst, waiting: list.New()}
}

// Enter waits for a turn as long as ctx lives, and returns what ends it. The report
// of ctx hears why those who have a turn wait: see WithReport.
func (q *Queue) Enter(ctx context.Context) (leave func(), err error) {
	q.mu.Lock()
	if q.waiting.Len() == 0 && float64(q.inside) < q.limit {
		q.inside++
		q.mu.Unlock()
		return q.leave, nil
	}
	turn := make(chan struct{})
	place := q.waiting.PushBack(turn)
	q.mu.Unlock()
	meter.Add(q.metrics.RequestsWaiting, 1)
	defer meter.Add(q.metrics.RequestsWaiting, -1)
	if q.reasons.follow(ctx, turn) {
		return q.leave, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-turn: // it has come meanwhile, and goes to the next one
		q.inside--
		q.admit()
	default:
		q.waiting.Remove(place)
	}
	return nil, ctx.Err()
}

func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inside--
	q.admit()
}

// admit lets in who is next, as far as there is room. q.mu is held.
func (q *Queue) admit() {
	for next := q.waiting.Front(); next != nil && float64(q.inside) < q.limit; next = q.waiting.Front() {
		q.waiting.Remove(next)
		q.inside++
		close(next.Value.(chan struct{}))
	}
}

// answered notes how long an answer took, and lets more in if there is time.
func (q *Queue) answered(took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); took < q.fastest || now.Sub(q.since) > fastestFor {
		q.fastest, q.since = took, now
	}
	if q.waiting.Len() > 0 && float64(took) <= growWithin*float64(q.fastest) {
		q.limit = min(q.limit+growBy, inFlightMost)
		q.admit()
	}
}

// refused notes that etcd has too much to do.
func (q *Queue) refused() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = max(q.limit/2, inFlightLeast)
}
