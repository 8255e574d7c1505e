package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
)

// say prints one line.
func (s *story) say(format string, args ...any) {
	fmt.Printf("%5.1f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// saw notes, and says, how long ago an event was.
func (s *story) saw(event string, since time.Time) {
	d := delay{event: event, took: time.Since(since)}
	s.seen = append(s.seen, d)
	s.say("  %s: seen after %v", event, d)
}

func (d delay) String() string { return d.took.Round(100 * time.Microsecond).String() }

// stepTimeout bounds every wait.
const stepTimeout = 20 * time.Second

// hears waits until discovery tells the caller of an event.
func (s *story) hears(ctx context.Context, event string, since time.Time, wanted func(sd.Event) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for {
		select {
		case e := <-s.caller.events:
			s.say("  the caller sees %s", s.describe(e))
			if wanted(e) {
				s.saw(event, since)
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the caller did not see: %s: %w", event, ctx.Err())
		}
	}
}

// sees waits until the caller sees exactly the instances with these names.
func (s *story) sees(ctx context.Context, event string, since time.Time, names ...string) error {
	return s.hears(ctx, event, since, func(e sd.Event) bool {
		return e.Err == nil && slices.Equal(s.namesOf(e.Instances), names)
	})
}

func (s *story) namesOf(addresses []string) (names []string) {
	for _, address := range addresses {
		names = append(names, s.names[address])
	}
	slices.Sort(names)
	return names
}

// describe says what an event means.
func (s *story) describe(e sd.Event) string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("an error: %v", e.Err)
	case len(e.Instances) == 0:
		return "nobody"
	}
	return strings.Join(s.namesOf(e.Instances), ", ")
}

// answerers waits for a good second of calls, and checks that exactly the
// instances with these names answered them.
func (s *story) answerers(ctx context.Context, names ...string) error {
	var before counts
	for _, calls := range []int{2, 5 * len(names)} { // what began before this does not count
		before = s.caller.counts()
		if err := s.until(ctx, "calls are made", func() bool {
			return s.caller.counts().made >= before.made+calls
		}); err != nil {
			return err
		}
	}
	n := s.caller.counts().since(before)
	maps.DeleteFunc(n.byInstance, func(_ string, calls int) bool { return calls == 0 })
	s.say("  %d calls were answered by %s", n.made-n.failed, list(n.byInstance))
	if got := slices.Sorted(maps.Keys(n.byInstance)); !slices.Equal(got, names) {
		return fmt.Errorf("%v answered calls, and not %v", got, names)
	}
	return nil
}

// until waits until a condition holds.
func (s *story) until(ctx context.Context, what string, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("it did not happen that %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// list prints numbers by name.
func list(calls map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, calls[name]))
	}
	return strings.Join(parts, ", ")
}

// summarize says it all once more, in short.
func (s *story) summarize() {
	n := s.caller.counts()
	fmt.Printf("\n%d calls made, %d failed; lb.Retry saved %d\n", n.made, n.failed, n.retried)
	fmt.Printf("answered by  %s\n", list(n.byInstance))
	for _, d := range s.seen {
		fmt.Printf("%10v  %s\n", d, d.event)
	}
}

// cleanUp ends everything. At the end of a story that went well it checks that
// everybody who deregistered is gone; else it sees to that.
func (s *story) cleanUp(wentWell bool) (err error) {
	if s.hangUp != nil {
		s.hangUp()
		<-s.caller.done
	}
	s.everybodyLeaves()
	switch {
	case wentWell:
		err = s.nobodyIsLeft()
	case s.etcd == nil && s.client != nil:
		err = s.sweep()
	}
	if s.caller != nil {
		s.caller.stop()
	}
	if s.close != nil {
		s.close()
	}
	if s.etcd != nil {
		s.etcd.remove()
	}
	return err
}

func (s *story) everybodyLeaves() {
	var leaving sync.WaitGroup
	for _, i := range s.present {
		leaving.Go(i.stop)
	}
	if s.lonely != nil {
		leaving.Go(s.lonely.stop)
	}
	leaving.Wait()
}

func (s *story) nobodyIsLeft() error {
	left, err := s.client.GetEntries(s.prefix)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errors.New("after everybody deregistered there is still " + strings.Join(left, ", "))
	}
	s.say("everybody has deregistered, and nothing is left in etcd")
	return nil
}

// sweep deletes all keys of the story from somebody else's etcd: an instance
// that was killed stays there until its TTL is over.
func (s *story) sweep() error {
	return s.client.Deregister(etcdv3.Service{
		Key:           strings.TrimSuffix(s.prefix, "/"),
		DeleteOptions: &etcdv3.DeleteOptions{Recursive: true},
	})
}
