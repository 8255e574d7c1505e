package main

import (
	"context"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

const callsPerSecond = 10

// A caller finds the instances by discovery, and calls them.
type caller struct {
	instancer  *etcdv3.Instancer
	endpointer *sd.DefaultEndpointer
	call       endpoint.Endpoint
	events     chan sd.Event // what discovery tells: the caller's view
	done       chan struct{} // closed when the last call is over

	mu    sync.Mutex // guards count
	count counts
}

// counts say what became of the calls.
type counts struct {
	made       int
	failed     int            // after retry
	retried    int            // attempts that failed, and that lb.Retry made again elsewhere
	byInstance map[string]int // calls that were answered, by the name in the answer
	lastError  error
}

// newCaller is discovery as go-kit has it: instancer, endpointer, balancer and
// retry. The subscription to events is for the story that is told; a program
// that only calls needs none.
func newCaller(client etcdv3.Client, prefix string) (*caller, error) {
	instancer, err := etcdv3.NewInstancer(client, prefix, log.NewNopLogger())
	if err != nil {
		return nil, err
	}
	c := &caller{
		instancer: instancer,
		events:    make(chan sd.Event, 1),
		done:      make(chan struct{}),
		count:     counts{byInstance: map[string]int{}},
	}
	c.endpointer = sd.NewEndpointer(instancer, c.factory, log.NewNopLogger())
	balancer := lb.NewRoundRobin(c.endpointer)
	// One call is made at a time, so every attempt of it meets another instance.
	c.call = lb.Retry(3, time.Second, balancer)
	instancer.Register(c.events)
	return c, nil
}

// factory makes the endpoint of an instance that was discovered. It counts the
// attempts that fail, which lb.Retry would otherwise hide.
func (c *caller) factory(address string) (endpoint.Endpoint, io.Closer, error) {
	call, err := newCall(address)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context, request any) (any, error) {
		response, err := call(ctx, request)
		if err != nil {
			c.note(func(n *counts) { n.retried++ })
		}
		return response, err
	}, nil, nil
}

// run calls again and again until ctx ends.
func (c *caller) run(ctx context.Context) {
	defer close(c.done)
	ticker := time.NewTicker(time.Second / callsPerSecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.once()
		case <-ctx.Done():
			return
		}
	}
}

// once makes one call.
func (c *caller) once() {
	response, err := c.call(context.Background(), struct{}{})
	c.note(func(n *counts) {
		n.made++
		if err != nil {
			n.failed++
			n.lastError = err
			return
		}
		n.byInstance[response.(answer).Name]++
	})
}

func (c *caller) note(change func(*counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.count)
}

// counts returns what became of the calls until now.
func (c *caller) counts() counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.count
	now.byInstance = maps.Clone(now.byInstance)
	return now
}

// since returns what was counted after an earlier time.
func (n counts) since(before counts) counts {
	n.made -= before.made
	n.failed -= before.failed
	n.retried -= before.retried
	for name, calls := range before.byInstance {
		n.byInstance[name] -= calls
	}
	return n
}

// stop ends discovery.
func (c *caller) stop() {
	c.instancer.Deregister(c.events)
	c.endpointer.Close()
	c.instancer.Stop()
}
