package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// granted is etcd's answer to a request for a lease.
type granted struct {
	id    clientv3.LeaseID
	ttl   int64 // in seconds
	in    store
	asked moment // when the request was sent that was answered
}

// store is a store of etcd at a moment, as the header of an answer tells. A proxy
// leaves its own headers empty.
type store struct {
	cluster, term uint64
	revision      int64
}

func storeOf(h *pb.ResponseHeader) store {
	return store{h.GetClusterId(), h.GetRaftTerm(), h.GetRevision()}
}

// contradicts reports whether a later answer cannot come from the store that it
// was: that one was wiped, or restored, or is another cluster's.
func (s store) contradicts(later store) bool {
	return s.cluster != 0 && later.cluster != 0 &&
		(s.cluster != later.cluster || s.term > later.term || s.revision > later.revision)
}

// Grant takes a lease of a TTL in seconds, and renews it from then on at a
// heartbeat. etcd chooses the id. A request that is carried out twice, or late,
// then leaves a lease without a key, and brings none back that was revoked.
func (k *Keeper) Grant(ctx context.Context, ttl int64, every time.Duration) (*Lease, error) {
	g, err := etcd.Ask(ctx, k.conn, etcd.Writing, func(ctx context.Context) (granted, error) {
		asked := k.now()
		g, err := k.grant(ctx, ttl)
		if g.asked = asked; err == nil {
			k.tookFor(k.now() - asked)
		}
		return g, err
	})
	if err == nil && (g.id == 0 || g.ttl <= 0) {
		err = errors.New("etcd's answer holds no lease")
	}
	if err != nil {
		return nil, fmt.Errorf("grant a lease of %d s: %w", ttl, err)
	}
	l := &Lease{ID: g.id, TTL: ttl, in: g.in, every: every, ttl: seconds(g.ttl)}
	k.keep(l, g.asked)
	return l, nil
}

// grant asks for a lease once. A client that wraps its Lease is asked by way of it.
func (k *Keeper) grant(ctx context.Context, ttl int64) (granted, error) {
	if k.conn.Leases == nil {
		resp, err := k.conn.Client.Lease.Grant(ctx, ttl)
		if err != nil || resp == nil {
			return granted{}, err
		}
		return granted{id: resp.ID, ttl: resp.TTL, in: storeOf(resp.ResponseHeader)}, nil
	}
	resp, err := k.conn.Leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: ttl})
	if err != nil {
		return granted{}, err
	}
	return granted{id: clientv3.LeaseID(resp.ID), ttl: resp.TTL, in: storeOf(resp.GetHeader())}, nil
}

// Revoke ends a lease, and with it the keys that are under it. A lease that is
// not there is no error.
func (k *Keeper) Revoke(ctx context.Context, id clientv3.LeaseID) error {
	_, err := etcd.Ask(ctx, k.conn, etcd.Ending, func(ctx context.Context) (struct{}, error) {
		if k.conn.Leases == nil {
			_, err := k.conn.Client.Lease.Revoke(ctx, id)
			return struct{}{}, err
		}
		_, err := k.conn.Leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(id)})
		return struct{}{}, err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}
