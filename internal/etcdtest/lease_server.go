package etcdtest

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

type leaseServer struct {
	pb.UnimplementedLeaseServer
	*Member
}

func (s leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := s.named(ctx); err != nil {
		return nil, err
	}
	return propose(ctx, s.Member, r, func(*change, caller) (*pb.LeaseGrantResponse, error) {
		l, err := s.etcd.grant(r.ID, r.TTL)
		if err != nil {
			return nil, err
		}
		return &pb.LeaseGrantResponse{Header: s.header(s.rev()), ID: l.id, TTL: l.ttl}, nil
	})
}

func (s leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := s.named(ctx); err != nil {
		return nil, err
	}
	return propose(ctx, s.Member, r, func(_ *change, by caller) (*pb.LeaseRevokeResponse, error) {
		l := s.etcd.store.leases[r.ID]
		if err := s.etcd.mayPutAll(by, l); err != nil {
			return nil, err
		}
		if l == nil {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		s.etcd.revoke(l)
		return &pb.LeaseRevokeResponse{Header: s.header(s.rev())}, nil
	})
}

func (s leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := s.named(ctx); err != nil {
		return nil, err
	}
	if err := s.applied(); err != nil {
		return nil, err
	}
	s.etcd.mu.Lock()
	defer s.etcd.mu.Unlock()
	resp := &pb.LeaseTimeToLiveResponse{Header: s.header(s.rev()), ID: r.ID, TTL: -1}
	if l := s.etcd.store.leases[r.ID]; l != nil {
		resp.TTL, resp.GrantedTTL = int64(time.Until(l.expiry).Seconds()), l.ttl
		for _, key := range slices.Sorted(maps.Keys(l.keys)) {
			if r.Keys {
				resp.Keys = append(resp.Keys, []byte(key))
			}
		}
	}
	return resp, nil
}

func (s leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := s.named(ctx); err != nil {
		return nil, err
	}
	s.etcd.mu.Lock()
	defer s.etcd.mu.Unlock()
	resp := &pb.LeaseLeasesResponse{Header: s.header(s.rev())}
	for _, l := range s.etcd.store.leases {
		resp.Leases = append(resp.Leases, l.status())
	}
	return resp, nil
}

func (s leaseServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	ended := make(chan error, 1)
	s.etcd.background(func() { ended <- s.renewOneAfterAnother(stream) })
	select {
	case err := <-ended:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-s.etcd.closed:
		return rpctypes.ErrGRPCStopped
	}
}

// renewOneAfterAnother is the life of a keep-alive stream.
func (s leaseServer) renewOneAfterAnother(stream pb.Lease_LeaseKeepAliveServer) error {
	proxy := proxied{etcd: s.etcd, stream: stream, answered: map[int64]time.Time{}}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		resp, err := s.renew(stream.Context(), r)
		if err != nil {
			return err
		}
		if s.etcd.now().Proxy {
			proxy.answer(resp)
		} else {
			err = stream.Send(resp)
		}
		if err != nil {
			return err
		}
	}
}

func (s leaseServer) renew(ctx context.Context, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	if err := s.arrive(ctx, "Renew", r); err != nil {
		return nil, err
	}
	s.etcd.mu.Lock()
	resp := &pb.LeaseKeepAliveResponse{Header: s.header(s.rev()), ID: r.ID}
	alone := s.alone
	s.etcd.mu.Unlock()
	if !s.etcd.sleepFor(ctx, s.etcd.now().RenewTime) {
		return nil, ctxOr(ctx, net.ErrClosed)
	}
	if alone {
		if err := s.leaderless(ctx); err != nil {
			return nil, err
		}
	}
	ttl, err := s.renewLease(ctx, r.ID)
	resp.TTL = ttl
	s.delayAnswer(ctx, "Renew", r)
	return resp, err
}

// leaderless waits for a leader to send the renewal to.
func (m *Member) leaderless(ctx context.Context) error {
	limited, cancel := m.etcd.limit(ctx)
	defer cancel()
	if err := m.fresh.wait(limited, m.etcd.closed); err != nil && ctx.Err() == nil {
		return rpctypes.ErrGRPCNoLeader
	}
	return ctx.Err()
}

// renewLease returns the TTL of a lease that it renewed, 0 if there is none.
func (s leaseServer) renewLease(ctx context.Context, id int64) (int64, error) {
	e := s.etcd
	if s.lookup(id) == nil {
		if err := s.applied(); err != nil { // it may be about to be granted
			return 0, err
		}
	}
	if e.now().CheckRenewals {
		if err := s.mayRenew(ctx, id); err != nil {
			return 0, err
		}
	}
	for l := s.lookup(id); l != nil; l = s.lookup(id) {
		if s.refreshed(l) {
			return l.ttl, nil
		}
		select { // it has expired, and is being revoked
		case <-l.gone:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-e.closed:
			return 0, net.ErrClosed
		}
	}
	return 0, nil
}

func (m *Member) lookup(id int64) *lease {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	return m.etcd.store.leases[id]
}

func (m *Member) refreshed(l *lease) bool {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	if m.etcd.store.leases[l.id] != l || l.expiring || !l.expiry.After(time.Now()) {
		return false
	}
	m.etcd.refresh(l)
	return true
}

// proxied is a keep-alive stream behind a proxy. A lease is answered once in a
// third of its TTL, as etcd's gRPC proxy does.
type proxied struct {
	etcd     *Etcd
	stream   pb.Lease_LeaseKeepAliveServer
	answered map[int64]time.Time
	sending  sync.Mutex
}

func (p *proxied) answer(resp *pb.LeaseKeepAliveResponse) {
	at := p.answered[resp.ID].Add(time.Duration(resp.TTL) * time.Second / 3)
	if now := time.Now(); at.Before(now) {
		at = now
	}
	p.answered[resp.ID] = at
	p.etcd.background(func() {
		if p.etcd.sleepFor(p.stream.Context(), time.Until(at)) {
			p.sending.Lock()
			defer p.sending.Unlock()
			_ = p.stream.Send(resp)
		}
	})
}
