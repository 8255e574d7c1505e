package etcdv3

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// last returns a context for what is to be done at the end, also when the one
// that is given has ended: for one request timeout, or as long as the clientv3
// client is open, which goes on trying for seconds after its Close.
func (c *client) last(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	unfollow := context.AfterFunc(c.cli.Ctx(), cancel)
	return ctx, func() {
		unfollow()
		cancel()
	}
}

// put writes a key under a lease, and returns its revision.
func (c *client) put(ctx context.Context, s Service, lease clientv3.LeaseID) (revision int64, err error) {
	err = insist(ctx, func(ctx context.Context) error {
		resp, err := c.cli.KV.Put(ctx, s.Key, s.Value, clientv3.WithLease(lease))
		if err == nil {
			revision = resp.Header.GetRevision()
		}
		return err
	})
	return revision, err
}

// wanted is a lease that is asked for. It has an id that the client has chosen,
// so that to ask again is to ask for the same one: an answer may be lost.
type wanted struct {
	id   clientv3.LeaseID // 0 to have etcd choose, for a client that wraps its Lease
	ttl  int64            // in seconds
	sent bool             // a request has left, so that etcd may hold the lease
}

// newWanted returns a lease that nobody has asked for.
func (c *client) newWanted(ttl int64) wanted {
	if c.leases == nil {
		return wanted{ttl: ttl}
	}
	return wanted{id: clientv3.LeaseID(1 + rand.Int64N(math.MaxInt64)), ttl: ttl}
}

// grantGrace is how long a grant may still be answered when it is not wanted
// any more. etcd goes on with a request that was cancelled, and may do so after
// it was told to revoke that lease.
const grantGrace = 250 * time.Millisecond

// outlast returns a context that ends with the deadline of another one, but
// only some time after that was cancelled.
func outlast(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	deadline, _ := ctx.Deadline()
	longer, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	unfollow := context.AfterFunc(ctx, func() { time.AfterFunc(by, cancel) })
	return longer, func() {
		unfollow()
		cancel()
	}
}

// plainLease reports whether a client's Lease is clientv3's own.
func plainLease(cli *clientv3.Client) bool {
	return cli.ActiveConnection() != nil && reflect.TypeOf(clientv3.NewLease(cli)) == reflect.TypeOf(cli.Lease)
}

// grant takes a lease, and returns it with the TTL that etcd gave it.
func (c *client) grant(ctx context.Context, w *wanted) (id clientv3.LeaseID, ttl int64, err error) {
	ctx, cancel := outlast(ctx, grantGrace)
	defer cancel()
	ask := c.grantWanted
	if w.id == 0 {
		ask = c.grantAny
	}
	err = insist(ctx, func(ctx context.Context) (err error) {
		id, ttl, err = ask(ctx, w)
		return err
	})
	return id, ttl, err
}

func (c *client) grantAny(ctx context.Context, w *wanted) (clientv3.LeaseID, int64, error) {
	resp, err := c.cli.Lease.Grant(ctx, w.ttl)
	if err != nil {
		return 0, 0, err
	}
	return resp.ID, resp.TTL, nil
}

// grantWanted takes the lease with the id that is wanted, also if an earlier
// request has taken it already.
func (c *client) grantWanted(ctx context.Context, w *wanted) (clientv3.LeaseID, int64, error) {
	for {
		var member peer.Peer
		resp, err := c.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(w.id), TTL: w.ttl}, grpc.Peer(&member))
		if err == nil {
			return clientv3.LeaseID(resp.ID), resp.TTL, nil
		}
		w.sent = w.sent || member.Addr != nil
		if err = clientv3.ContextError(ctx, err); !errors.Is(err, rpctypes.ErrLeaseExist) {
			return 0, 0, err
		}
		left, err := c.renew(ctx, w.id) // it may be about to expire
		if left > 0 || err != nil {
			return w.id, left, err
		}
	}
}

// renew sends one heartbeat, and returns the TTL that the lease has, 0 if there
// is no such lease.
func (c *client) renew(ctx context.Context, id clientv3.LeaseID) (ttl int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.heartbeat.open(ctx)
	if err != nil {
		return 0, clientv3.ContextError(ctx, err)
	}
	_ = stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}) // Recv tells why it failed
	resp, err := stream.Recv()
	if err != nil {
		return 0, clientv3.ContextError(ctx, err)
	}
	return resp.TTL, nil
}

// revoke ends a lease, and with it the key that is under it.
func (c *client) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	_, err := c.cli.Lease.Revoke(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// insist makes a request that may be made more than once until it is answered,
// or refused, or ctx ends. clientv3 does so for reads: a write may fail because
// the leader changes, and it may be lost with the old leader, which says so
// only after seconds. So an attempt takes two thirds of the time that is left.
func insist(ctx context.Context, request func(context.Context) error) error {
	var retry backoff
	for {
		deadline, _ := ctx.Deadline()
		attempt, cancel := context.WithTimeout(ctx, time.Until(deadline)*2/3)
		err := request(attempt)
		lost := attempt.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || !lost && !transient(err) {
			return err
		}
		if !retry.wait(ctx) {
			return ctx.Err()
		}
	}
}
