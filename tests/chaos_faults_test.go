package tests

import (
	"fmt"
	"time"
)

// bridgeFault breaks the way to one member, rarely to all.
func (p *planner) bridgeFault() (fault, bool) {
	n := p.IntN(3)
	name, bridges := fmt.Sprintf("bridge %d", n), p.c.etcd.bridges[n:n+1]
	most := 8 * time.Second
	if p.IntN(8) == 0 {
		name, bridges, most = "all bridges", p.c.etcd.bridges, 6*time.Second
	}
	each := func(do func(*bridge)) func() {
		return func() {
			for _, b := range bridges {
				do(b)
			}
		}
	}
	least := 300 * time.Millisecond
	switch p.IntN(4) {
	case 0:
		return fault{what: name + " drops", do: each((*bridge).drop)}, true
	case 1:
		return fault{name + " is cut", least, most, false, each((*bridge).cut), each((*bridge).mend)}, true
	case 2:
		return fault{name + " is silent", least, most, false, each((*bridge).silence), each((*bridge).speak)}, true
	}
	by := p.between(10*time.Millisecond, 200*time.Millisecond)
	return fault{fmt.Sprintf("%s is slow by %v", name, by), least, most, false,
		each(func(b *bridge) { b.slow(by) }), each(func(b *bridge) { b.slow(0) })}, true
}

// memberFault breaks one member, rarely more of them.
func (p *planner) memberFault() (fault, bool) {
	order, hard := p.Perm(3), p.IntN(2) == 0
	members := order[:1]
	most := 5 * time.Second
	switch n := p.IntN(12); {
	case n < 5:
		return fault{fmt.Sprintf("member %d is cut off from its peers", order[0]), 200 * time.Millisecond, 8 * time.Second, false,
			func() { p.c.partition(order[0], true) }, func() { p.c.partition(order[0], false) }}, true
	case n < 6:
		return fault{what: fmt.Sprintf("rolling restart of %v", order), do: func() {
			for _, m := range order {
				p.c.stop(hard, m)
				p.c.restart(m)
			}
		}}, true
	case n < 7:
		members = order[:2]
	case n < 8:
		members = order
	}
	return fault{fmt.Sprintf("members %v stop, hard %v", members, hard), 100 * time.Millisecond, most, false,
		func() { p.c.stop(hard, members...) }, func() { p.c.restart(members...) }}, true
}

// stop stops members; hard, without a word to their clients. All this is done
// by one lane.
func (c *chaos) stop(hard bool, members ...int) {
	for _, m := range members {
		if hard {
			c.etcd.keepPort(m)
			c.etcd.Members[m].GRPCServer.Stop()
		}
		c.etcd.stop(quiet{c.t}, m)
	}
}

// restart starts members again.
func (c *chaos) restart(members ...int) { c.etcd.restart(quiet{c.t}, members...) }

// partition cuts a member off from its peers, and mends that.
func (c *chaos) partition(m int, cut bool) {
	for n, other := range c.etcd.Members {
		switch {
		case n == m:
		case cut:
			c.etcd.Members[m].InjectPartition(quiet{c.t}, other)
		default:
			c.etcd.Members[m].RecoverPartition(quiet{c.t}, other)
		}
	}
}
