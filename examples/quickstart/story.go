package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
)

// A story is the world that is told about.
type story struct {
	began    time.Time
	machines []string
	etcd     *etcd  // nil if it is somebody else's
	prefix   string // of all keys
	client   etcdv3.Client
	close    context.CancelFunc // closes client
	caller   *caller
	hangUp   context.CancelFunc   // ends the calls
	present  map[string]*instance // those in this process, by name
	lonely   *child               // the instance that is a process of its own
	names    map[string]string    // of all instances ever, by address
	seen     []delay
}

// A delay is how long it took until the caller saw an event.
type delay struct {
	event string
	took  time.Duration
}

func newStory(machines []string) *story {
	began := time.Now()
	return &story{
		began:    began,
		machines: machines,
		prefix:   fmt.Sprintf("/quickstart/%x/", began.UnixNano()), // nobody else's in an existing etcd
		present:  map[string]*instance{},
		names:    map[string]string{},
	}
}

// tell is the whole story.
func (s *story) tell(ctx context.Context) error {
	steps := []func(context.Context) error{s.begin, s.join, s.leave, s.die, s.outage, s.change}
	if len(s.machines) == 0 {
		steps = slices.Insert(steps, 0, s.startEtcd)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if n := s.caller.counts(); n.failed > 0 {
		return fmt.Errorf("%d calls failed after retry, the last one with: %w", n.failed, n.lastError)
	}
	return nil
}

func (s *story) startEtcd(ctx context.Context) (err error) {
	if s.etcd, err = newEtcd(); err != nil {
		return err
	}
	s.machines = []string{s.etcd.client}
	if err := s.etcd.start(ctx); err != nil {
		return err
	}
	s.say("etcd serves at %s", s.etcd.client)
	return nil
}

// begin starts a caller, and three instances: a and b in this process, and c in
// a process of its own.
func (s *story) begin(ctx context.Context) error {
	life, end := context.WithCancel(context.Background())
	s.close = end
	client, err := etcdv3.NewClient(life, s.machines, etcdv3.ClientOptions{})
	if err != nil {
		return err
	}
	if _, err := client.GetEntries(s.prefix); err != nil {
		return err
	}
	s.client = client
	if s.caller, err = newCaller(client, s.prefix); err != nil {
		return err
	}
	began := time.Now()
	for _, name := range []string{"a", "b"} {
		if err := s.startInstance(name); err != nil {
			return err
		}
	}
	process, address, err := startChild(ctx, "instance", strings.Join(s.machines, ","), s.prefix, "c")
	if err != nil {
		return err
	}
	s.lonely, s.names[address] = process, "c"
	if err := s.sees(ctx, "a, b and c started", began, "a", "b", "c"); err != nil {
		return err
	}
	calls, hangUp := context.WithCancel(context.Background())
	s.hangUp = hangUp
	go s.caller.run(calls)
	s.say("the caller makes %d calls a second, with lb.NewRoundRobin and lb.Retry", callsPerSecond)
	return s.answerers(ctx, "a", "b", "c")
}

func (s *story) startInstance(name string) error {
	i, err := startInstance(s.machines, s.prefix, name)
	if err != nil {
		return err
	}
	s.present[name], s.names[i.address] = i, name
	return nil
}

func (s *story) join(ctx context.Context) error {
	s.say("a fourth instance, d, joins")
	began := time.Now()
	if err := s.startInstance("d"); err != nil {
		return err
	}
	if err := s.sees(ctx, "d joined", began, "a", "b", "c", "d"); err != nil {
		return err
	}
	return s.answerers(ctx, "a", "b", "c", "d")
}

func (s *story) leave(ctx context.Context) error {
	s.say("b leaves by Deregister; it still serves, so that no call is lost")
	began := time.Now()
	s.present["b"].registrar.Deregister()
	if err := s.sees(ctx, "b left", began, "a", "c", "d"); err != nil {
		return err
	}
	if err := s.answerers(ctx, "a", "c", "d"); err != nil {
		return err
	}
	s.present["b"].stop()
	delete(s.present, "b")
	return nil
}

func (s *story) die(ctx context.Context) error {
	s.say("c dies without a word (SIGKILL); its TTL is %v, and lb.Retry covers for it until then", ttl)
	began, before := time.Now(), s.caller.counts()
	s.lonely.kill()
	s.lonely = nil
	if err := s.sees(ctx, fmt.Sprintf("c died (TTL %v)", ttl), began, "a", "d"); err != nil {
		return err
	}
	n := s.caller.counts().since(before)
	s.say("of %d calls meanwhile, %d met c first, and %d failed after retry", n.made, n.retried, n.failed)
	return s.answerers(ctx, "a", "d")
}

// outage takes etcd away for longer than the TTL, and brings it back.
func (s *story) outage(ctx context.Context) error {
	if s.etcd == nil {
		s.say("SKIPPED: etcd goes away, and comes back (it is not ours to stop)")
		return nil
	}
	s.say("etcd goes away, for longer than the TTL")
	began, before := time.Now(), s.caller.counts()
	s.etcd.goAway()
	err := s.hears(ctx, "etcd went away (sd.Event with Err)", began, func(e sd.Event) bool { return e.Err != nil })
	if err != nil {
		return err
	}
	if err := s.until(ctx, "a and d know that they are registered no more", func() bool {
		return time.Since(began) > 3*ttl && s.present["a"].registrar.Err() != nil && s.present["d"].registrar.Err() != nil
	}); err != nil {
		return err
	}
	s.say("a says, when asked whether it is registered: %v", s.present["a"].registrar.Err())
	n := s.caller.counts().since(before)
	s.say("%d calls went on against the last known instances, %d failed", n.made, n.failed)
	if err := s.answerers(ctx, "a", "d"); err != nil {
		return err
	}
	return s.comeback(ctx, began)
}

func (s *story) comeback(ctx context.Context, left time.Time) error {
	if err := s.etcd.start(ctx); err != nil {
		return err
	}
	began := time.Now()
	s.say("etcd is back after %.1f s, with the same data and at the same address", began.Sub(left).Seconds())
	if err := s.sees(ctx, "etcd came back", began, "a", "d"); err != nil {
		return err
	}
	if err := s.until(ctx, "a and d are registered again", func() bool {
		return s.present["a"].registrar.Err() == nil && s.present["d"].registrar.Err() == nil
	}); err != nil {
		return err
	}
	s.saw("a and d registered again", began)
	// Their leases would live for one more TTL even if nobody kept them alive.
	if err := s.until(ctx, "one TTL is over", func() bool { return time.Since(began) > ttl+2*heartbeat }); err != nil {
		return err
	}
	if state := s.caller.instancer.State(); state.Err != nil || len(state.Instances) != 2 {
		return fmt.Errorf("a and d did not stay registered: the caller sees %s", s.describe(state))
	}
	s.say("one TTL later they still are")
	return nil
}

func (s *story) change(ctx context.Context) error {
	s.say("a change after that: e joins")
	began := time.Now()
	if err := s.startInstance("e"); err != nil {
		return err
	}
	if err := s.sees(ctx, "e joined", began, "a", "d", "e"); err != nil {
		return err
	}
	return s.answerers(ctx, "a", "d", "e")
}
