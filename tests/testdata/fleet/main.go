// Command fleet has services and callers of go-kit's sd/etcdv3 and of this
// package on one etcd, and checks that each discovers the others.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/kit/sd"
	upstream "github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

const prefix = "/services/hello/"

func main() {
	ctx, machines, logger := context.Background(), []string{os.Getenv("ETCD")}, kitlog.NewLogfmtLogger(os.Stderr)
	old, err := upstream.NewClient(ctx, machines, upstream.ClientOptions{DialTimeout: 5 * time.Second})
	check(err)
	oldCaller, err := upstream.NewClient(ctx, machines, upstream.ClientOptions{DialTimeout: 5 * time.Second})
	check(err)
	client, err := etcdv3.NewClient(ctx, machines, etcdv3.ClientOptions{})
	check(err)

	ttl := 3 * time.Second
	oldRegistrar := upstream.NewRegistrar(old, upstream.Service{
		Key: prefix + "old", Value: "old", TTL: upstream.NewTTLOption(time.Second, ttl),
	}, logger)
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key: prefix + "new", Value: "new", TTL: etcdv3.NewTTLOption(time.Second, ttl),
	}, logger)
	oldInstancer, err := upstream.NewInstancer(oldCaller, prefix, logger)
	check(err)
	instancer, err := etcdv3.NewInstancer(client, prefix, logger)
	check(err)
	callers := []*caller{call(oldInstancer), call(instancer)}

	oldRegistrar.Register()
	registrar.Register()
	discovered(callers, "new", "old")
	time.Sleep(2 * ttl)
	discovered(callers, "new", "old")

	// The old one is replaced by a new one at the same address.
	oldRegistrar.Deregister()
	discovered(callers, "new")
	replaced := etcdv3.NewRegistrar(client, etcdv3.Service{Key: prefix + "old", Value: "replaced"}, logger)
	replaced.Register()
	discovered(callers, "new", "replaced")
	time.Sleep(2 * ttl) // the lease of the old one ends, and takes nothing with it
	discovered(callers, "new", "replaced")
	registrar.Deregister()
	replaced.Deregister()
	discovered(callers)
}

// caller knows the last instances of an Instancer.
type caller struct {
	mu        sync.Mutex
	instances []string
}

func call(instancer sd.Instancer) *caller {
	c, events := &caller{}, make(chan sd.Event)
	go func() {
		for event := range events {
			check(event.Err)
			c.mu.Lock()
			c.instances = slices.Sorted(slices.Values(event.Instances))
			c.mu.Unlock()
		}
	}()
	instancer.Register(events)
	return c
}

func discovered(callers []*caller, want ...string) {
	for i, c := range callers {
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			c.mu.Lock()
			known := c.instances
			c.mu.Unlock()
			if slices.Equal(known, want) {
				break
			}
			if time.Since(began) > 5*time.Second {
				check(fmt.Errorf("caller %d knows %v, not %v", i, known, want))
			}
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
