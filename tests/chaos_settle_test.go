package tests

import (
	"context"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// settle waits until all is as it should be. Then other owners take the keys
// of services that are registered all the time, and leave.
func (c *chaos) settle() {
	mended := time.Now()
	c.log("all is mended")
	c.wait(chaosSettles, "every call has returned", c.drain)
	c.await(mended, "after the faults")
	taken := time.Now()
	c.log("other owners come")
	c.takeKeys()
	c.await(taken, "with other owners")
	c.staysSo()
	left := time.Now()
	c.log("all other owners leave")
	c.removeIntruders(len(c.services))
	c.await(left, "without other owners")
	c.staysSo()
}

// takeKeys puts intruders on the steady services.
func (c *chaos) takeKeys() {
	c.removeIntruders(chaosSteady)
	for n := range chaosSteady {
		value := fmt.Sprintf("late intruder %d", n)
		eventually(c.t, chaosSettles, value+" is there", func() bool { return c.intrude(n, value) })
	}
}

// removeIntruders makes all leave that intrude on the first services.
func (c *chaos) removeIntruders(services int) {
	for n := range services {
		eventually(c.t, chaosSettles, "intruders leave "+c.services[n].key, c.intruders[n].remove)
	}
}

// await waits until nothing is wrong.
func (c *chaos) await(since time.Time, what string) {
	for {
		wrong := c.wrong()
		if len(wrong) == 0 {
			c.log("%s: all is well after %v", what, time.Since(since).Round(time.Millisecond))
			return
		}
		if time.Since(since) > chaosSettles+machine.since(since) {
			for _, w := range wrong {
				c.fail("%s, not well %v after the last fault: %s", what, chaosSettles, w)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// wrong returns what is not as it should be at this moment.
func (c *chaos) wrong() (all []string) {
	held, err := c.read()
	if err != nil {
		return []string{fmt.Sprintf("etcd cannot be read: %v", err)}
	}
	for i, s := range c.services {
		if w := s.wrong(held[s.key], &c.intruders[i]); w != "" {
			all = append(all, fmt.Sprintf("%s: %s", s.key, w))
		}
	}
	for _, s := range c.watching() {
		want := setOf(held, s.prefix)
		if last := s.last(); last.Err != nil || !slices.Equal(last.Instances, want) {
			all = append(all, fmt.Sprintf("%s: the last event is %v, etcd holds %v", s.name, last, want))
		}
	}
	return all
}

// staysSo looks for the dead coming back, and for owners that fight, for longer
// than a heartbeat.
func (c *chaos) staysSo() {
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		held, err := c.read()
		if err != nil {
			continue
		}
		for n, s := range c.services {
			value, there := held[s.key]
			taken := c.intruders[n].have(value)
			if there && !taken && !s.live() {
				c.fail("%s came back with %q", s.key, value)
				return
			}
			if n < chaosSteady && !taken && !c.intruders[n].gone() {
				c.fail("%s was taken back as %q, its owner is still there", s.key, value)
				return
			}
		}
	}
}

// read returns what etcd holds now, by key.
func (c *chaos) read() (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	resp, err := c.admin.Get(ctx, chaosRoot+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	held := map[string]string{}
	for _, kv := range resp.Kvs {
		held[string(kv.Key)] = string(kv.Value)
	}
	return held, nil
}

// nothingIsLeft checks, with etcd well, that clients have deregistered all when
// they have ended. One whose connection was closed at once had no time for it,
// nor have others while the machine stands still: then the leases have to end.
func (c *chaos) nothingIsLeft() {
	bound := time.Duration(0)
	if machine.since(c.ended) > 0 {
		bound = 15 * time.Second // the default TTL, and what etcd takes to notice
	}
	var left []string
	defer func() {
		for _, l := range left {
			c.t.Error(l)
		}
	}()
	eventually(c.t, bound, "nothing is left", func() bool {
		left = nil
		held, err := c.read()
		if err != nil {
			left = append(left, err.Error())
		}
		for _, s := range c.services {
			if value, there := held[s.key]; there && !s.on.wraps {
				left = append(left, fmt.Sprintf("%s has ended, and left %s as %q", s.on.name, s.key, value))
			}
		}
		return len(left) == 0
	})
}
