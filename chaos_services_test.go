package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// service is one key, and the goroutine that registers and deregisters it.
type service struct {
	c         *chaos
	key       string
	slot      int  // of the client that it uses
	registrar bool // through a Registrar, else by Client.Register
	todo      chan func()
	end       func()

	mu      sync.Mutex // guards all below
	wanted  bool       // it was registered last, and not deregistered
	on      *party     // that registered it last
	value   string
	ttl     *TTLOption
	current *Registrar
}

func (c *chaos) newService(key string, slot int, registrar bool) *service {
	s := &service{c: c, key: key, slot: slot, registrar: registrar, todo: make(chan func(), 10_000)}
	s.end = sync.OnceFunc(func() { close(s.todo) })
	c.running.Go(func() {
		for do := range s.todo {
			do()
		}
	})
	return s
}

// stop ends the goroutine, after what is still to do.
func (s *service) stop() { s.end() }

// drain waits until all services have done what they were told.
func (c *chaos) drain() {
	var all sync.WaitGroup
	for _, s := range c.services {
		all.Add(1)
		s.todo <- all.Done
	}
	all.Wait()
}

// register registers the service with a value at the present client of its slot.
func (s *service) register(value string, ttl *TTLOption) {
	p := s.c.party(s.slot)
	service := Service{Key: s.key, Value: value, TTL: ttl}
	if s.registrar {
		s.renew(p, service)
		return
	}
	var err error
	s.call(p, "Client.Register", func() { err = p.client.Register(service) })
	if err != nil { // then what was registered before stays
		s.c.log("%s: %v", s.key, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted, s.on, s.value, s.ttl = true, p, value, ttl
}

// renew registers through a Registrar. A former one that has not succeeded yet
// would go on trying, beside the new one, if it were not deregistered.
func (s *service) renew(p *party, service Service) {
	if s.current != nil && s.wanted && s.current.Err() != nil {
		s.call(s.on, "Registrar.Deregister", s.current.Deregister)
	}
	r := NewRegistrar(p.client, service, nil)
	s.mu.Lock()
	s.wanted, s.on, s.value, s.current = true, p, service.Value, r
	s.mu.Unlock()
	s.call(p, "Registrar.Register", r.Register)
	if err := r.Err(); err != nil {
		s.c.log("%s: %v", s.key, err)
	}
}

// again registers once more what is registered.
func (s *service) again() {
	switch {
	case !s.wanted:
	case s.registrar:
		s.call(s.on, "Registrar.Register", s.current.Register)
	default:
		s.register(s.value, s.ttl)
	}
}

// deregister deregisters the service where it was registered, if it was. A
// guard that fails leaves it registered; then it is deregistered without.
func (s *service) deregister(guarded bool) {
	p := s.on
	if p == nil {
		p = s.c.party(s.slot)
	}
	service := Service{Key: s.key}
	var err error
	switch {
	case s.current != nil:
		s.call(p, "Registrar.Deregister", s.current.Deregister)
	case guarded:
		service.DeleteOptions = &DeleteOptions{PrevValue: s.value}
		s.call(p, "guarded Client.Deregister", func() { err = p.client.Deregister(service) })
		if !errors.Is(err, ErrCompareFailed) {
			break
		}
		service.DeleteOptions = nil
		fallthrough
	default:
		s.call(p, "Client.Deregister", func() { err = p.client.Deregister(service) })
	}
	if err != nil {
		s.c.log("%s: %v", s.key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = false
}

func (s *service) call(p *party, what string, call func()) {
	s.c.call(p.timeout, fmt.Sprintf("%s of %s by %s", what, s.key, p.name), call)
}

// live reports whether the service is to be found in etcd.
func (s *service) live() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted && !s.on.gone()
}

// wrong returns what is wrong about a service, given what its key holds, "" for
// nothing, and who intruded last.
func (s *service) wrong(held string, last *intruder) string {
	live := s.live()
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := held != "" && last != nil && held == last.value && !last.left()
	var err error
	if s.current != nil {
		err = s.current.Err()
	}
	switch {
	case !taken && live && held != s.value:
		return fmt.Sprintf("is registered as %q, and etcd holds %q", s.value, held)
	case !taken && !live && held != "":
		return fmt.Sprintf("is not registered, and etcd holds %q", held)
	case s.current == nil:
	case live && !taken && err != nil:
		return fmt.Sprintf("is registered, and Err is %q", err)
	case (!live || taken) && err == nil:
		return fmt.Sprintf("is not registered, Err is nil, and etcd holds %q", held)
	}
	return ""
}

// intruder is another owner of a service's key.
type intruder struct {
	value string
	leave func() bool // reports whether it has surely left

	mu   sync.Mutex // guards gone
	gone bool
}

func (i *intruder) left() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.gone
}

// remove makes the intruder leave, if it has not left.
func (i *intruder) remove() {
	if i.left() {
		return
	}
	gone := i.leave()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gone = gone
}

// intrude writes a service's key as an owner does that knows nothing of leases.
func (c *chaos) intrude(n int, value string) {
	key := c.services[n].key
	c.intruders[n] = &intruder{value: value, leave: func() bool {
		return c.request("leave", func(ctx context.Context) error {
			_, err := c.admin.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", value)).Then(clientv3.OpDelete(key)).Commit()
			return err
		})
	}}
	c.request("intrude", func(ctx context.Context) error {
		_, err := c.admin.Put(ctx, key, value)
		return err
	})
}

// rival registers a service's key from another client of this package.
func (c *chaos) rival(n int, value string) {
	s := Service{Key: c.services[n].key, Value: value, TTL: NewTTLOption(500*time.Millisecond, 3*time.Second)}
	p := c.party(rivals)
	c.intruders[n] = &intruder{value: value, leave: func() bool {
		c.call(p.timeout, "Client.Deregister of a rival", func() { _ = p.client.Deregister(s) })
		return true // at the latest when the lease ends
	}}
	c.call(p.timeout, "Client.Register of a rival", func() { _ = p.client.Register(s) })
}

// removeIntruders makes the last ones leave.
func (c *chaos) removeIntruders() {
	for _, i := range c.intruders {
		if i != nil {
			i.remove()
		}
	}
}

// request is a request from outside, which may fail while faults are.
func (c *chaos) request(what string, do func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := do(ctx)
	if err != nil {
		c.log("%s: %v", what, err)
	}
	return err == nil
}

// revoke ends the lease of a service from outside.
func (c *chaos) revoke(key string) {
	c.request("revoke "+key, func(ctx context.Context) error {
		resp, err := c.admin.Get(ctx, key)
		if err != nil || len(resp.Kvs) == 0 || resp.Kvs[0].Lease == 0 {
			return err
		}
		_, err = c.admin.Revoke(ctx, clientv3.LeaseID(resp.Kvs[0].Lease))
		return err
	})
}

// remove deletes keys from outside.
func (c *chaos) remove(key string, opts ...clientv3.OpOption) {
	c.request("delete "+key, func(ctx context.Context) error {
		_, err := c.admin.Delete(ctx, key, opts...)
		return err
	})
}

// compact forgets what is older than the observer has seen, less a few.
func (c *chaos) compact(less int64) {
	revision := c.history.seen() - less
	c.request("compact", func(ctx context.Context) error {
		if revision < 1 {
			return nil
		}
		_, err := c.admin.Compact(ctx, revision)
		if err != nil && strings.Contains(err.Error(), "compacted") {
			return nil
		}
		return err
	})
}

// moveLeader makes another member the leader.
func (c *chaos) moveLeader(further int) {
	c.request("move the leader", func(ctx context.Context) error {
		for n, cli := range c.direct {
			status, err := cli.Status(ctx, cli.Endpoints()[0])
			if err != nil || status.Leader != c.ids[n] {
				continue
			}
			_, err = cli.MoveLeader(ctx, c.ids[(n+further)%len(c.ids)])
			return err
		}
		return errors.New("there is no leader")
	})
}
