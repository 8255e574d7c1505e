package etcdv3

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lossyGrants loses what etcd answers to requests for a lease: the client
// waits for it, or hears that the leader has changed.
type lossyGrants struct {
	lose atomic.Int64 // so many answers more
	how  func(context.Context) error
}

func (l *lossyGrants) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoker(ctx, method, req, reply, cc, opts...)
		if strings.HasSuffix(method, "LeaseGrant") && l.lose.Add(-1) >= 0 {
			return l.how(ctx)
		}
		return err
	})
}

func neverAnswers(ctx context.Context) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func leaderChanged(context.Context) error {
	return status.Error(codes.Unavailable, "etcdserver: leader changed")
}

// leases are how many etcd holds.
func (c *cluster) leases(t testing.TB) int {
	t.Helper()
	all, err := c.Client(0).Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(all.Leases)
}

func TestGrantWhoseAnswerIsLost_IsTheLeaseThatIsHeld(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(context.Context) error{"no answer": neverAnswers, "leader changed": leaderChanged} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := newCluster(t, 1)
			lossy := &lossyGrants{how: how}
			lossy.lose.Store(1)
			timeout := 3 * defaultTimeout // the machine may stand still for a third of it
			c, _ := connect(t, ClientOptions{HeaderTimeoutPerRequest: timeout, DialOptions: []grpc.DialOption{lossy.option()}}, etcd.endpoints()...)
			began := time.Now()
			if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
				t.Fatal(err)
			}
			within(t, 6, timeout, time.Since(began))
			if n := etcd.leases(t); n != 1 {
				t.Errorf("%d leases", n)
			}
			never(t, 4*time.Second, "the key went away", func() bool { return len(etcd.values(t, "/s/")) != 1 })
		})
	}
}

func TestRegisterThatGetsNoAnswer_LeavesNothing(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	lossy := &lossyGrants{how: neverAnswers}
	c, _ := connect(t, ClientOptions{DialOptions: []grpc.DialOption{lossy.option()}}, etcd.endpoints()...)
	lossy.lose.Store(100)
	if err := c.Register(Service{Key: "/s/1", Value: "v"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "the lease is gone", func() bool { return etcd.leases(t) == 0 })
	lossy.lose.Store(0)
	if err := c.Register(Service{Key: "/s/1", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	if n := etcd.leases(t); n != 1 {
		t.Errorf("%d leases", n)
	}
	holds(t, 6)
}

func TestContextEndsInTheMiddleOfRegister_LeavesNothing(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	for i := range 40 {
		c, leave := etcd.connect(t)
		if _, err := c.GetEntries("/"); err != nil { // it is connected
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(i)*100*time.Microsecond, leave) // in all that a Register does
		err := c.Register(Service{Key: "/s/1", Value: "v"})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, "all is gone", func() bool { return etcd.leases(t) == 0 && len(etcd.values(t, "/s/")) == 0 })
	}
	holds(t, 9)
}

// latePuts holds puts back, and loses what is to revoke their lease, while it
// is away. It is how a link behaves that goes silent for a while.
type latePuts struct {
	away atomic.Bool
	held atomic.Int64 // the lease of the last put that was held back
}

func (l *latePuts) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		put, isPut := req.(*pb.PutRequest)
		if isPut && l.away.Load() {
			l.held.Store(put.Lease)
		}
		if (isPut || strings.HasSuffix(method, "LeaseRevoke")) && l.away.Load() {
			return neverAnswers(ctx)
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	})
}

func TestPutThatArrivesAfterTheNext_DoesNotStay(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	late := &latePuts{}
	c, _ := connect(t, ClientOptions{DialOptions: []grpc.DialOption{late.option()}}, etcd.endpoints()...)
	ttl := NewTTLOption(500*time.Millisecond, time.Minute)
	late.away.Store(true)
	if err := c.Register(Service{Key: "/s/1", Value: "first", TTL: ttl}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	never(t, requestTimeout, "it is gone", func() bool { return etcd.leases(t) != 1 })
	late.away.Store(false)
	if err := c.Register(Service{Key: "/s/1", Value: "second", TTL: ttl}); err != nil {
		t.Fatal(err)
	}
	_, err := etcd.Client(0).Put(t.Context(), "/s/1", "first", clientv3.WithLease(clientv3.LeaseID(late.held.Load())))
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "the second value is there, and one lease", func() bool {
		return slices.Equal(etcd.values(t, "/s/"), []string{"second"}) && etcd.leases(t) == 1
	})
	holds(t, 7)
}
