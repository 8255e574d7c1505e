package lease

import (
	"context"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// A lease that etcd refuses is renewed by itself. The wait before each attempt
	// grows to its heartbeat, or to aloneMax if that is shorter. Each attempt costs
	// etcd a stream. The attempts end with the lease, a TTL after its last renewal.
	aloneMax = 10 * time.Second

	// aloneEvery is the least time from one refusal to the next attempt. A client
	// whose leases are all refused asks etcd ten times a second at most.
	aloneEvery = 100 * time.Millisecond
)

// refusal is what a lease has that etcd refuses to renew. Servers of today check
// on renewal whether the user may write the lease's keys; those of 3.4 do not. If
// the user may not, etcd ends the whole stream.
type refusal struct {
	err   error
	retry worker.Backoff
	next  moment // when to ask again
	alone bool   // the lease is off the stream of the others
}

// isAlone reports whether a lease is renewed by itself. k.mu is held.
func (l *Lease) isAlone() bool { return l.refusal != nil && l.refusal.alone }

// aside renews refused leases, one at a time, beside the stream of the others.
// The keeper's mu guards all but wake.
type aside struct {
	wake    chan struct{}  // holds one token after a lease was refused
	worker  *worker.Worker // nil before the first
	running bool
}

// isRefusal reports whether a stream has ended because etcd refuses one lease,
// and takes that lease off the stream of the others. etcd renews leases in the
// order of their beats, so the refused lease is the one that waits longest.
func (k *Keeper) isRefusal(s *session, err error) bool {
	if !etcd.Refused(err) || etcd.TokenRefused(err) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(s.waiting) == 0 {
		return false
	}
	l := k.leases[s.waiting[0].id]
	if l == nil || !l.asked { // its owner has dropped it
		return false
	}
	for _, b := range s.waiting {
		if l := k.leases[b.id]; l != nil && l.asked {
			l.asked = false
			k.beatAt(l, k.now())
		}
	}
	k.room = carefully
	k.refuse(l, err)
	worker.Poke(k.aside.wake)
	return true
}

// refuse notes that etcd refuses to renew a lease. k.mu is held.
func (k *Keeper) refuse(l *Lease, err error) {
	if l.refusal == nil {
		l.refusal = &refusal{retry: worker.Backoff{Max: min(l.every, aloneMax)}}
	}
	l.refusal.alone, l.refusal.err = true, err
	l.refusal.next = k.now() + l.refusal.retry.Next()
	l.tellErr(l.silent, err)
}

// startAside has refused leases renewed, until there are none.
func (k *Keeper) startAside(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.aside.running {
		k.aside.running = true
		k.aside.worker = worker.Start(ctx, k.renewRefused)
	}
}

func (k *Keeper) stopAside() {
	k.mu.Lock()
	last := k.aside.worker
	k.mu.Unlock()
	if last != nil {
		last.Stop()
	}
}

// renewRefused renews refused leases one at a time, as long as there are any.
func (k *Keeper) renewRefused(ctx context.Context) {
	var retry worker.Backoff
	for ctx.Err() == nil {
		l, wait := k.nextRefused()
		if l == nil {
			return
		}
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-k.aside.wake:
			case <-ctx.Done():
			}
			continue
		}
		ttl, err := k.renewAlone(ctx, l)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			retry.Reset()
			k.answeredAlone(l, ttl)
		case etcd.Refused(err) && !etcd.TokenRefused(err):
			retry.Reset()
			k.refusedAlone(l, err)
			worker.Sleep(ctx, aloneEvery)
		default:
			k.conn.Wait(ctx, err, &retry)
		}
	}
}

// nextRefused returns the refused lease whose turn is next, and how long to wait
// until then, or nil if there is none.
func (k *Keeper) nextRefused() (next *Lease, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.leases {
		if l.isAlone() && (next == nil || l.refusal.next < next.refusal.next) {
			next = l
		}
	}
	if next == nil {
		k.aside.running = false
		return nil, 0
	}
	return next, next.refusal.next - k.now()
}

// renewAlone sends one beat on a stream of its own, and returns the TTL of the
// answer.
func (k *Keeper) renewAlone(ctx context.Context, l *Lease) (ttl int64, err error) {
	s, err := k.open(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer s.close()
	late := time.AfterFunc(k.patience(l), s.route.End) // others wait for their turn
	defer late.Stop()
	s.route.Asked()
	_ = s.stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(l.ID)}) // Recv tells why it failed
	resp, err := s.stream.Recv()
	if err != nil {
		return 0, s.why(err)
	}
	s.route.Heard(false)
	return resp.TTL, nil
}

// answeredAlone has a lease that was refused renewed with the others again.
func (k *Keeper) answeredAlone(l *Lease, ttl int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leases[l.ID] != l {
		return
	}
	l.refusal.alone = false
	if k.renewed(l, ttl) {
		k.beatAt(l, l.after(k.now(), l.every/grid))
	}
}

// refusedAlone notes that a lease was refused again.
func (k *Keeper) refusedAlone(l *Lease, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leases[l.ID] == l {
		k.refuse(l, err)
	}
}
