package dial

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// probe waits until one endpoint is connected, if the user's options hold
// grpc.WithBlock: clientv3 ignores that one since 3.6. A dial option cannot be
// looked into, but DialContext still honours it.
func probe(ctx context.Context, endpoints []member, timeout time.Duration, link link, options []grpc.DialOption) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	machines := manual.NewBuilderWithScheme("etcdv3")
	state := resolver.State{}
	for _, e := range endpoints {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: e.address, ServerName: e.host})
	}
	machines.InitialState(state)
	var failed obstacle
	link.timeout = min(link.timeout, timeout)
	all := append(failed.noted(link).options(),
		grpc.WithResolvers(machines),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	//lint:ignore SA1019 it is kept through all of grpc 1.x, and nothing else honours WithBlock
	conn, err := grpc.DialContext(ctx, machines.Scheme()+":///etcd", append(all, options...)...)
	switch {
	case err == nil:
		return conn.Close()
	case ctx.Err() == nil && failed.reason.Load() == nil:
		return fmt.Errorf("option DialOptions: %w", err)
	default:
		return fmt.Errorf("no endpoint could be reached within DialTimeout (%v): %w", timeout, failed.explain(err))
	}
}

// obstacle is the last reason why a connection failed. DialContext tells of its
// deadline only.
type obstacle struct{ reason atomic.Pointer[error] }

// note keeps why an attempt failed, unless it ran out of time or was cancelled.
func (o *obstacle) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		o.reason.Store(&err)
	}
}

// explain adds the reason to an error.
func (o *obstacle) explain(err error) error {
	if reason := o.reason.Load(); reason != nil {
		return fmt.Errorf("%w: %w", err, *reason)
	}
	return err
}

// noted returns a link whose failures are noted.
func (o *obstacle) noted(l link) link {
	l.credentials = noting{l.credentials, o}
	if dial := l.dial; dial != nil {
		l.dial = func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := dial(ctx, address)
			o.note(ctx, err)
			return conn, err
		}
	}
	return l
}

// noting notes why handshakes fail.
type noting struct {
	credentials.TransportCredentials
	obstacle *obstacle
}

func (n noting) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := n.TransportCredentials.ClientHandshake(ctx, authority, conn)
	n.obstacle.note(ctx, err)
	return secured, info, err
}

func (n noting) Clone() credentials.TransportCredentials {
	return noting{n.TransportCredentials.Clone(), n.obstacle}
}
