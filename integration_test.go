package etcdv3

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestRegisterDiscoverDeregister(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	_, events := discover(t, c, "/s/")
	if got := events.last(); got.Err != nil || len(got.Instances) != 0 {
		t.Fatalf("first event: %+v", got)
	}
	for i := range 5 {
		if err := c.Register(Service{Key: fmt.Sprintf("/s/%d", i), Value: fmt.Sprintf("v%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Second, "five instances", func() bool { return events.shows("v0", "v1", "v2", "v3", "v4") })
	if err := c.Deregister(Service{Key: "/s/2"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "four instances", func() bool { return events.shows("v0", "v1", "v3", "v4") })
	leases, err := etcd.Client(0).Leases(context.Background())
	if err != nil || len(leases.Leases) != 4 {
		t.Fatalf("leases: %v, %v", leases, err)
	}
}

func TestLeaseRevoked_RegistersAgain(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(time.Second, 5*time.Second)}); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Client(0).Revoke(context.Background(), clientv3.LeaseID(c.LeaseID())); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 2*time.Second, "registered again", func() bool { return len(etcd.values(t, "/s/")) == 1 })
	t.Log(took)
}

func TestKeyDeleted_PutBackAtTheNextHeartbeat(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(time.Second, 5*time.Second)}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		etcd.Client(0).Delete(context.Background(), "/s/1")
		took := eventually(t, 2*time.Second, "put back", func() bool { return len(etcd.values(t, "/s/")) == 1 })
		t.Log(took)
	}
}

func TestOutage(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	_, events := discover(t, c, "/s/")
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(time.Second, 3*time.Second)}); err != nil {
		t.Fatal(err)
	}
	etcd.Members[0].Stop(t)
	took := eventually(t, 15*time.Second, "error", func() bool { return events.last().Err != nil })
	t.Log("error after", took, events.last().Err)
	time.Sleep(5 * time.Second)
	etcd.Members[0].Restart(t)
	etcd.Members[0].WaitStarted(t)
	took = eventually(t, 5*time.Second, "back", func() bool { return events.last().Err == nil && len(events.last().Instances) == 1 })
	t.Log("back after", took)
	time.Sleep(4 * time.Second)
	for _, e := range events.all() {
		t.Log(e)
	}
	if n := len(etcd.values(t, "/s/")); n != 1 {
		t.Fatal(n)
	}
}
