// Package lease takes leases, renews all of a client on one stream, each at its
// own heartbeat, and tells their owners what is news. It knows no key.
//
// A lease whose beats are not answered is not lost yet: only etcd knows. The
// stream is then opened anew, at another member if there is one, as long as it
// takes. What the first answer there says is the truth.
package lease

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// The wait before the next stream grows to the shortest heartbeat, or to
	// reopenMax if that is shorter. A lost stream then costs a lease one beat. A
	// client whose streams do not last asks etcd hardly more than by its heartbeats.
	reopenMax = worker.BackoffMax

	// A client that somebody else dialled authenticates at each stream. If etcd has
	// refused its user, the next stream waits for refusedFirst, and then twice as
	// long each time, up to refusedMax. Our own clients cache the refusal instead.
	refusedFirst = time.Second
	refusedMax   = time.Minute

	// idle is how long to sleep when nothing is due. Whatever comes up wakes.
	idle = time.Hour
)

// moment is a time, as it has passed since the keeper began.
type moment = time.Duration

// Keeper keeps all leases of a client alive, each at its own heartbeat, on one
// stream. It is safe for concurrent use.
type Keeper struct {
	conn   *etcd.Conn
	began  time.Time
	wake   chan struct{} // holds one token after a beat became due earlier
	hark   chan struct{} // holds one token after there may be more to tell
	worker *worker.Worker

	// All of them belong to run.
	reopen  worker.Backoff
	refused worker.Backoff
	past    *etcd.Route // of the last stream: the next one leads to another member

	mu       sync.Mutex // guards all below
	leases   map[clientv3.LeaseID]*Lease
	look     moment // when the next beat is due
	listen   moment // when a lease falls silent next
	reason   error  // why no beat is answered, nil if that is not known
	refusals int    // of streams, since a beat was answered last
	pulse    pulse
	room     int // how many beats may wait for their answers
	aside    aside
}

// New returns a keeper without leases, which lives until Close.
func New(conn *etcd.Conn) *Keeper {
	k := &Keeper{
		conn: conn, began: time.Now(),
		wake: make(chan struct{}, 1), hark: make(chan struct{}, 1),
		leases: map[clientv3.LeaseID]*Lease{}, room: atOnce, aside: aside{wake: make(chan struct{}, 1)},
		refused: worker.Backoff{First: refusedFirst, Max: refusedMax},
	}
	k.worker = worker.Start(context.Background(), k.run)
	return k
}

// Close ends all renewals, and returns when nothing of the keeper is left.
func (k *Keeper) Close() { k.worker.Stop() }

func (k *Keeper) now() moment { return time.Since(k.began) }

// run is the life of a keeper: it opens the stream, again and again, while there
// are leases.
func (k *Keeper) run(ctx context.Context) {
	if !k.needed(ctx) {
		return
	}
	defer worker.Start(ctx, k.tellSilent).Stop()
	defer k.stopAside()
	for k.needed(ctx) {
		if end := k.session(ctx); !k.wait(ctx, end) {
			return
		}
	}
}

// needed waits until there is a lease, and reports false when ctx ended.
func (k *Keeper) needed(ctx context.Context) bool {
	for ctx.Err() == nil {
		k.mu.Lock()
		n := len(k.leases)
		k.look = math.MaxInt64 // whatever comes wakes
		k.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-k.wake:
		case <-ctx.Done():
		}
	}
	return false
}

// end is how a stream has ended.
type end struct {
	err      error
	lease    bool          // etcd refused one lease, which was taken off
	answered bool          // a beat was answered on it
	lived    time.Duration // until the last answer
}

// session is the life of one stream.
func (k *Keeper) session(ctx context.Context) end {
	s, err := k.open(ctx, k.past)
	if err != nil {
		k.unopened(err)
		return end{err: err}
	}
	k.past = s.route
	began := k.now()
	e := end{err: s.renew(ctx)}
	s.close()
	e.lived, e.answered = s.lastHeard(began)
	switch {
	case ctx.Err() != nil:
	case k.isRefusal(s, e.err):
		e.lease = true
		k.startAside(ctx)
	default:
		k.lost(s, e.err)
	}
	return e
}

// wait waits after a stream has ended, as its end demands, and reports whether
// ctx still lives.
func (k *Keeper) wait(ctx context.Context, e end) bool {
	shortest, longest := k.heartbeats()
	if e.answered {
		k.refused.Reset()
	}
	if e.lived >= longest || e.answered && etcd.TokenRefused(e.err) { // a token that has expired
		k.reopen.Reset()
	}
	switch {
	case ctx.Err() != nil:
		return false
	case e.lease: // which is off the stream, and cannot end the next one
		return true
	case etcd.Refused(e.err) && k.conn.Client.Username != "":
		return k.refused.Wait(ctx)
	}
	k.reopen.Max = shortest
	if e.answered && e.lived < longest { // the connection comes back at once, and may break as soon
		return k.reopen.Wait(ctx)
	}
	return k.conn.Wait(ctx, e.err, &k.reopen)
}

// heartbeats returns the shortest and the longest heartbeat. A stream that lived
// for the longest has renewed every lease, so that the back-off starts over. So it
// does where tokens do not live for as long.
func (k *Keeper) heartbeats() (shortest, longest time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	shortest = reopenMax
	for _, l := range k.leases {
		shortest, longest = min(shortest, l.every), max(longest, l.every)
	}
	return shortest, longest
}
