package tests

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
)

func TestKeyDeleted_IsPutBackAtTheNextHeartbeat(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v", TTL: etcdv3.NewTTLOption(2*time.Second, 10*time.Second)}, nil)
	r.Register()
	lease, beat := c.LeaseID(), time.Now()
	for range 3 {
		if _, err := etcd.Client(0).Delete(t.Context(), "/s/1"); err != nil {
			t.Fatal(err)
		}
		early := time.Since(beat) < time.Second // long before the next one
		eventually(t, time.Second, "Err says so", func() bool { return r.Err() != nil })
		took := eventually(t, 5*time.Second, "put back", func() bool { return len(etcd.values(t, "/s/")) == 1 })
		if beat = time.Now(); early && took < 500*time.Millisecond {
			t.Errorf("put back after %v, which is at once", took)
		}
		within(t, 4, 3*time.Second, took)
		eventually(t, time.Second, "Err is nil", func() bool { return r.Err() == nil })
	}
	if c.LeaseID() != lease {
		t.Error("the lease is another one")
	}
	if _, err := etcd.Client(0).Delete(t.Context(), "/s/1"); err != nil {
		t.Fatal(err)
	}
	r.Deregister() // a process that is leaving anyway
	never(t, 3*time.Second, "the key came back", func() bool { return len(etcd.values(t, "/s/")) != 0 })
}

func TestKeyTaken_IsLeftAloneUntilItIsFree(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	a, _ := etcd.connect(t)
	b, _ := wrap(t, ofAnotherProcess(plain(t, etcd.endpoints()...)))
	journal := &journal{}
	service := func(value string) etcdv3.Service { return etcdv3.Service{Key: "/s/1", Value: value, TTL: fast} }
	ra := etcdv3.NewRegistrar(a, service("a"), journal.logger())
	ra.Register()
	if err := b.Register(service("b")); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "a knows", func() bool { return ra.Err() != nil })
	never(t, 3*time.Second, "a fights", func() bool { return !slices.Equal(etcd.values(t, "/s/"), []string{"b"}) })
	if journal.count("another owner") != 1 {
		t.Errorf("log:\n%s", journal)
	}
	if err := b.Deregister(service("b")); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 5*time.Second, "a has the key again", func() bool { return slices.Equal(etcd.values(t, "/s/"), []string{"a"}) })
	within(t, 5, 2*time.Second, took)
	eventually(t, time.Second, "a is registered", func() bool { return ra.Err() == nil })
}

func TestTwoOwnersOfOneKey_DoNotFight(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	journals := []*journal{{}, {}}
	for i, j := range journals {
		c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
		if i > 0 {
			c, _ = wrap(t, ofAnotherProcess(plain(t, n.endpoint())))
		}
		r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: fmt.Sprint("owner", i), TTL: fast}, j.logger())
		r.Register()
		defer r.Deregister()
	}
	n.cut()
	admin := n.admin()
	eventually(t, 10*time.Second, "both leases expired", func() bool { return len(values(t, admin, "/s/")) == 0 })
	n.mend()
	eventually(t, 5*time.Second, "one has the key", func() bool { return len(values(t, admin, "/s/")) == 1 })
	before, err := admin.Get(t.Context(), "/s/1")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	after, err := admin.Get(t.Context(), "/s/1")
	if err != nil {
		t.Fatal(err)
	}
	if before.Kvs[0].ModRevision != after.Kvs[0].ModRevision {
		t.Errorf("the key was written %d times more", after.Kvs[0].Version-before.Kvs[0].Version)
	}
	holds(t, 5)
}
