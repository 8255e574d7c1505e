package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Each test below stands for a mistake that was made once.

func TestErr_AfterTheContextEnded(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, cancel := etcd.client(t)
		r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, nil)
		r.Register()
		cancel()
		after(time.Second)
		etcd.heldBy(t, 0)
		if r.Err() == nil {
			t.Error("all is revoked, and Err is nil")
		}
	})
}

func TestErr_AfterTheClientDeregistered(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, r, _ := etcd.registered(t)
		if err := c.Deregister(Service{Key: "/s/1"}); err != nil {
			t.Fatal(err)
		}
		if r.Err() == nil {
			t.Error("deregistered through the client, and Err is nil")
		}
	})
}

func TestErr_AfterAGuardDidNotHold(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		r := NewRegistrar(c, Service{Key: "/s/1", Value: "v", DeleteOptions: &DeleteOptions{PrevIndex: 999}}, nil)
		r.Register()
		r.Deregister()
		after(time.Minute)
		etcd.heldBy(t, 1, "v")
		if r.Err() != nil {
			t.Errorf("the key is kept alive, and Err is %v", r.Err())
		}
	})
}

func TestRegisterAgain_WithALongerTTL_IsNoLoss(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		for _, ttl := range []*TTLOption{NewTTLOption(time.Second, 2*time.Second), NewTTLOption(20*time.Second, time.Minute)} {
			r := NewRegistrar(c, Service{Key: "/s/1", Value: "v", TTL: ttl}, nil)
			r.Register()
			for range 60 {
				if r.Err() != nil {
					t.Fatal(r.Err())
				}
				after(100 * time.Millisecond)
			}
		}
	})
}

func TestRegisterAgain_WithALongerHeartbeat_KeepsTheLease(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(4*time.Second, 6*time.Second)}
		for i := range 40 {
			if err := c.Register(s); err != nil {
				t.Fatal(err)
			}
			lease := c.LeaseID()
			after(time.Duration(i) * 100 * time.Millisecond) // at any moment before the first beat
			s.TTL = NewTTLOption(5900*time.Millisecond, 6*time.Second)
			if err := c.Register(s); err != nil {
				t.Fatal(err)
			}
			after(time.Minute)
			if c.LeaseID() != lease {
				t.Error("the lease was lost")
			}
			s.TTL = NewTTLOption(4*time.Second, 6*time.Second)
		}
	})
}

func TestRegisterAgain_WithAShorterHeartbeat_BeatsFaster(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		for _, heartbeat := range []time.Duration{time.Minute, time.Second} {
			s := Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(heartbeat, 3*time.Minute)}
			if err := c.Register(s); err != nil {
				t.Fatal(err)
			}
			after(10 * time.Second)
		}
		if n := etcd.count("beat"); n < 9 || etcd.count("grant") != 1 {
			t.Errorf("%d beats in 10 s, %d leases", n, etcd.count("grant"))
		}
	})
}

func TestRegisterTwice_TheSecondStays(t *testing.T) {
	for _, own := range []bool{false, true} {
		virtually(t, func(t *testing.T, etcd *virtualEtcd) {
			c, _ := etcd.client(t)
			b := etcd.block("put answered")
			r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, nil)
			if !own {
				r = NewRegistrar(struct{ Client }{c}, Service{Key: "/s/1", Value: "v"}, nil)
			}
			var both sync.WaitGroup
			both.Go(r.Register)
			<-b.reached
			both.Go(r.Register)
			after(500 * time.Millisecond)
			close(b.on)
			both.Wait()
			after(time.Minute)
			etcd.heldBy(t, 1, "v")
			if r.Err() != nil {
				t.Error(r.Err())
			}
			r.Deregister()
			etcd.heldBy(t, 0)
		})
	}
}

func TestTwoRegistrarsOfOneKey_TheFirstKnows(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, a, _ := etcd.registered(t)
		b := NewRegistrar(c, Service{Key: "/s/1", Value: "b"}, nil)
		b.Register()
		if a.Err() == nil || b.Err() != nil {
			t.Errorf("%v, %v", a.Err(), b.Err())
		}
		a.Deregister()
		if n := len(etcd.values("/s/")); (n == 0) != (b.Err() != nil) {
			t.Errorf("%d keys, and Err is %v", n, b.Err())
		}
	})
}

func TestRegisterThatIsCancelled_LeavesNothing(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		for i := range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				cancel()
			} else {
				time.AfterFunc(0, cancel) // at the moment of the call
			}
			_ = c.registerObserved(ctx, Service{Key: fmt.Sprint("/s/", i), Value: "v"}, nil)
			cancel()
		}
		after(defaultTimeout)
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(etcd.values("/s/")); len(c.registrations) != n {
			t.Errorf("%d registrations, %d keys", len(c.registrations), n)
		}
	})
}

func TestRegisterAgainstDeregister_NobodyFails(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v"}
		var both sync.WaitGroup
		both.Go(func() {
			for range 200 {
				if err := c.Register(s); err != nil && !errors.Is(err, errOvertaken) {
					t.Error(err)
				}
			}
		})
		both.Go(func() {
			for range 200 {
				if err := c.Deregister(s); err != nil {
					t.Error(err)
				}
			}
		})
		both.Wait()
		if err := c.Register(s); err != nil {
			t.Error(err)
		}
		after(11 * time.Second)
		etcd.heldBy(t, 1, "v")
	})
}

func TestRecursiveDeregister_WithEtcdAway_IsBounded(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		for _, key := range []string{"/s", "/s/1", "/s/2"} {
			if err := c.Register(Service{Key: key, Value: "v"}); err != nil {
				t.Fatal(err)
			}
		}
		etcd.goAway(hangs)
		began := time.Now()
		if err := c.Deregister(Service{Key: "/s", DeleteOptions: &DeleteOptions{Recursive: true}}); err == nil {
			t.Error("deregistered")
		}
		if took := time.Since(began); took > defaultTimeout {
			t.Errorf("took %v", took)
		}
	})
}

func TestGuardedDeregister_LeavesTheKeyOfAnotherOwner(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		a, _ := etcd.client(t)
		b, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v"}
		for _, c := range []*client{a, b} {
			if err := c.Register(s); err != nil {
				t.Fatal(err)
			}
		}
		s.DeleteOptions = &DeleteOptions{PrevValue: "v"}
		if err := a.Deregister(s); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 1, "v")
		if err := b.Deregister(s); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 0)
	})
}

func TestGuardedDeregister_AfterTheContextEnded_SaysThatTheGuardFailed(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "other")
		c, cancel := etcd.client(t)
		cancel()
		err := c.Deregister(Service{Key: "/s/1", DeleteOptions: &DeleteOptions{PrevValue: "v"}})
		if !errors.Is(err, ErrCompareFailed) {
			t.Error(err)
		}
	})
}

func TestDeregisterByKey_AfterARegisterThatFailed_DeletesIt(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "of a run before")
		c, _ := etcd.client(t)
		etcd.breaks(refuses)
		if err := c.Register(Service{Key: "/s/1", Value: "v"}); err == nil {
			t.Fatal("registered")
		}
		after(0)
		etcd.breaks(nil)
		if err := c.Deregister(Service{Key: "/s/1"}); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 0)
	})
}

func TestStoreStartsOver_AndTheKeyIsTaken_IsSeen(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		for i := range 50 {
			etcd.set("/x", fmt.Sprint(i))
		}
		_, r, _ := etcd.registered(t)
		etcd.startOver()
		etcd.set("/s/1", "other")
		after(5 * time.Second)
		etcd.heldBy(t, 1, "other")
		if !errors.Is(r.Err(), errKeyTaken) {
			t.Errorf("another owner has the key, and Err is %v", r.Err())
		}
		etcd.remove("/s/1")
		after(4 * time.Second)
		etcd.heldBy(t, 1, "v")
		if r.Err() != nil {
			t.Error(r.Err())
		}
	})
}
