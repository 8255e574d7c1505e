package tests

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	chaosServices = 40
	chaosSteady   = 12    // of them are registered once, by the first client
	slots         = 5     // of clients; the first lives as long as the soak
	rivals        = slots // the slot of the client that fights for keys
)

// planner decides everything beforehand, so that a seed is a schedule.
type planner struct {
	*rand.Rand
	c       *chaos
	end     time.Duration
	values  int // given so far
	clients int
}

// fault is something that is done, and perhaps undone after a time.
type fault struct {
	what     string
	least    time.Duration // that it lasts
	most     time.Duration
	stays    bool // if there is no time to undo it
	do, undo func()
}

// plan makes the clients and services, and returns the lanes of the schedule.
func (c *chaos) plan(rng *rand.Rand, end time.Duration) (lanes [][]step) {
	p := &planner{Rand: rng, c: c, end: end}
	c.parties = make([]*party, slots+1)
	for slot := range c.parties {
		c.join(p.party(slot))
	}
	for n := range chaosServices {
		key := fmt.Sprintf("%s%02d", chaosPrefixes[1+n%2], n)
		slot := n % slots
		if n < chaosSteady {
			slot = 0
		}
		c.services = append(c.services, c.newService(key, slot, n%3 != 0))
	}
	c.intruders = make([]intruders, chaosServices)
	const ms = time.Millisecond
	lanes = append(lanes,
		p.lane(0, 10*ms, 40*ms, p.firstServices()),
		p.lane(500*ms, 10*ms, 150*ms, p.serviceChange),
		p.lane(1500*ms, 200*ms, 2000*ms, p.memberFault),
		p.lane(1000*ms, 200*ms, 1500*ms, p.bridgeFault),
		p.lane(1000*ms, 100*ms, 1000*ms, p.dataFault),
		p.lane(2000*ms, 1000*ms, 4000*ms, p.turnover))
	for n := range 3 {
		lanes = append(lanes, p.lane(1000*ms, 100*ms, 2000*ms, p.intrusion(n, 3)))
	}
	return append(lanes, p.finale())
}

// finale changes services while no client has a way to etcd, at the end of all
// other faults, for longer than any request takes. So nothing but their own
// persistence brings them to what they should be.
func (p *planner) finale() (steps []step) {
	at := p.end
	add := func(f fault) {
		steps = append(steps, step{at, f.what, f.do})
		at += 20 * time.Millisecond
	}
	add(fault{what: "the last outage: all bridges are cut", do: func() { p.each((*bridge).cut) }})
	for _, s := range p.c.services[chaosSteady:] {
		if p.IntN(2) == 0 {
			add(p.registration(s))
		} else {
			add(p.deregistration(s))
		}
	}
	at += 4 * time.Second
	add(fault{what: "over: the last outage", do: func() { p.each((*bridge).mend) }})
	return steps
}

// each does something to all bridges.
func (p *planner) each(do func(*bridge)) {
	for _, b := range p.c.etcd.bridges {
		do(b)
	}
}

// between returns a time from an interval.
func (p *planner) between(least, most time.Duration) time.Duration {
	return least + time.Duration(p.Int64N(int64(most-least)+1))
}

// lane is one fault after the other, with gaps between them.
func (p *planner) lane(at, least, most time.Duration, pick func() (fault, bool)) (steps []step) {
	for {
		f, ok := pick()
		lasts := p.between(f.least, f.most)
		if !ok || at >= p.end || (f.undo != nil && !f.stays && at+lasts > p.end) {
			return steps
		}
		steps = append(steps, step{at, f.what, f.do})
		if f.undo != nil && at+lasts <= p.end {
			steps = append(steps, step{at + lasts, "over: " + f.what, f.undo})
		}
		at += lasts + p.between(least, most)
	}
}

// party decides about a client.
func (p *planner) party(slot int) partyPlan {
	p.clients++
	plan := partyPlan{name: fmt.Sprintf("client %d", p.clients), slot: slot, members: p.Perm(3)}
	plan.timeout = []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}[p.IntN(3)]
	if slot == rivals {
		return plan
	}
	if slot > 0 && p.IntN(3) == 0 {
		plan.members = plan.members[:1+p.IntN(2)]
	}
	plan.wraps = slot > 0 && p.IntN(4) == 0
	for n := range 1 + p.IntN(2) {
		lasts := p.between(5*time.Second, 20*time.Second)
		if slot == 0 && n == 0 {
			lasts = time.Hour
		}
		plan.watches = append(plan.watches, watchPlan{chaosPrefixes[p.IntN(3)], p.IntN(4) == 0, lasts})
	}
	return plan
}

// turnover ends the context of a client; another takes its place.
func (p *planner) turnover() (fault, bool) {
	slot := 1 + p.IntN(slots-1)
	plan := p.party(slot)
	what := fmt.Sprintf("%s takes slot %d, knows members %v, timeout %v, wraps %v, watches %v", plan.name, slot, plan.members, plan.timeout, plan.wraps, plan.watches)
	return fault{what: what, do: func() { p.c.join(plan) }}, true
}

// firstServices registers every service once.
func (p *planner) firstServices() func() (fault, bool) {
	next := -1
	return func() (fault, bool) {
		next++
		if next == chaosServices {
			return fault{}, false
		}
		return p.registration(p.c.services[next]), true
	}
}

// registration registers a service with a new value; some share one.
func (p *planner) registration(s *service) fault {
	p.values++
	value := fmt.Sprintf("%s=%d", strings.TrimPrefix(s.key, chaosRoot), p.values)
	if p.IntN(8) == 0 {
		value = "shared"
	}
	const ms = time.Millisecond
	ttl := []*etcdv3.TTLOption{etcdv3.NewTTLOption(500*ms, 1000*ms), etcdv3.NewTTLOption(500*ms, 2000*ms), etcdv3.NewTTLOption(1000*ms, 3000*ms), etcdv3.NewTTLOption(1000*ms, 5000*ms), nil}[p.IntN(5)]
	return fault{what: fmt.Sprintf("register %s as %q", s.key, value), do: func() { s.todo <- func() { s.register(value, ttl) } }}
}

func (p *planner) serviceChange() (fault, bool) {
	s := p.c.services[chaosSteady+p.IntN(chaosServices-chaosSteady)]
	switch n := p.IntN(10); {
	case n < 6:
		return p.registration(s), true
	case n < 7:
		return fault{what: "register once more " + s.key, do: func() { s.todo <- s.again }}, true
	}
	return p.deregistration(s), true
}

func (p *planner) deregistration(s *service) fault {
	guarded := p.IntN(3) == 0
	return fault{what: "deregister " + s.key, do: func() { s.todo <- func() { s.deregister(guarded) } }}
}

// intrusion puts another owner on one of the services whose number leaves the
// given rest, one after the other.
func (p *planner) intrusion(rest, by int) func() (fault, bool) {
	return func() (fault, bool) {
		n := rest + by*p.IntN(chaosServices/by)
		p.values++
		value := fmt.Sprintf("intruder %d", p.values)
		what := fmt.Sprintf("%s on %s", value, p.c.services[n].key)
		do := p.c.intrude
		if p.IntN(2) == 0 {
			what, do = "rival "+what, p.c.rival
		}
		return fault{what, 500 * time.Millisecond, 6 * time.Second, true,
			func() { do(n, value) }, func() { p.c.intruders[n].remove() }}, true
	}
}

// dataFault changes from outside what etcd holds.
func (p *planner) dataFault() (fault, bool) {
	key := p.c.services[p.IntN(chaosServices)].key
	switch n := p.IntN(20); {
	case n < 7:
		return fault{what: "revoke the lease of " + key, do: func() { p.c.revoke(key) }}, true
	case n < 13:
		return fault{what: "delete " + key, do: func() { p.c.remove(key) }}, true
	case n < 14:
		return fault{what: "delete all of " + chaosPrefixes[1], do: func() { p.c.remove(chaosPrefixes[1], clientv3.WithPrefix()) }}, true
	case n < 16:
		p.values++
		pair := p.values
		return fault{what: fmt.Sprintf("put pair %d at one revision", pair), do: func() { p.c.putPair(pair) }}, true
	case n < 18:
		less := p.Int64N(6)
		return fault{what: "compact", do: func() { p.c.compact(less) }}, true
	}
	further := 1 + p.IntN(2)
	return fault{what: "move the leader", do: func() { p.c.moveLeader(further) }}, true
}
