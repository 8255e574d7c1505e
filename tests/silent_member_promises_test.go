package tests

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// oneSilent returns a cluster of three, and a client of it that has registered
// so many services, when the link to one member has just gone silent.
func oneSilent(t *testing.T, services int) (etcd *cluster, c etcdv3.Client, leave context.CancelFunc) {
	t.Helper()
	etcd = newCluster(t, 3)
	c, leave = etcd.connect(t)
	for i := range services {
		if err := c.Register(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i), Value: "v", TTL: etcdv3.NewTTLOption(2*time.Second, 10*time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // so that there are connections to all
		if _, err := c.GetEntries("/s/"); err != nil {
			t.Fatal(err)
		}
	}
	etcd.bridges[1].silence()
	return etcd, c, leave
}

func TestOneMemberSilent_DeregisterFindsAnother(t *testing.T) {
	t.Parallel()
	etcd, c, _ := oneSilent(t, 12)
	for i := range 12 {
		began := time.Now()
		if err := c.Deregister(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i)}); err != nil {
			t.Error(err)
		}
		within(t, 8, 3*time.Second, time.Since(began))
	}
	if left := etcd.values(t, "/s/"); len(left) > 0 {
		t.Errorf("%d keys are left", len(left))
	}
	etcd.bridges[1].speak()
}

func TestOneMemberSilent_TheEndOfTheContextRevokesAll(t *testing.T) {
	t.Parallel()
	etcd, _, leave := oneSilent(t, 12)
	leave()
	took := eventually(t, 5*time.Second, "all keys are gone", func() bool { return len(etcd.values(t, "/s/")) == 0 })
	within(t, 9, 3*time.Second, took)
	etcd.bridges[1].speak()
}

func TestOneMemberSilent_LostLeasesAreReplaced(t *testing.T) {
	t.Parallel()
	etcd, _, _ := oneSilent(t, 12)
	time.Sleep(7 * time.Second) // heartbeats have found another member; grpc has not noticed yet
	leases, err := etcd.Client(0).Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Leases {
		if _, err := etcd.Client(0).Revoke(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	took := eventually(t, 6*time.Second, "all are back", func() bool { return len(etcd.values(t, "/s/")) == 12 })
	within(t, 2, 4*time.Second, took) // a heartbeat of 2 s, 1 s, and requests that go to the silent member first
	etcd.bridges[1].speak()
}

func TestRequestTimeoutWithoutEnd_Works(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := connect(t, etcdv3.ClientOptions{HeaderTimeoutPerRequest: math.MaxInt64}, etcd.endpoints()...)
	s := etcdv3.Service{Key: "/s/1", Value: "v"}
	if err := errors.Join(c.Register(s), c.Deregister(s)); err != nil {
		t.Error(err)
	}
	holds(t, 21)
}

// brokenAtEvents is a path that breaks every watch whose response has events.
func brokenAtEvents() grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		return streamBrokenAtEvents{s}, err
	})
}

type streamBrokenAtEvents struct{ grpc.ClientStream }

func (s streamBrokenAtEvents) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if resp, ok := m.(*pb.WatchResponse); ok && err == nil && len(resp.Events) > 0 {
		return status.Error(codes.Internal, "stream terminated by RST_STREAM")
	}
	return err
}

func TestResponseThatBreaksEachStream_IsListedInstead(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{brokenAtEvents()}}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	mustPut(t, etcd.Client(0), "/s/1", "a")
	took := eventually(t, 5*time.Second, "the change", func() bool { return events.shows("a") })
	within(t, 11, 5*time.Second, took)
}
