package tests

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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

func TestGrantWhoseLeaderChanged_IsAskedForAgain(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	lossy := &lossyGrants{how: leaderChanged}
	lossy.lose.Store(1)
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{lossy.option()}}, etcd.endpoints()...)
	began := time.Now()
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	within(t, 6, requestTimeout, time.Since(began))
	never(t, 6*time.Second, "the key went away", func() bool { return len(etcd.values(t, "/s/")) != 1 })
	if n := etcd.leases(t); n != 1 { // the one without a key has run out
		t.Errorf("%d leases", n)
	}
}

func TestRegisterThatGetsNoAnswer_LeavesNothing(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	lossy := &lossyGrants{how: neverAnswers}
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{lossy.option()}}, etcd.endpoints()...)
	lossy.lose.Store(100)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	took := eventually(t, 8*time.Second, "the lease, which never had a key, is gone", func() bool { return etcd.leases(t) == 0 })
	within(t, 6, 6*time.Second, took) // its TTL, and etcd's time to find it
	lossy.lose.Store(0)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	if n := etcd.leases(t); n != 1 {
		t.Errorf("%d leases", n)
	}
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
		err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, "the key is gone", func() bool { return len(etcd.values(t, "/s/")) == 0 })
	}
	// A grant that was under way leaves a lease without a key, until its TTL.
	eventually(t, 8*time.Second, "all leases are gone", func() bool { return etcd.leases(t) == 0 })
	holds(t, 9)
}

// latePuts holds puts back, and loses what is to revoke their lease, while it
// is away. It is how a link behaves that goes silent for a while.
type latePuts struct {
	away atomic.Bool
	held atomic.Pointer[pb.TxnRequest] // the last put that was held back
}

func (l *latePuts) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		put, isPut := req.(*pb.TxnRequest)
		if isPut && l.away.Load() {
			l.held.Store(put)
		}
		if (isPut || strings.HasSuffix(method, "LeaseRevoke")) && l.away.Load() {
			return neverAnswers(ctx)
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	})
}

func TestPutThatArrivesAfterTheNext_DoesNothing(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	late := &latePuts{}
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{late.option()}}, etcd.endpoints()...)
	ttl := etcdv3.NewTTLOption(500*time.Millisecond, time.Minute)
	late.away.Store(true)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "first", TTL: ttl}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	late.away.Store(false)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "second", TTL: ttl}); err != nil {
		t.Fatal(err)
	}
	resp, err := pb.NewKVClient(etcd.Client(0).ActiveConnection()).Txn(t.Context(), late.held.Load())
	if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
		t.Fatal(err)
	}
	if resp.GetSucceeded() {
		t.Error("it was put")
	}
	never(t, 2*time.Second, "the second value is not there", func() bool { return !slices.Equal(etcd.values(t, "/s/"), []string{"second"}) })
	holds(t, 8)
}
