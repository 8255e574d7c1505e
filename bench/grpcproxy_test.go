package bench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/bench/internal/member"
	"github.com/kitsd/etcdv3/bench/internal/proxy"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// proxied is a member, and etcd's gRPC proxy in front of it.
type proxied struct {
	*member.Member
	direct   *clientv3.Client // to the member
	endpoint string           // of the proxy
}

// startProxy starts both.
func startProxy(t *testing.T) *proxied {
	t.Helper()
	members, err := member.Start(1, member.Options{NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { member.Stop(members) })
	endpoint, stop, err := proxy.Serve(bareClient(t, members[0].Endpoint))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &proxied{Member: members[0], direct: bareClient(t, members[0].Endpoint), endpoint: endpoint}
}

// client returns a Client of the library that knows the proxy only.
func (p *proxied) client(t *testing.T) etcdv3.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c, err := etcdv3.NewClient(ctx, []string{p.endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// values are what the member holds under a prefix.
func (p *proxied) values(t *testing.T, prefix string) (all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	resp, err := p.direct.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		all = append(all, string(kv.Value))
	}
	return all
}

// follow returns what a subscriber of a prefix is told.
func follow(t *testing.T, c etcdv3.Client, prefix string) <-chan sd.Event {
	t.Helper()
	s, err := etcdv3.NewInstancer(c, prefix, log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan sd.Event, 100)
	s.Register(events)
	t.Cleanup(s.Stop)
	return events
}

// expect waits until a subscriber is told of exactly these instances.
func expect(t *testing.T, events <-chan sd.Event, instances ...string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			if slices.Equal(e.Instances, instances) {
				return
			}
		case <-timeout:
			t.Fatalf("the subscriber was never told of %q", instances)
		}
	}
}

// within waits until a condition holds.
func within(t *testing.T, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

func ttl(heartbeat, ttl time.Duration) *etcdv3.TTLOption { return etcdv3.NewTTLOption(heartbeat, ttl) }

func TestGRPCProxy_RegisterDiscoverChangeDeregister(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	events := follow(t, p.client(t), "/s/")
	c := p.client(t)
	service := etcdv3.Service{Key: "/s/1", Value: "a", TTL: ttl(time.Second, 5*time.Second)}
	if err := c.Register(service); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "a")
	service.Value = "b"
	if err := c.Register(service); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "b")
	if _, err := p.direct.Put(context.Background(), "/s/2", "c"); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "b", "c")
	if err := c.Deregister(service); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "c")
	if got := p.values(t, "/s/"); !slices.Equal(got, []string{"c"}) {
		t.Fatalf("etcd holds %q", got)
	}
}

func TestGRPCProxy_LeaseLivesBeyondItsTTL(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	c := p.client(t)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "a", TTL: ttl(time.Second, 5*time.Second)}); err != nil {
		t.Fatal(err)
	}
	lease := c.LeaseID()
	for began := time.Now(); time.Since(began) < 13*time.Second; time.Sleep(100 * time.Millisecond) {
		if got := p.values(t, "/s/"); !slices.Equal(got, []string{"a"}) {
			t.Fatalf("after %v etcd holds %q", time.Since(began), got)
		}
	}
	if c.LeaseID() != lease {
		t.Fatal("the lease was replaced")
	}
}

func TestGRPCProxy_LeaseRevoked_RegistersAgain(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	c := p.client(t)
	events := follow(t, p.client(t), "/s/")
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "a", TTL: ttl(time.Second, 5*time.Second)}); err != nil {
		t.Fatal(err)
	}
	expect(t, events, "a")
	if _, err := p.direct.Revoke(context.Background(), clientv3.LeaseID(c.LeaseID())); err != nil {
		t.Fatal(err)
	}
	expect(t, events)
	within(t, 8*time.Second, "registered again", func() bool { return len(p.values(t, "/s/")) == 1 })
	expect(t, events, "a")
}

// TestGRPCProxy_QuietWatch_IsNotListedAgain: the proxy answers no progress
// requests. Until an Instancer has learnt that, it may list twice. From then on one
// small read in ten seconds has to do, and no list.
func TestGRPCProxy_QuietWatch_IsNotListedAgain(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("v%03d", i))
		if _, err := p.direct.Put(context.Background(), fmt.Sprintf("/s/%03d", i), all[i]); err != nil {
			t.Fatal(err)
		}
	}
	events := follow(t, p.client(t), "/s/")
	expect(t, events, all...)
	began := counts(t, p.Member)
	time.Sleep(7 * time.Second)
	learnt := counts(t, p.Member)
	time.Sleep(21 * time.Second)
	first, then := learnt.Since(began), counts(t, p.Member).Since(learnt)
	t.Logf("in the first 7 s: %v range requests, %v bytes sent", first.Handled("Range"), first.Sent())
	t.Logf("in 21 s more: %v range requests, %v bytes sent", then.Handled("Range"), then.Sent())
	const list = 2500 // bytes, of a hundred instances
	if n := first.Sent(); n > 2.5*list {
		t.Errorf("%v bytes at first", n)
	}
	if n := then.Handled("Range"); n > 3 {
		t.Errorf("%v range requests", n)
	}
	if n := then.Sent(); n > list/2 {
		t.Errorf("%v bytes", n)
	}
	select {
	case e := <-events:
		t.Errorf("an event without a change: %v", e)
	default:
	}
	if _, err := p.direct.Put(context.Background(), "/s/100", "w"); err != nil {
		t.Fatal(err)
	}
	expect(t, events, append(all, "w")...)
}
