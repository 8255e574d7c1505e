package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// tenure is one lease for as long as it is held.
type tenure struct {
	id      clientv3.LeaseID
	asked   int64       // the TTL that was asked for, in seconds
	beats   <-chan beat // what is news of it
	expects bool        // that every answer is
}

// set puts the key for a call of Register, whoever held it before: under the
// lease that is held if it has the TTL that is asked for, else under a new
// one. A key that is there stays there all the time.
func (r *registration) set(ctx context.Context, req request) error {
	every, ttl := req.service.TTL.timing()
	t := r.tenure
	if t == nil || t.asked != ttl {
		var err error
		if t, err = r.grant(ctx, every, ttl); err != nil {
			return err
		}
	}
	revision, err := r.client.put(ctx, req.service, t.id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) && t == r.tenure { // lost since its last beat
		if t, err = r.grant(ctx, every, ttl); err != nil {
			return err
		}
		revision, err = r.client.put(ctx, req.service, t.id)
	}
	if err != nil {
		if t != r.tenure {
			r.disown(ctx, t)
		}
		return err
	}
	if r.tenure != nil && t != r.tenure {
		r.giveBack(ctx, r.tenure)
	}
	r.client.heartbeat.alive(t.id, every)
	r.tenure, r.service = t, req.service
	r.lease.Store(int64(t.id))
	if req.observe != nil {
		r.tell(errReplaced)
		r.observe = req.observe
	}
	r.owned.put(revision)
	r.told = errEnded // so that it is news
	r.tell(nil)
	return nil
}

// reacquire is one attempt to register again, and reports whether there is
// something to hold: the key, or a lease for it while another owner has it.
func (r *registration) reacquire(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, r.client.timeout)
	defer cancel()
	every, ttl := r.service.TTL.timing()
	if r.tenure == nil {
		t, err := r.grant(ctx, every, ttl)
		if err != nil {
			return false
		}
		r.tenure = t
		r.lease.Store(int64(t.id))
	}
	err := r.claim(ctx)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		r.lost()
	}
	if err != nil {
		return false
	}
	if r.owned.trouble == nil { // the lease has just been used
		r.client.heartbeat.alive(r.tenure.id, every)
	}
	r.tell(r.owned.trouble)
	return true
}

// lost notes that etcd knows the lease no more.
func (r *registration) lost() {
	r.client.heartbeat.drop(r.tenure.id)
	r.tenure = nil
	r.lease.Store(0)
	r.unwatchKey()
	r.tell(errLeaseLost)
}

// grant takes a lease, and keeps it alive from now on.
func (r *registration) grant(ctx context.Context, every time.Duration, ttl int64) (*tenure, error) {
	if r.wanted == nil || r.wanted.ttl != ttl {
		r.abandon()
		r.wanted = r.client.newWanted(ttl)
	}
	lease, err := r.client.grant(ctx, r.wanted)
	if err == nil || !passes(err) {
		r.wanted = nil
	}
	if err != nil {
		return nil, fmt.Errorf("grant a lease of %d s: %w", ttl, err)
	}
	t := &tenure{id: lease.id, asked: ttl}
	t.beats = r.client.heartbeat.keep(t.id, every, time.Duration(lease.ttl)*time.Second)
	r.owned.add(t.id)
	return t, nil
}

// abandon asks for the lease that is wanted no more.
func (r *registration) abandon() {
	if r.wanted != nil && r.wanted.sent.Load() {
		r.orphans = append(r.orphans, r.wanted.id)
	}
	r.wanted = nil
}

// inherit takes over what the key's last registration could not revoke: it may
// be put under one of these yet, by a request that arrives late.
func (r *registration) inherit(leases []clientv3.LeaseID) {
	for _, id := range leases[max(0, len(leases)-leasesKept):] {
		r.owned.add(id)
		r.orphans = append(r.orphans, id)
	}
}

// disown gives up a lease that the key could not be put under, as far as is
// known. If another one is held, it has to have the key first: see tidy.
func (r *registration) disown(ctx context.Context, t *tenure) {
	if r.tenure == nil {
		r.giveBack(ctx, t)
		return
	}
	r.client.heartbeat.drop(t.id)
	r.orphans = append(r.orphans, t.id)
}

// giveBack revokes a lease that is not to be held, now or later.
func (r *registration) giveBack(ctx context.Context, t *tenure) {
	r.client.heartbeat.drop(t.id)
	ctx, cancel := context.WithTimeout(ctx, r.client.timeout/4)
	defer cancel()
	if r.client.revoke(ctx, t.id) != nil {
		r.orphans = append(r.orphans, t.id)
	}
}

// untidy reports whether there are leases to revoke, or there may be.
func (r *registration) untidy() bool { return r.wanted != nil || len(r.orphans) > 0 }

// tidy revokes leases that are not to be held, once the key is not under them.
func (r *registration) tidy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.client.timeout)
	defer cancel()
	r.abandon()
	if len(r.orphans) > 0 && r.claim(ctx) == nil {
		r.orphans, _ = r.client.revokeAll(ctx, r.orphans)
	}
}
