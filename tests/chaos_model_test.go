package tests

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// history is what etcd held, as a plain watch from its first revision tells.
type history struct {
	mu       sync.Mutex // guards all below
	held     map[string]string
	revision int64
	sets     map[string]*past // by prefix
	broken   error
}

// past is the set under one prefix after every change of it.
type past struct {
	sets      [][]string
	revisions []int64
	places    map[string][]int // of a set in sets
}

// observe begins to record. The watch ends with the test.
func observe(t testing.TB, cli *clientv3.Client) *history {
	h := &history{held: map[string]string{}, sets: map[string]*past{}}
	for _, prefix := range chaosPrefixes {
		h.sets[prefix] = &past{places: map[string][]int{}}
		h.sets[prefix].add(nil, 0)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			h.watch(ctx, cli)
			sleep(ctx, 50*time.Millisecond)
		}
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return h
}

// watch records until the watch ends: its member stopped, or lost its leader.
func (h *history) watch(ctx context.Context, cli *clientv3.Client) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range cli.Watch(ctx, chaosRoot, clientv3.WithPrefix(), clientv3.WithRev(h.seen()+1)) {
		h.apply(resp)
	}
}

// seen returns the last revision that is recorded.
func (h *history) seen() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// apply records a response. etcd does not split a revision between two.
func (h *history) apply(resp clientv3.WatchResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(resp.Err(), rpctypes.ErrCompacted) {
		h.broken = resp.Err()
	}
	for i, event := range resp.Events {
		if event.Type == clientv3.EventTypeDelete {
			delete(h.held, string(event.Kv.Key))
		} else {
			h.held[string(event.Kv.Key)] = string(event.Kv.Value)
		}
		h.revision = event.Kv.ModRevision
		if i == len(resp.Events)-1 || resp.Events[i+1].Kv.ModRevision != h.revision {
			for prefix, p := range h.sets {
				p.add(setOf(h.held, prefix), h.revision)
			}
		}
	}
}

// setOf returns the values under a prefix as an event shows them.
func setOf(held map[string]string, prefix string) []string {
	set := []string{}
	for key, value := range held {
		if strings.HasPrefix(key, prefix) {
			set = append(set, value)
		}
	}
	slices.Sort(set)
	return slices.Compact(set)
}

// shape makes a set comparable.
func shape(set []string) string { return strings.Join(set, "\x00") }

func (p *past) add(set []string, revision int64) {
	n := len(p.sets)
	if n > 0 && slices.Equal(p.sets[n-1], set) {
		return
	}
	p.sets = append(p.sets, set)
	p.revisions = append(p.revisions, revision)
	p.places[shape(set)] = append(p.places[shape(set)], n)
}

// after returns the first place, not before another, at which etcd held a set.
// Equal sets recur: the first possible one leaves most room for what follows.
func (p *past) after(place int, set []string) (int, error) {
	places := p.places[shape(set)]
	i, _ := slices.BinarySearch(places, place)
	switch {
	case i < len(places):
		return places[i], nil
	case len(places) > 0:
		return 0, fmt.Errorf("went back from revision %d or later to a set of revision %d: %v", p.revisions[place], p.revisions[places[i-1]], set)
	}
	return 0, fmt.Errorf("showed what etcd never held: %v; %s", set, p.nearest(place, set))
}

// nearest describes the set from a place on that differs least from another.
func (p *past) nearest(place int, set []string) string {
	best, differs := 0, []string(nil)
	for i := place; i < len(p.sets); i++ {
		if d := difference(p.sets[i], set); differs == nil || len(d) < len(differs) {
			best, differs = i, d
		}
	}
	return fmt.Sprintf("nearest is revision %d, there it was %v", p.revisions[best], differs)
}

// difference returns what is in one set only, with a sign.
func difference(from, to []string) (all []string) {
	signs := map[string]string{}
	for _, v := range from {
		signs[v] = "-"
	}
	for _, v := range to {
		if signs[v] == "-" {
			delete(signs, v)
		} else {
			signs[v] = "+"
		}
	}
	for v, sign := range maps.All(signs) {
		all = append(all, sign+v)
	}
	slices.Sort(all)
	return all
}

// complete waits until all that etcd held is recorded.
func (c *chaos) complete() {
	c.t.Helper()
	var revision int64
	eventually(c.t, chaosSettles, "the last write", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		resp, err := c.admin.Put(ctx, chaosRoot+".end", "end")
		if err == nil {
			revision = resp.Header.Revision
		}
		return err == nil
	})
	eventually(c.t, chaosSettles, "the observer has seen all", func() bool { return c.history.seen() >= revision })
}

// judge compares all that was shown to anybody with what etcd held.
func (c *chaos) judge() {
	c.complete()
	h := c.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil {
		c.t.Fatalf("the observer has missed something: %v", h.broken)
	}
	events, failures := 0, 0
	for _, s := range c.spectators {
		n, errs := s.judge(c.t, h.sets[s.prefix])
		events, failures = events+n, failures+errs
	}
	lists := 0
	for _, r := range c.readers {
		lists += r.judge(c.t, h.sets[r.prefix])
	}
	c.t.Logf("%d revisions, %d sets; %d spectators of %d clients were shown %d sets and %d errors; %d lists",
		h.revision, len(h.sets[chaosPrefixes[0]].sets), len(c.spectators), len(c.everybody), events, failures, lists)
}

// judge checks every event of a spectator by itself, against the one before,
// and against what etcd held.
func (s *spectator) judge(t testing.TB, p *past) (sets, failures int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	place := 0
	for i, now := range s.events {
		at := fmt.Sprintf("%s, event %d at %.3f", s.name, i, now.at.Seconds())
		if now.Err != nil {
			failures++
			if now.Instances != nil {
				t.Errorf("%s: both instances and an error", at)
			}
			continue
		}
		sets++
		if !slices.IsSorted(now.Instances) || len(slices.Compact(slices.Clone(now.Instances))) != len(now.Instances) {
			t.Errorf("%s: not sorted, or not unique: %v", at, now.Instances)
		}
		if i > 0 && !now.first && s.events[i-1].Err == nil && slices.Equal(now.Instances, s.events[i-1].Instances) {
			t.Errorf("%s: an unchanged set was sent twice: %v", at, now.Instances)
		}
		next, err := p.after(place, now.Instances)
		if err != nil {
			t.Errorf("%s: %v", at, err)
			return sets, failures
		}
		place = next
	}
	return sets, failures
}

// judge checks what GetEntries returned, one list after the other.
func (r *reader) judge(t testing.TB, p *past) int {
	place := 0
	for i, list := range r.lists {
		next, err := p.after(place, list)
		if err != nil {
			t.Errorf("GetEntries of %s, list %d: %v", r.prefix, i, err)
			break
		}
		place = next
	}
	return len(r.lists)
}
