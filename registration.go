package etcdv3

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// registration is the life of one registered key: it acquires a lease and puts
// the key under it, holds both, acquires them again when they are lost, and
// releases them at the end, whoever ended it.
type registration struct {
	client   *client
	key      string
	worker   *worker
	requests chan request
	lease    atomic.Int64 // the lease that is held, 0 if none is; run alone writes it
	forsake  atomic.Bool  // the end leaves the lease to run out
	released error        // what the release came to, once the worker is done

	// All below belongs to the goroutine of run.
	service Service
	observe func(err error, lease int64) // hears of every change, with why the key is not registered
	told    error                        // what observe heard last
	tenure  *tenure                      // the lease that is held, nil if none is
	wanted  *wanted                      // the lease that is asked for, nil if none is
	orphans []clientv3.LeaseID           // leases that could not be revoked yet
	owned   ownership                    // what became of the key since it was put
}

func newRegistration(c *client, key string) *registration {
	return &registration{client: c, key: key, requests: make(chan request)}
}

// request is one call of Register for the key.
type request struct {
	ctx      context.Context // of the call
	service  Service
	observe  func(err error, lease int64)
	deadline time.Time
	reply    chan error // buffered
}

// acquireJitter spreads the first attempt of many registrations that lost
// their leases at one moment. A lease that is lost between two heartbeats is
// registered again within a second after the next.
const acquireJitter = 250 * time.Millisecond

// run is the life of a registration, from the call of Register that it begins
// with. It ends with ctx, or at once if that call fails.
func (r *registration) run(ctx context.Context, first request) {
	defer r.release(ctx)
	growStack()
	for held := r.serve(ctx, first); held; held = r.acquire(ctx) {
		r.hold(ctx)
	}
}

// register hands a further call of Register to run, and waits for the outcome.
func (r *registration) register(req request) error {
	timeout := time.NewTimer(time.Until(req.deadline))
	defer timeout.Stop()
	select {
	case r.requests <- req:
	case <-timeout.C:
		return context.DeadlineExceeded
	case <-req.ctx.Done():
		return req.ctx.Err()
	case <-r.worker.done:
		return errEnded
	}
	return <-req.reply // run answers every request that it takes, by its deadline
}

// hold lives with the key registered, until its lease is lost or ctx ends.
func (r *registration) hold(ctx context.Context) {
	if r.owned.watch == nil {
		r.watchKey(ctx)
	}
	for {
		r.expect()
		select {
		case b := <-r.tenure.beats:
			switch {
			case b.lost:
				r.lost()
				return
			case b.silent:
				if b.resumed {
					r.unwatchKey() // as in confirmed, at the next answer
				}
				r.tell(errUnconfirmed)
			default:
				r.confirmed(ctx, b)
			}
		case c := <-r.owned.changes():
			r.keyChanged(c)
		case req := <-r.requests:
			r.serve(ctx, req)
		case <-ctx.Done():
			return
		}
	}
}

// acquire registers the lost key again, however long it takes. It reports
// false when ctx ended. A call of Register meanwhile is served at once.
func (r *registration) acquire(ctx context.Context) bool {
	var retry backoff
	for wait := rand.N(acquireJitter); ; wait = retry.next() {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			if r.reacquire(ctx) {
				return true
			}
		case req := <-r.requests:
			timer.Stop()
			if r.serve(ctx, req) {
				return true
			}
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// release gives the lease back, on a context that outlives the one that ended.
// That deletes the key if it is still under the lease, and no other's key.
func (r *registration) release(ctx context.Context) {
	defer r.unwatchKey()
	r.tell(errReleased)
	defer r.lease.Store(0)
	r.abandon()
	if r.tenure != nil {
		r.orphans = slices.Insert(r.orphans, 0, r.tenure.id)
		r.client.heartbeat.drop(r.tenure.id)
	}
	if r.forsake.Load() {
		return
	}
	ctx, cancel := r.client.last(ctx, r.client.timeout-2*r.client.grace()) // a Deregister waits for it
	defer cancel()
	r.orphans, r.released = r.client.revokeAll(ctx, r.orphans)
}

// end ends the registration, and returns what its release came to, or that ctx
// ended before: then the release goes on for no longer than its own timeout.
func (r *registration) end(ctx context.Context) error {
	r.worker.cancel()
	select {
	case <-r.worker.done:
		return r.released
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serve serves a call of Register, and reports whether it succeeded. If not,
// what was registered before stays.
func (r *registration) serve(ctx context.Context, req request) bool {
	if ctx.Err() != nil {
		req.reply <- errEnded
		return false
	}
	bounded, cancel := context.WithDeadline(ctx, req.deadline)
	defer cancel()
	defer context.AfterFunc(req.ctx, cancel)()
	err := r.set(bounded, req)
	if err != nil && ctx.Err() != nil {
		err = errOvertaken
	}
	req.reply <- err
	return err == nil
}

// expect has the heartbeat tell of every answer while there is something to do
// at the next one, or to take back.
func (r *registration) expect() {
	wanted := r.owned.watch == nil || r.owned.trouble != nil || r.told != nil || r.untidy()
	if wanted != r.tenure.expects {
		r.tenure.expects = wanted
		r.client.heartbeat.expect(r.tenure.id, wanted)
	}
}

// confirmed acts on a heartbeat that was answered: this is when a key that
// went away is put back.
func (r *registration) confirmed(ctx context.Context, b beat) {
	if b.resumed {
		// It may be another store that answers now: one with our lease in it,
		// but with an older revision, where the watch would see nothing.
		r.unwatchKey()
	}
	if r.owned.watch == nil && r.checkKey(ctx) {
		r.watchKey(ctx)
	}
	if r.owned.trouble == errKeyDeleted || r.owned.trouble == errKeyChanged {
		ctx, cancel := context.WithTimeout(ctx, r.client.timeout)
		defer cancel()
		_ = r.claim(ctx) // what it does not mend, the next heartbeat does
	}
	if r.untidy() {
		r.tidy(ctx)
	}
	r.tell(r.owned.trouble)
}

// tell passes on why the key is not registered, nil when it is, if that is news.
func (r *registration) tell(err error) {
	if r.observe != nil && err != r.told {
		r.observe(err, r.lease.Load())
	}
	r.told = err
}
