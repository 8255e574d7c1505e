package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Register implements Client.
func (c *client) Register(s Service) error { return c.registerObserved(c.ctx, s, nil) }

// registerObserved is Register, as long as ctx lives, with an observer that
// hears of all that becomes of the registration, in order: nil, and the lease,
// when the service is registered, else why it is not.
func (c *client) registerObserved(ctx context.Context, s Service, observe func(err error, lease int64)) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("register %q: %w", s.Key, c.reason(err))
	}
	req := request{ctx: ctx, service: s, observe: observe, deadline: time.Now().Add(c.timeout), reply: make(chan error, 1)}
	for {
		r, err := c.registration(req)
		if errors.Is(err, errEnded) {
			continue // with another registration: this one ended before it took the request
		}
		if err != nil {
			return fmt.Errorf("register %q: %w", s.Key, c.reason(c.link.explain(err)))
		}
		c.mu.Lock()
		c.latest = r
		c.mu.Unlock()
		return nil
	}
}

// registration hands a call of Register to the registration of its key, which
// it starts if there is none, and waits for the outcome.
func (c *client) registration(req request) (*registration, error) {
	c.mu.Lock()
	if c.closed || c.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, errClosed
	}
	r := c.registrations[req.service.Key]
	known := r != nil
	if !known {
		r = newRegistration(c, req.service.Key)
		r.inherit(c.former[r.key])
		r.worker = start(c.ctx, func(ctx context.Context) {
			r.run(ctx, req)
			c.forget(r)
		})
		c.registrations[r.key] = r
	}
	c.mu.Unlock()
	if known {
		return r, r.register(req)
	}
	return r, <-req.reply
}

// forget notes that a registration has ended. Its key stays known: a second
// Deregister must not take it for somebody else's, nor delete it as it is.
func (c *client) forget(r *registration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.registrations[r.key] != r {
		return
	}
	delete(c.registrations, r.key)
	if len(r.owned.leases) > 0 { // else it was never put
		c.former[r.key] = r.orphans
	}
	if c.latest == r {
		c.latest = nil
	}
}

// Deregister implements Client.
func (c *client) Deregister(s Service) error {
	if s.Key == "" {
		return ErrNoKey
	}
	if s.DeleteOptions != nil && s.DeleteOptions.PrevIndex > math.MaxInt64 {
		return fmt.Errorf("deregister %q: DeleteOptions.PrevIndex %d is no revision: they end at %d", s.Key, s.DeleteOptions.PrevIndex, int64(math.MaxInt64))
	}
	if err := c.deregister(s); err != nil {
		return fmt.Errorf("deregister %q: %w", s.Key, c.reason(c.link.explain(err)))
	}
	return nil
}

func (c *client) deregister(s Service) error {
	ctx, cancel := c.last(c.ctx, c.timeout-c.grace()) // a Register may have to end first
	defer cancel()
	c.mu.Lock()
	r := c.registrations[s.Key]
	left, ours := c.former[s.Key]
	c.mu.Unlock()
	if s.DeleteOptions.guarded() {
		if err := c.compare(ctx, s, r, ours); err != nil {
			return err
		}
	}
	var below []*registration
	if s.DeleteOptions.recursive() {
		below = c.endBelow(s.Key)
	}
	var err error
	put := false // by the registration, which takes back what it put
	if r != nil {
		err = r.end(ctx)
		put = err != nil || len(r.owned.leases) > 0
	}
	switch {
	case put:
	case ours:
		_, err = c.revokeAll(ctx, left)
	case !s.DeleteOptions.guarded():
		err = c.delete(ctx, s.Key)
	}
	for _, r := range below {
		err = errors.Join(err, r.end(ctx))
	}
	if s.DeleteOptions.recursive() {
		err = errors.Join(err, c.delete(ctx, s.Key+"/", clientv3.WithPrefix()))
	}
	return err
}

// endBelow begins to end what this client has registered under key + "/".
func (c *client) endBelow(key string) (below []*registration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for other, r := range c.registrations {
		if strings.HasPrefix(other, key+"/") {
			r.worker.cancel()
			below = append(below, r)
		}
	}
	return below
}

// compare checks the guards of a Deregister, and deletes the key if they hold
// and this client has never registered it: what it has registered is left to
// the lease, which does not delete what another owner put. If they fail, a
// registration that still has the key lives on, and one whose key is another
// owner's ends, so that it cannot come back.
func (c *client) compare(ctx context.Context, s Service, r *registration, ours bool) error {
	guards := []clientv3.Cmp{}
	if s.DeleteOptions.PrevValue != "" {
		guards = append(guards, clientv3.Compare(clientv3.Value(s.Key), "=", s.DeleteOptions.PrevValue))
	}
	if s.DeleteOptions.PrevIndex != 0 {
		guards = append(guards, clientv3.Compare(clientv3.ModRevision(s.Key), "=", int64(s.DeleteOptions.PrevIndex)))
	}
	get := clientv3.OpGet(s.Key)
	then := clientv3.OpDelete(s.Key)
	if r != nil || ours {
		then = get
	}
	resp, err := c.commit(ctx, guards, then, get)
	if err != nil {
		if r != nil { // leave the lease, and so the key, to run out
			r.forsake.Store(true)
			_ = r.end(ctx)
		}
		return err
	}
	if resp.Succeeded {
		return nil
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return nil // a key that is not there is no error
	}
	if r != nil && (kvs[0].Lease == 0 || kvs[0].Lease != r.lease.Load()) {
		_ = r.end(ctx)
	}
	return fmt.Errorf("%w: the key has value %q and mod revision %d", ErrCompareFailed, kvs[0].Value, kvs[0].ModRevision)
}
