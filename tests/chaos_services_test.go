package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
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
	ttl     *etcdv3.TTLOption
	current *etcdv3.Registrar
	failed  *atomic.Int64 // how often its Register has failed, as it logs
	unsure  bool          // its last Register failed, and may be tried again although Err is nil
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
func (s *service) register(value string, ttl *etcdv3.TTLOption) {
	p := s.c.party(s.slot)
	service := etcdv3.Service{Key: s.key, Value: value, TTL: ttl}
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

// renew registers through a Registrar. A former one that has not succeeded yet,
// the first time or again, would go on trying beside the new one if it were not
// deregistered.
func (s *service) renew(p *party, service etcdv3.Service) {
	if s.current != nil && s.wanted && (s.current.Err() != nil || s.unsure) {
		s.call(s.on, "Registrar.Deregister", s.current.Deregister)
	}
	failed := &atomic.Int64{}
	r := etcdv3.NewRegistrar(p.client, service, log.LoggerFunc(func(keyvals ...any) error {
		if slices.Contains(keyvals, any("err")) && !slices.Contains(keyvals, any("msg")) {
			failed.Add(1)
		}
		return nil
	}))
	s.mu.Lock()
	s.wanted, s.on, s.value, s.current, s.failed, s.unsure = true, p, service.Value, r, failed, false
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
		before := s.failed.Load()
		s.call(s.on, "Registrar.Register", s.current.Register)
		s.unsure = s.unsure || s.failed.Load() != before
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
	service := etcdv3.Service{Key: s.key}
	var err error
	switch {
	case s.current != nil:
		s.call(p, "Registrar.Deregister", s.current.Deregister)
	case guarded:
		service.DeleteOptions = &etcdv3.DeleteOptions{PrevValue: s.value}
		s.call(p, "guarded Client.Deregister", func() { err = p.client.Deregister(service) })
		if !errors.Is(err, etcdv3.ErrCompareFailed) {
			break
		}
		service.DeleteOptions = nil
		fallthrough
	default:
		s.call(p, "Client.Deregister", func() { err = p.client.Deregister(service) })
	}
	if err != nil {
		s.c.log("%s: %v", s.key, err)
	} else if s.wanted && s.current == nil && !p.gone() {
		s.isGone()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = false
}

// isGone checks that what was deregistered without an error is gone at once.
func (s *service) isGone() {
	s.c.request("read "+s.key, func(ctx context.Context) error {
		resp, err := s.c.admin.Get(ctx, s.key)
		if err == nil && len(resp.Kvs) > 0 && string(resp.Kvs[0].Value) == s.value {
			s.c.fail("%s was deregistered without an error, and etcd holds %q", s.key, s.value)
		}
		return err
	})
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
// nothing, and who intruded.
func (s *service) wrong(held string, others *intruders) string {
	live := s.live()
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := others.have(held)
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
