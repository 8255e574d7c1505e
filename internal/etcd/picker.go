package etcd

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// balancerName names the way in which requests are spread over the members.
// They go to one after the other, as with clientv3, but to none that is silent.
const balancerName = "etcdv3_members"

// serviceConfig has grpc use it.
const serviceConfig = `{"loadBalancingConfig":[{"` + balancerName + `":{}}]}`

func init() {
	balancer.Register(builder{base.NewBalancerBuilder(balancerName, pickers{}, base.Config{})})
}

// builder makes balancers that know their members by the address that grpc dials.
type builder struct{ balancer.Builder }

func (b builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	return named{b.Builder.Build(cc, opts)}
}

// named gives each address its name as an attribute, which a handshake can read.
type named struct{ balancer.Balancer }

type nameKey struct{}

func (n named) UpdateClientConnState(s balancer.ClientConnState) error {
	s.ResolverState.Addresses = nil
	for _, e := range s.ResolverState.Endpoints {
		for _, a := range e.Addresses {
			a.Attributes = attributes.New(nameKey{}, a.Addr)
			s.ResolverState.Addresses = append(s.ResolverState.Addresses, a)
		}
	}
	return n.Balancer.UpdateClientConnState(s)
}

// memberOf returns the name of the member that a handshake is made with, "" if
// the connection is not balanced by this package.
func memberOf(ctx context.Context) string {
	name, _ := credentials.ClientHandshakeInfoFromContext(ctx).Attributes.Value(nameKey{}).(string)
	return name
}

// pickers builds a picker whenever a member connects, or its connection breaks.
type pickers struct{}

func (pickers) Build(info base.PickerBuildInfo) balancer.Picker {
	if len(info.ReadySCs) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	p := &picker{}
	for conn, member := range info.ReadySCs {
		p.ready = append(p.ready, ready{conn, member.Address})
	}
	return p
}

type ready struct {
	conn    balancer.SubConn
	address resolver.Address
}

// picker picks the member for a request or a stream.
type picker struct {
	ready []ready
	next  atomic.Uint32
}

// errNoOther is the answer to a probe that was to go to another member.
var errNoOther = status.Error(codes.Unavailable, "no such member is connected")

// Pick implements balancer.Picker.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	route, _ := info.Ctx.Value(routeKey{}).(*Route)
	first := p.first(route)
	for i := range p.ready {
		r := p.ready[(first+i)%len(p.ready)]
		if route.mayTake(r.address.Addr) {
			route.take(r.address.Addr)
			return balancer.PickResult{SubConn: r.conn}, nil
		}
	}
	if route.choosy() {
		return balancer.PickResult{}, errNoOther
	}
	if route != nil && route.past != "" { // no other is well
		route.past = ""
		return p.Pick(info)
	}
	r := p.ready[first]
	route.take(r.address.Addr)
	return balancer.PickResult{SubConn: r.conn}, nil
}

// first returns where to begin to look for a member.
func (p *picker) first(route *Route) int {
	if route != nil && route.prefer != "" {
		for i, r := range p.ready {
			if r.address.Addr == route.prefer {
				return i
			}
		}
	}
	return int(p.next.Add(1)) % len(p.ready)
}
