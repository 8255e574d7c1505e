package etcdv3

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// last returns a context for what is to be done at the end, also when the one
// that is given has ended: for a time, or as long as the clientv3 client is
// open, which goes on trying for seconds after its Close.
func (c *client) last(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	unfollow := context.AfterFunc(c.cli.Ctx(), cancel)
	return ctx, func() {
		unfollow()
		cancel()
	}
}

// put writes a key under a lease, and returns its revision.
func (c *client) put(ctx context.Context, s Service, lease clientv3.LeaseID) (revision int64, err error) {
	resp, err := insist(ctx, c, func(ctx context.Context) (*clientv3.PutResponse, error) {
		return c.cli.KV.Put(ctx, s.Key, s.Value, clientv3.WithLease(lease))
	})
	if err != nil {
		return 0, err
	}
	return resp.Header.GetRevision(), nil
}

// commit makes a transaction that may be made twice: compare, and then or else.
func (c *client) commit(ctx context.Context, compare []clientv3.Cmp, then, otherwise clientv3.Op) (*clientv3.TxnResponse, error) {
	return insist(ctx, c, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return c.cli.KV.Txn(ctx).If(compare...).Then(then).Else(otherwise).Commit()
	})
}

// get reads one key.
func (c *client) get(ctx context.Context, key string) (*clientv3.GetResponse, error) {
	return insist(ctx, c, func(ctx context.Context) (*clientv3.GetResponse, error) { return c.cli.KV.Get(ctx, key) })
}

// delete deletes a key, or a range of them.
func (c *client) delete(ctx context.Context, key string, opts ...clientv3.OpOption) error {
	_, err := insist(ctx, c, func(ctx context.Context) (*clientv3.DeleteResponse, error) { return c.cli.KV.Delete(ctx, key, opts...) })
	return err
}

// wanted is a lease that is asked for. It has an id that the client has chosen,
// so that to ask again is to ask for the same one: an answer may be lost.
type wanted struct {
	id   clientv3.LeaseID // 0 to have etcd choose, for a client that wraps its Lease
	ttl  int64            // in seconds
	sent atomic.Bool      // a request has left, so that etcd may hold the lease
}

// granted is a lease that was taken, with the TTL in seconds that etcd gave it.
type granted struct {
	id  clientv3.LeaseID
	ttl int64
}

// newWanted returns a lease that nobody has asked for.
func (c *client) newWanted(ttl int64) *wanted {
	w := &wanted{ttl: ttl}
	if c.leases != nil {
		w.id = clientv3.LeaseID(1 + rand.Int64N(math.MaxInt64))
	}
	return w
}

// grace is how long a grant may still be answered when it is not wanted any
// more: 150 ms by default. etcd goes on with a request that was cancelled, and may
// do so after it was told to revoke that lease.
func (c *client) grace() time.Duration { return c.timeout / 20 }

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

// grant takes a lease.
func (c *client) grant(ctx context.Context, w *wanted) (granted, error) {
	ctx, cancel := outlast(ctx, c.grace())
	defer cancel()
	return insist(ctx, c, func(ctx context.Context) (granted, error) {
		if w.id == 0 {
			return c.grantAny(ctx, w.ttl)
		}
		return c.grantWanted(ctx, w)
	})
}

func (c *client) grantAny(ctx context.Context, ttl int64) (granted, error) {
	resp, err := c.cli.Lease.Grant(ctx, ttl)
	if err != nil {
		return granted{}, err
	}
	return granted{resp.ID, resp.TTL}, nil
}

// grantWanted takes the lease with the id that is wanted, also if an earlier
// request has taken it already.
func (c *client) grantWanted(ctx context.Context, w *wanted) (granted, error) {
	for {
		var member peer.Peer
		resp, err := c.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(w.id), TTL: w.ttl}, grpc.Peer(&member))
		if err == nil {
			return granted{clientv3.LeaseID(resp.ID), resp.TTL}, nil
		}
		if member.Addr != nil {
			w.sent.Store(true)
		}
		if err = clientv3.ContextError(ctx, err); !errors.Is(err, rpctypes.ErrLeaseExist) {
			return granted{}, err
		}
		left, err := c.renew(ctx, w.id) // it may be about to expire
		if left > 0 || err != nil {
			return granted{w.id, left}, err
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
	_, err := insist(ctx, c, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return c.cli.Lease.Revoke(ctx, lease)
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// revokeAll ends leases, and returns those that it could not, and why.
func (c *client) revokeAll(ctx context.Context, leases []clientv3.LeaseID) (left []clientv3.LeaseID, err error) {
	for _, id := range leases {
		if e := c.revoke(ctx, id); e != nil {
			left, err = append(left, id), e
		}
	}
	return left, err
}

// insist makes a request that may be made more than once until it is answered,
// or refused, or ctx ends, at its deadline at the latest. clientv3 does so for
// reads: a write may fail because the leader changes.
func insist[T any](ctx context.Context, c *client, request func(context.Context) (T, error)) (T, error) {
	var retry backoff
	for {
		deadline, _ := ctx.Deadline()
		answer, err := hedge(ctx, c.hedges(time.Until(deadline)), request)
		if err == nil || !transient(err) {
			return answer, err
		}
		if !retry.wait(ctx) {
			return answer, ctx.Err()
		}
	}
}

// hedges are how long to wait for an answer, of all the time that there is,
// until the request is made once more beside the first. Where there are other
// members that is soon, and twice, since grpc gives each to the next one: a member
// whose link went silent is noticed only after seconds. A write may also be lost
// with an old leader, which says so as late.
func (c *client) hedges(all time.Duration) []time.Duration {
	if len(c.cli.Endpoints()) > 1 {
		return []time.Duration{all / 6, 0, all / 3, 0}
	}
	return []time.Duration{all / 3 * 2}
}

// hedge makes a request, and once more beside it after each wait, until one is
// answered. Then the others are cancelled.
func hedge[T any](ctx context.Context, waits []time.Duration, request func(context.Context) (T, error)) (T, error) {
	if len(waits) == 0 {
		return request(ctx)
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	var answer T
	var err error
	answered := false // by another than the first: with success, or a refusal
	done := make(chan struct{})
	others := time.AfterFunc(waits[0], func() {
		defer close(done)
		answer, err = hedge(both, waits[1:], request)
		if answered = err == nil || both.Err() == nil && !transient(err); answered {
			cancel()
		}
	})
	firstAnswer, firstErr := request(both)
	if !others.Stop() { // they have begun, and have to end
		cancel()
		<-done
	}
	if firstErr != nil && answered {
		return answer, err
	}
	return firstAnswer, firstErr
}
