// Package resolver gives gRPC clients the instances of any sd.Instancer.
package resolver

import (
	"github.com/go-kit/kit/sd"
	"google.golang.org/grpc/resolver"
)

// An Instancer is one that can be stopped, as those of etcdv3 and consul.
type Instancer interface {
	sd.Instancer
	Stop()
}

// New returns a resolver for targets as "etcd:///hello". It makes an Instancer
// for each target, whose instances have to be addresses as 10.0.0.1:8080.
func New(scheme string, instancer func(service string) (Instancer, error)) resolver.Builder {
	return builder{scheme, instancer}
}

type builder struct {
	scheme    string
	instancer func(service string) (Instancer, error)
}

func (b builder) Scheme() string { return b.scheme }

func (b builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	instancer, err := b.instancer(target.Endpoint())
	if err != nil {
		return nil, err
	}
	f := &follower{instancer: instancer, events: make(chan sd.Event), done: make(chan struct{})}
	go f.follow(cc)
	instancer.Register(f.events)
	return f, nil
}

// follower hands the instances on to one grpc.ClientConn.
type follower struct {
	instancer Instancer
	events    chan sd.Event
	done      chan struct{}
}

func (f *follower) follow(cc resolver.ClientConn) {
	defer close(f.done)
	for event := range f.events {
		if event.Err != nil {
			cc.ReportError(event.Err) // addresses that are known stay in use
			continue
		}
		addresses := make([]resolver.Address, len(event.Instances))
		for i, instance := range event.Instances {
			addresses[i].Addr = instance
		}
		_ = cc.UpdateState(resolver.State{Addresses: addresses}) // an error asks for ResolveNow
	}
}

// ResolveNow has nothing to do: each change is handed on as it happens.
func (f *follower) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends what Build began.
func (f *follower) Close() {
	f.instancer.Deregister(f.events)
	close(f.events)
	<-f.done
	f.instancer.Stop()
}
