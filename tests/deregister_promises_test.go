package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
)

func TestDeregisterWhileItStillTries_StopsTrying(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.cut()
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v"}, nil)
	r.Register()
	began := time.Now()
	r.Deregister()
	within(t, 8, 3*time.Second+500*time.Millisecond, time.Since(began))
	n.mend()
	admin := n.admin()
	never(t, 5*time.Second, "registered", func() bool { return len(values(t, admin, "/s/")) != 0 })
}

func TestDeregister_RemovesKeyAndLeaseAtOnce(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	s := etcdv3.Service{Key: "/s/1", Value: "v"}
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing, which is no error
		if err := c.Deregister(etcdv3.Service{Key: s.Key}); err != nil {
			t.Fatal(err)
		}
		leases, err := etcd.Client(0).Leases(t.Context())
		if err != nil || len(leases.Leases) != 0 || len(etcd.values(t, "/s/")) != 0 {
			t.Fatalf("left: %v, %v", leases, err)
		}
	}
	if err := c.Deregister(etcdv3.Service{}); !errors.Is(err, etcdv3.ErrNoKey) {
		t.Fatal(err)
	}
	// From a client that never registered it, by key alone.
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	other, _ := etcd.connect(t)
	if err := other.Deregister(etcdv3.Service{Key: s.Key}); err != nil || len(etcd.values(t, "/s/")) != 0 {
		t.Fatal(err, etcd.values(t, "/s/"))
	}
	holds(t, 8)
}

func TestDeregister_LeavesTheKeyOfAnotherOwner(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	a, _ := etcd.connect(t)
	b, _ := etcd.connect(t)
	if err := a.Register(etcdv3.Service{Key: "/s/1", Value: "a", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	if err := b.Register(etcdv3.Service{Key: "/s/1", Value: "b", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // however often
		if err := a.Deregister(etcdv3.Service{Key: "/s/1"}); err != nil {
			t.Fatal(err)
		}
	}
	never(t, time.Second, "b's key is gone", func() bool { return !slices.Equal(etcd.values(t, "/s/"), []string{"b"}) })
	if err := b.Deregister(etcdv3.Service{Key: "/s/1"}); err != nil {
		t.Fatal(err)
	}
	never(t, 3*time.Second, "the key came back", func() bool { return len(etcd.values(t, "/s/")) != 0 })
	holds(t, 8)
}

func TestDeregisterWhileEtcdIsAway_LetsTheLeaseRunOut(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	s := etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	n.silence()
	began := time.Now()
	err := c.Deregister(s)
	within(t, 8, 3*time.Second+500*time.Millisecond, time.Since(began))
	if err == nil {
		t.Error("no error although etcd was away")
	}
	n.speak()
	admin := n.admin()
	eventually(t, 8*time.Second, "the lease ran out", func() bool { return len(values(t, admin, "/s/")) == 0 })
	never(t, 3*time.Second, "the key came back", func() bool { return len(values(t, admin, "/s/")) != 0 })
}

func TestDeregisterGuarded(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	put := func(key, value string) uint64 {
		if err := c.Register(etcdv3.Service{Key: key, Value: value, TTL: fast}); err != nil {
			t.Fatal(err)
		}
		resp, err := etcd.Client(0).Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(resp.Kvs[0].ModRevision)
	}
	revision := put("/s/1", "v")
	for _, wrong := range []*etcdv3.DeleteOptions{{PrevValue: "w"}, {PrevIndex: revision + 1}, {PrevValue: "v", PrevIndex: revision - 1}} {
		if err := c.Deregister(etcdv3.Service{Key: "/s/1", DeleteOptions: wrong}); !errors.Is(err, etcdv3.ErrCompareFailed) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	never(t, 6*time.Second, "it ended although the guard failed", func() bool { return len(etcd.values(t, "/s/1")) != 1 })
	if err := c.Deregister(etcdv3.Service{Key: "/s/1", DeleteOptions: &etcdv3.DeleteOptions{PrevValue: "v", PrevIndex: revision}}); err != nil {
		t.Fatal(err)
	}
	put("/s", "root")
	put("/s/1", "v")
	put("/s/2/3", "v")
	put("/sx", "another")
	if err := c.Deregister(etcdv3.Service{Key: "/s", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}}); err != nil {
		t.Fatal(err)
	}
	never(t, 3*time.Second, "something came back, or too much went", func() bool {
		return !slices.Equal(etcd.values(t, "/s"), []string{"another"})
	})
	holds(t, 8)
}

func TestContextEnds_EverythingIsRevoked(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, leave := etcd.connect(t)
	for i := range 20 {
		if err := c.Register(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i), Value: "v"}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	leave()
	for i := range 5 { // Deregister during and after that is safe
		if err := c.Deregister(etcdv3.Service{Key: fmt.Sprintf("/s/%02d", i)}); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 5*time.Second, "all keys are gone", func() bool { return len(etcd.values(t, "/s/")) == 0 })
	within(t, 9, 3*time.Second, time.Since(began))
	eventually(t, time.Second, "the connection is closed", func() bool { return etcd.bridges[0].connections() == 0 })
	if err := c.Deregister(etcdv3.Service{Key: "/s/00"}); err != nil {
		t.Error(err)
	}
	if err := c.Register(etcdv3.Service{Key: "/s/00", Value: "v"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.GetEntries("/s/"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestContextEnds_AWrappedClientIsLeftOpen(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	cli := plain(t, etcd.endpoints()...)
	c, leave := wrap(t, cli)
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v"}); err != nil {
		t.Fatal(err)
	}
	leave()
	took := eventually(t, 5*time.Second, "the key is gone", func() bool { return len(etcd.values(t, "/s/")) == 0 })
	within(t, 9, 3*time.Second, took)
	if _, err := cli.Get(t.Context(), "/s/1"); err != nil {
		t.Errorf("the wrapped client was closed: %v", err)
	}
}
