package registration

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/lease"
	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// acquireJitter spreads the first attempts of registrations that lost their
	// leases together. It is short: a lost lease has to be replaced within a
	// second of the heartbeat that found it lost.
	acquireJitter = 250 * time.Millisecond

	// refusedMax is the longest wait before a registration that etcd refuses is
	// tried again. A refused write costs etcd as much as one that is not: with ten
	// thousand clients that is a thousand a second.
	refusedMax = 10 * time.Second
)

// registration is the life of one registered key. It acquires a lease and puts
// the key under it, holds both, and acquires them again when they are lost. At
// the end it releases them, whoever ended it. What etcd granted or took is kept
// from one attempt to the next.
type registration struct {
	book   *Book
	worker *worker.Worker
	wake   chan struct{} // holds one token when there is a request

	mu       sync.Mutex // guards all below
	requests []*request // that were not begun
	ending   bool
	cause    error  // why it is ended
	removal  uint64 // the call of Deregister that ends it
	forsaken bool   // the end leaves the lease to run out

	released error              // what the release came to, once the worker is done
	left     []clientv3.LeaseID // that the release could not revoke
	before   *registration      // of the same key and client, that was ending when this one began

	claim claim // of the key, guarded by process

	// All below belongs to the goroutine of run, but for leases.id. Once the worker
	// is done, others read key.sent and losers.
	want     *Service // what is to be registered, nil before it is known
	observe  Observer // hears of every change, with why the key is not registered
	takeOver bool     // also from another owner, until the key was put once
	told     error    // what the observer heard last
	known    bool     // it heard anything
	missing  bool     // a loss was counted, and no return yet
	doubtful bool     // the key has to be read: its watch may have missed something
	key      key
	leases   leases
	losers   []*registration // of other clients, that had the key before and may not be over
}

// run is the life of a registration. It ends with ctx, or when the one request
// that it was begun for has failed.
func (r *registration) run(ctx context.Context) {
	growStack()
	defer r.release(ctx)
	for wait := time.Duration(0); r.acquire(ctx, wait); {
		wait = r.hold(ctx)
	}
}

// acquire registers what is wanted, however long it takes. It reports false when
// there is nothing to register, or ctx ended.
func (r *registration) acquire(ctx context.Context, wait time.Duration) bool {
	retry := worker.Backoff{Max: refusedMax}
	for ; ; wait = retry.Next() {
		if !r.pause(ctx, wait) {
			return false
		}
		req := r.next()
		switch {
		case req != nil && r.serve(ctx, req) == nil:
			return true
		case req == nil && r.want != nil && r.attempt(ctx, *r.want, r.tell) == nil:
			r.registered()
			return true
		case r.want == nil && !r.busy():
			return false
		}
	}
}

// pause waits for a while, or until there is a request. It reports whether ctx
// still lives.
func (r *registration) pause(ctx context.Context, wait time.Duration) bool {
	if wait > 0 && !r.busy() {
		select {
		case <-time.After(wait):
		case <-r.wake:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}

// serve serves a call of Register. If it fails, what was registered before stays.
// If the call is kept, its service is what is wanted from now on all the same.
func (r *registration) serve(ctx context.Context, req *request) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !req.take(cancel) {
		return errOvertaken
	}
	report := req.waits
	stands := r.stands(req)
	if req.keep && !stands {
		r.adopt(req)
		report = func(why error) {
			req.waits(why)
			r.tell(why)
		}
	}
	process.serve(r, req.call, r.book.conn.Plain())
	takesOver := r.takeOver
	r.takeOver = true
	err := r.attempt(ctx, req.service, report)
	switch {
	case err == nil:
		if !req.keep {
			r.adopt(req)
		}
		r.registered()
		r.book.noteLatest(r)
	case !req.keep, stands:
		r.takeOver = takesOver
		if r.leases.held != nil {
			r.leases.giveUpNext()
		}
	}
	if err != nil && r.over() && !errors.Is(err, errElsewhere) {
		err = errOvertaken
	}
	if err != nil && r.want == nil {
		r.giveUp()
	}
	req.reply <- err
	runtime.Gosched() // the caller first
	return err
}

// stands reports whether the observer of what is registered asks for the same once
// more.
func (r *registration) stands(req *request) bool {
	return r.leases.held != nil && r.known && r.told == nil &&
		req.observe.Hear != nil && req.observe.Who == r.observe.Who && req.service == *r.want
}

// adopt makes a request what is wanted, and tells who wanted something before.
func (r *registration) adopt(req *request) {
	if req.observe.Hear != nil && req.observe.Who != r.observe.Who {
		if r.observe.Hear != nil {
			r.tell(errReplaced)
		}
		r.observe = req.observe
		r.known = false
	}
	service := req.service
	r.want = &service
}

// registered tells that all is well, or that another owner has the key. The first
// is news each time.
func (r *registration) registered() {
	if r.key.trouble != nil {
		r.tell(r.key.trouble)
	} else {
		r.pass(nil)
	}
}

// hold lives with the key registered, until its lease is lost, a request failed,
// or ctx ends. It returns how long to wait then.
func (r *registration) hold(ctx context.Context) time.Duration {
	if r.key.watch == nil && !r.doubtful && !r.key.isBlind() {
		r.key.follow(ctx)
	}
	for {
		r.leases.held.Expect(r.key.watch == nil || r.key.trouble != nil || r.told != nil)
		select {
		case b := <-r.leases.news():
			if b.Lost {
				r.lost()
				return rand.N(acquireJitter)
			}
			r.beat(ctx, b)
		case <-r.key.news():
			r.followed(r.key.watch.Take())
		case <-r.wake:
			for req := r.next(); req != nil; req = r.next() {
				if r.serve(ctx, req) != nil && req.keep && r.told != nil {
					return worker.BackoffFirst
				}
			}
		case <-ctx.Done():
			return 0
		}
		if r.leases.held == nil { // found lost by a request
			return 0
		}
	}
}

// lost notes that etcd knows the lease no more. The key went with it, unless it
// is another owner's, which is what stands in the way then. A lease that etcd has
// refused to renew was lost for that: the next attempt tells whether it still does.
func (r *registration) lost() {
	r.leases.lose(r.leases.held)
	r.key.unfollow()
	r.key.found, r.doubtful = version{}, false
	if r.told != ErrKeyTaken && !etcd.Refused(r.told) {
		r.tell(errLeaseLost)
	}
}

// beat acts on what is new of the heartbeat. When it was answered a key that
// went away is put back: not before, since it may have gone with its lease.
func (r *registration) beat(ctx context.Context, b lease.Beat) {
	switch {
	case b.Silent:
		r.tell(unconfirmed(b.Err))
		return
	case b.Err != nil:
		r.tell(etcd.Explain(b.Err))
		return
	}
	if b.Resumed {
		r.key.blind = time.Time{}
	}
	if r.doubtful {
		if err := r.key.check(etcd.WithReport(ctx, r.tell), r.judge); err != nil && !r.key.isBlind() {
			return
		}
		r.doubtful = r.key.isBlind()
	}
	if r.key.watch == nil && !r.key.isBlind() {
		r.key.follow(ctx)
	}
	if r.told == nil || r.told == ErrInDoubt || r.key.trouble == nil || r.key.trouble == ErrKeyTaken {
		r.tell(r.key.trouble)
	}
	if r.key.trouble == errKeyDeleted || r.key.trouble == errKeyChanged {
		if r.attempt(ctx, *r.want, r.tell) == nil { // else the next heartbeat tries again
			r.registered()
		}
	}
}

// judge returns what is wrong with the key as it was found; nil means gone.
func (r *registration) judge(kv *mvccpb.KeyValue) error {
	switch {
	case kv == nil:
		return errKeyDeleted
	case kv.Lease == r.leases.id.Load() && string(kv.Value) == r.want.Value:
		return nil
	case r.knows(kv.Lease):
		return errKeyChanged
	}
	return ErrKeyTaken
}

// followed notes what the watch brought. The next heartbeat acts on it.
func (r *registration) followed(b feed.Batch) {
	r.key.changed(b.Events, r.judge)
	if r.told == nil && r.key.trouble != nil {
		r.tell(ErrInDoubt)
	}
	if b.Err == nil {
		return
	}
	r.key.unfollow()
	r.doubtful = r.doubtful || errors.Is(b.Err, feed.ErrAnotherHistory) || errors.Is(b.Err, rpctypes.ErrCompacted)
	r.key.refused(b.Err)
}

// release gives the leases back, on a context that outlives ctx. That deletes the
// key if it is still under one of the leases, and no other owner's key.
func (r *registration) release(ctx context.Context) {
	defer r.key.unfollow() // the revoke first: somebody waits for it
	removal, forsaken, cause := r.close()
	process.drop(r)
	r.endElsewhere(process.removed(r, removal))
	first, then := r.leases.end(r.key.loose.lease)
	r.tell(cause)
	if !forsaken {
		ctx, cancel := r.book.atTheEnd(ctx)
		defer cancel()
		r.released = errors.Join(r.book.revoke(ctx, first), r.book.revoke(ctx, then))
	}
	if forsaken || r.released != nil {
		r.left = append(first, then...)
	}
}

// growStack makes the stack of a goroutine as deep as a request of grpc needs,
// at once. Growing by itself it is copied three times, which is a twentieth of
// the time of a Register. The garbage collector shrinks it again.
//
//go:noinline
func growStack() byte {
	var deep [12 << 10]byte
	return last(deep[:])
}

//go:noinline
func last(b []byte) byte { return b[len(b)-1] }
