package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// intruder is another owner of a service's key.
type intruder struct {
	value string
	leave func() bool // reports whether it has surely left
}

// intruders are those on one key that have not surely left: one that could not
// be removed may be there when the next one could not come.
type intruders struct {
	mu  sync.Mutex // guards all
	all []intruder
}

func (o *intruders) add(i intruder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, i)
}

// have reports whether a value is that of one of them.
func (o *intruders) have(value string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.all, func(i intruder) bool { return i.value == value })
}

// gone reports whether all have left.
func (o *intruders) gone() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.all) == 0
}

// remove makes all leave, and reports whether they have: etcd may have done
// what it gave no answer to.
func (o *intruders) remove() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = slices.DeleteFunc(o.all, func(i intruder) bool { return i.leave() })
	return len(o.all) == 0
}

// intrude writes a service's key as an owner does that knows nothing of leases,
// and reports whether that surely happened.
func (c *chaos) intrude(n int, value string) bool {
	key := c.services[n].key
	c.intruders[n].add(intruder{value: value, leave: func() bool {
		return c.request("leave", func(ctx context.Context) error {
			_, err := c.admin.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", value)).Then(clientv3.OpDelete(key)).Commit()
			return err
		})
	}})
	return c.request("intrude", func(ctx context.Context) error {
		_, err := c.admin.Put(ctx, key, value)
		return err
	})
}

// rival registers a service's key from another client of this package.
func (c *chaos) rival(n int, value string) bool {
	s := etcdv3.Service{Key: c.services[n].key, Value: value, TTL: etcdv3.NewTTLOption(500*time.Millisecond, 3*time.Second)}
	p := c.party(rivals)
	c.intruders[n].add(intruder{value: value, leave: func() bool {
		c.call(p.timeout, "Client.Deregister of a rival", func() { _ = p.client.Deregister(s) })
		return true // at the latest when the lease ends
	}})
	var err error
	c.call(p.timeout, "Client.Register of a rival", func() { err = p.client.Register(s) })
	return err == nil
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

// putPair writes two keys in one transaction: nobody may ever see one of them
// without the other.
func (c *chaos) putPair(n int) {
	put := func(side string) clientv3.Op {
		return clientv3.OpPut(chaosPrefixes[1]+side, fmt.Sprintf("pair %d, %s", n, side))
	}
	c.request("put a pair", func(ctx context.Context) error {
		_, err := c.admin.Txn(ctx).Then(put("left"), put("right")).Commit()
		return err
	})
}
