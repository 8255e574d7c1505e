package etcdv3

import (
	"context"
	"net"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// virtualLease is a lease that expires unless it is renewed.
type virtualLease struct {
	ttl    time.Duration
	expiry *time.Timer
}

// revokeAll ends all leases.
func (e *virtualEtcd) revokeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.leases {
		e.endLease(id)
	}
}

func (e *virtualEtcd) endLease(id int64) {
	e.leases[id].expiry.Stop()
	delete(e.leases, id)
	for key, kv := range e.keys {
		if kv.Lease == id {
			e.delete([]byte(key), nil)
		}
	}
	e.commit()
}

func (e *virtualEtcd) LeaseGrant(ctx context.Context, in *pb.LeaseGrantRequest, opts ...grpc.CallOption) (out *pb.LeaseGrantResponse, err error) {
	return out, e.request(ctx, "grant", func() error {
		for _, o := range opts {
			if to, ok := o.(grpc.PeerCallOption); ok {
				to.PeerAddr.Addr = &net.UnixAddr{}
			}
		}
		id, ttl := in.ID, max(in.TTL, 2)
		if id == 0 {
			e.lastLease++
			id = e.lastLease
		}
		if e.leases[id] != nil {
			return rpctypes.ErrGRPCLeaseExist
		}
		l := &virtualLease{ttl: time.Duration(ttl) * time.Second}
		l.expiry = time.AfterFunc(l.ttl, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.leases[id] == l {
				e.endLease(id)
			}
		})
		e.leases[id] = l
		out = &pb.LeaseGrantResponse{Header: e.now(), ID: id, TTL: ttl}
		return nil
	})
}

func (e *virtualEtcd) LeaseRevoke(ctx context.Context, in *pb.LeaseRevokeRequest, _ ...grpc.CallOption) (out *pb.LeaseRevokeResponse, err error) {
	return out, e.request(ctx, "revoke", func() error {
		if e.leases[in.ID] == nil {
			return rpctypes.ErrGRPCLeaseNotFound
		}
		e.endLease(in.ID)
		out = &pb.LeaseRevokeResponse{Header: e.now()}
		return nil
	})
}

// virtualLessor is clientv3's Lease, but for heartbeats: its KeepAliveOnce
// tries again without a pause, which never ends while time stands still.
type virtualLessor struct {
	clientv3.Lease
	etcd *virtualEtcd
}

func (l virtualLessor) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	e, ttl := l.etcd, time.Duration(0)
	err := e.request(ctx, "beat", func() error {
		lease := e.leases[int64(id)]
		if lease == nil {
			return rpctypes.ErrLeaseNotFound
		}
		ttl = lease.ttl
		lease.expiry.Reset(ttl)
		return nil
	})
	return &clientv3.LeaseKeepAliveResponse{ID: id, TTL: int64(ttl / time.Second)}, err
}
