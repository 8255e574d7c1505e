// Package discover turns a prefix in etcd into an endpoint.
package discover

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

const (
	attempts = 5

	// pause before the next attempt, times the number of attempts made. There
	// may be no instance at all for a moment: a program that calls right
	// after its start meets an endpointer that has not learnt of any yet.
	pause = 20 * time.Millisecond
)

// Endpoint returns an endpoint that calls the instances under a prefix in turn.
// An attempt that fails, or takes longer than patience, is made again at the
// next one; so what it calls must bear to be called twice. Call stop when it is
// no longer needed.
func Endpoint(client etcdv3.Client, prefix string, factory sd.Factory, patience time.Duration, logger log.Logger) (call endpoint.Endpoint, stop func(), err error) {
	instancer, err := etcdv3.NewInstancer(client, prefix, logger)
	if err != nil {
		return nil, nil, err
	}
	endpointer := sd.NewEndpointer(instancer, impatient(factory, patience), logger)
	var calls atomic.Uint64
	call = func(ctx context.Context, request any) (any, error) {
		turn := &turn{endpointer: endpointer}
		turn.next.Store(calls.Add(1))
		return lb.RetryWithCallback(attempts*patience, turn, again)(ctx, request)
	}
	return call, func() {
		endpointer.Close()
		instancer.Stop()
	}, nil
}

// again decides, after n attempts, whether to make another one.
func again(n int, _ error) (bool, error) {
	if n >= attempts {
		return false, nil
	}
	time.Sleep(time.Duration(n) * pause)
	return true, nil
}

// turn is the balancer of one call: each of its attempts goes to another
// instance, and each call begins with another one. lb.NewRoundRobin is enough
// where one call is made at a time. Where there are many, they share its turns,
// and an attempt that met a dead instance may be made again at the same one,
// and again, because other calls had theirs in between.
type turn struct {
	endpointer sd.Endpointer
	next       atomic.Uint64
}

// Endpoint implements lb.Balancer.
func (t *turn) Endpoint() (endpoint.Endpoint, error) {
	endpoints, err := t.endpointer.Endpoints()
	if err != nil {
		return nil, err
	}
	if len(endpoints) == 0 {
		return nil, lb.ErrNoEndpoints
	}
	return endpoints[t.next.Add(1)%uint64(len(endpoints))], nil
}

// impatient bounds every attempt: an instance whose machine lost its power does
// not refuse a connection, it says nothing at all.
func impatient(factory sd.Factory, patience time.Duration) sd.Factory {
	return func(instance string) (endpoint.Endpoint, io.Closer, error) {
		call, closer, err := factory(instance)
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, request any) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			return call(ctx, request)
		}, closer, nil
	}
}
