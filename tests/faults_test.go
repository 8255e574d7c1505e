package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// registerMany registers services s000, s001, ... under /s/, all at once, and
// those again for which etcd was too busy.
func registerMany(t testing.TB, c etcdv3.Client, n int, ttl *etcdv3.TTLOption) (instances []string) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		instance := fmt.Sprintf("s%03d", i)
		instances = append(instances, instance)
		all.Go(func() {
			eventually(t, 30*time.Second, "registered", func() bool {
				return c.Register(etcdv3.Service{Key: "/s/" + instance, Value: instance, TTL: ttl}) == nil
			})
		})
	}
	all.Wait()
	return instances
}

func TestAnswersSlowerThanTheHeartbeat_KeepTheLease(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	counter := &beatCounter{}
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{counter.option()}}, n.endpoint())
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: etcdv3.NewTTLOption(time.Second, 10*time.Second)}); err != nil {
		t.Fatal(err)
	}
	lease := c.LeaseID()
	n.slow(800 * time.Millisecond) // each way, and more for what queues up behind
	admin := n.admin()
	never(t, 15*time.Second, "the key went away", func() bool { return len(values(t, admin, "/s/")) != 1 })
	if c.LeaseID() != lease {
		t.Error("the lease is another one")
	}
	n.slow(0)
	holds(t, 1)
}

func TestTwoHundredServicesOnOneClient_ComeBackFromAnOutage(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	instances := registerMany(t, c, 200, fast)
	admin := n.admin()
	leases, err := admin.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Leases[:100] { // half of them revoked
		if _, err := admin.Revoke(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	took := eventually(t, 5*time.Second, "all are back", func() bool { return slices.Equal(values(t, admin, "/s/"), instances) })
	within(t, 2, 2*time.Second, took)
	n.cut()
	eventually(t, 15*time.Second, "all expired", func() bool { return len(values(t, admin, "/s/")) == 0 })
	n.mend()
	took = eventually(t, 10*time.Second, "all are back", func() bool { return slices.Equal(values(t, admin, "/s/"), instances) })
	within(t, 3, 5*time.Second, took)
	leases, err = admin.Leases(t.Context())
	if err != nil || len(leases.Leases) != 200 {
		t.Errorf("%d leases, %v", len(leases.Leases), err)
	}
}

func TestLeaderMovesInTheMiddleOfRegister_WhatItReturnsIsTrue(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := etcd.connect(t)
	want, failed := []string{}, 0
	for i := range 20 {
		value := fmt.Sprintf("s%03d", i)
		leader := etcd.WaitLeader(t)
		var move sync.WaitGroup
		move.Go(func() {
			time.Sleep(time.Duration(i) * 200 * time.Microsecond) // before the grant, between, and after the put
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, _ = etcd.Client(leader).MoveLeader(ctx, uint64(etcd.Members[(leader+1)%3].Server.MemberID()))
		})
		if err := c.Register(etcdv3.Service{Key: "/s/" + value, Value: value, TTL: fast}); err != nil {
			t.Logf("register %d: %v", i, err)
			failed++
		} else {
			want = append(want, value)
		}
		move.Wait()
	}
	etcd.WaitLeader(t)
	eventually(t, 5*time.Second, "what was registered is there, and nothing else", func() bool { return slices.Equal(etcd.values(t, "/s/"), want) })
	if failed > 5 {
		t.Errorf("%d of 20 failed", failed)
	}
	holds(t, 6)
}

func TestRollingRestart_NoInstanceIsMissingFromAnyEvent(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	registering, _ := etcd.connect(t)
	discovering, _ := etcd.connect(t)
	instances := registerMany(t, registering, 50, nil)
	_, events := discover(t, discovering, "/s/")
	for i, m := range etcd.Members {
		etcd.stop(t, i)
		time.Sleep(2 * time.Second) // the election, and the clients' moves to others
		etcd.restart(t, i)
		m.WaitStarted(t)
		etcd.WaitMembersForLeader(t, etcd.Members)
		mustPut(t, etcd.Client((i+1)%3), fmt.Sprintf("/s/z%d", i), fmt.Sprintf("z%d", i))
		instances = append(instances, fmt.Sprintf("z%d", i))
		eventually(t, 15*time.Second, "a change after a restart", func() bool { return events.shows(instances...) })
	}
	for _, e := range events.all() {
		if e.Err != nil || len(e.Instances) < 50 || !slices.Equal(e.Instances[:50], instances[:50]) {
			t.Errorf("event with %d instances, %v", len(e.Instances), e.Err)
		}
	}
	holds(t, 11)
	holds(t, 12)
}

func TestQuorumLostAndRegained_GoesOn(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := etcd.connect(t)
	registrar := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/own", Value: "own", TTL: fast}, nil)
	registrar.Register()
	_, events := discover(t, c, "/s/")
	etcd.stop(t, 1, 2)
	took := eventually(t, 20*time.Second, "an error", func() bool { return events.last().Err != nil })
	within(t, 13, 15*time.Second, took)
	eventually(t, 10*time.Second, "Err", func() bool { return registrar.Err() != nil })
	etcd.restart(t, 1, 2)
	etcd.WaitMembersForLeader(t, etcd.Members)
	took = eventually(t, 10*time.Second, "the set", func() bool { return events.shows("own") && registrar.Err() == nil })
	within(t, 13, 5*time.Second, took)
}

func TestDeregisterAtAnyPointOfAReRegistration_NeverResurrects(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	admin := n.admin()
	for i := range 40 {
		c, leave := connect(t, etcdv3.ClientOptions{}, n.endpoint())
		s := etcdv3.Service{Key: fmt.Sprintf("/s/%d", i), Value: "v", TTL: etcdv3.NewTTLOption(500*time.Millisecond, 2*time.Second)}
		eventually(t, 30*time.Second, "registered", func() bool { return c.Register(s) == nil })
		n.slow(time.Duration(i%4) * 5 * time.Millisecond)
		if _, err := admin.Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err)
		}
		// It is registered again after 0.5 s and a little: hit that from before to after.
		time.Sleep(450*time.Millisecond + time.Duration(i)*10*time.Millisecond)
		if err := c.Deregister(s); err != nil {
			t.Error(err)
		}
		if got := values(t, admin, s.Key); len(got) != 0 && i < 4 { // /s/1 is a prefix of /s/10
			t.Errorf("round %d: there after Deregister: %v", i, got)
		}
		leave()
	}
	n.slow(0)
	never(t, 2*time.Second, "a key is there", func() bool { return len(values(t, admin, "/s/")) != 0 })
	holds(t, 8)
}

func TestResponseOfAThousandEvents_IsOneEvent(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	admin := n.admin()
	_, events := discover(t, c, "/s/")
	n.cut() // so that the changes come in one response
	for i := range 1000 {
		mustPut(t, admin, fmt.Sprintf("/s/%04d", i), fmt.Sprintf("%04d", i))
	}
	n.mend()
	eventually(t, 5*time.Second, "all of them", func() bool { return len(events.last().Instances) == 1000 })
	if all := events.all(); len(all) > 3 {
		t.Errorf("%d events", len(all))
	}
	holds(t, 11)
}

func TestWatchEndedByTheServer_GoesOnWithoutAnError(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	c, _ := etcd.connect(t)
	_, events := discover(t, c, "/s/")
	for i := range 3 { // lost leader: the member ends its watches
		leader := etcd.WaitLeader(t)
		others := slices.Delete(slices.Clone(etcd.Members), leader, leader+1)
		etcd.Members[leader].InjectPartition(t, others...)
		etcd.WaitMembersForLeader(t, others)
		etcd.Members[leader].RecoverPartition(t, others...)
		mustPut(t, etcd.Client((leader+1)%3), "/s/1", fmt.Sprint(i))
		eventually(t, 15*time.Second, "the change", func() bool { return events.shows(fmt.Sprint(i)) })
	}
	for _, e := range events.all() {
		if e.Err != nil {
			t.Error(e.Err)
		}
	}
	holds(t, 11)
}

func TestErrors_AreWhatCallersCanActOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, leave := connect(t, etcdv3.ClientOptions{HeaderTimeoutPerRequest: 300 * time.Millisecond}, n.endpoint())
	n.silence()
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	leave()
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
