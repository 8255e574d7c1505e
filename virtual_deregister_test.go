package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// writes are the calls that change what etcd holds for a registration.
func (e *virtualEtcd) writes() int {
	return e.count("put answered") + e.count("txn answered") + e.count("grant answered")
}

// blocked waits at a call, once, until it is let on or its context ends.
type blocked struct {
	reached chan struct{} // closed when the call is made
	on      chan struct{} // closed to let it on
}

func (e *virtualEtcd) block(call string) blocked {
	b := blocked{make(chan struct{}), make(chan struct{})}
	first := true
	e.breaks(only(call, func(ctx context.Context, _ string) error {
		if !first {
			return nil
		}
		first = false
		close(b.reached)
		select {
		case <-b.on:
			return nil
		case <-ctx.Done():
			return hangs(ctx, call)
		}
	}))
	return b
}

// waysToRegisterAgain are what makes a registration act, with the calls that
// it makes then.
var waysToRegisterAgain = []struct {
	name  string
	begin func(*virtualEtcd)
	calls []string
}{
	{"lease lost", (*virtualEtcd).revokeAll, []string{"beat", "beat answered", "grant", "grant answered", "txn", "txn answered", "watch"}},
	{"key deleted", func(e *virtualEtcd) { e.remove("/s/1") }, []string{"beat", "beat answered", "txn", "txn answered"}},
	{"watch cancelled", func(e *virtualEtcd) { e.cancelWatches("etcdserver: no leader"); e.remove("/s/1") },
		[]string{"get", "get answered", "txn", "txn answered", "watch"}},
	{"store starts over", (*virtualEtcd).startOver, []string{"grant", "txn", "txn answered"}},
}

func TestVirtual_DeregisterAtEveryPointOfARegistration_NeverResurrects(t *testing.T) {
	for _, way := range waysToRegisterAgain {
		for _, call := range way.calls {
			for _, letOn := range []bool{false, true} {
				if call == "watch" && !letOn {
					continue // see TestVirtual_DeregisterWhileTheWatchHangs
				}
				t.Run(fmt.Sprintf("%s/%s/answered=%v", way.name, call, letOn), func(t *testing.T) {
					virtually(t, func(t *testing.T, etcd *virtualEtcd) { deregisterAt(t, etcd, way.begin, call, letOn) })
				})
			}
		}
	}
}

// deregisterAt deregisters while a registration waits at a call, which is
// answered at last, or never.
func deregisterAt(t *testing.T, etcd *virtualEtcd, begin func(*virtualEtcd), call string, letOn bool) {
	c, r, _ := etcd.registered(t)
	after(time.Second)
	b := etcd.block(call)
	begin(etcd)
	select {
	case <-b.reached:
	case <-time.After(10 * time.Second):
		t.Fatalf("there is no call %q", call)
	}
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Deregister()
	}()
	after(0)
	if letOn {
		close(b.on)
	}
	<-done
	if took := time.Since(began); took > defaultTimeout {
		t.Errorf("took %v", took)
	}
	if call != "grant answered" { // a lease that nobody knows of runs out, without a key
		etcd.heldBy(t, 0)
	}
	if n := len(etcd.values("/s/")); n != 0 {
		t.Errorf("%d keys", n)
	}
	writes := etcd.writes()
	after(time.Minute)
	if n := etcd.writes() - writes; n != 0 {
		t.Errorf("%d writes after Deregister", n)
	}
	etcd.heldBy(t, 0)
	if !errors.Is(r.Err(), errDeregistered) || c.LeaseID() != 0 {
		t.Errorf("Err: %v, lease %d", r.Err(), c.LeaseID())
	}
}

// A Watcher that is wrapped cannot be closed, and so is not disturbed while it
// opens a watch: then the release begins late, and Deregister says so.
func TestVirtual_DeregisterWhileTheWatchHangs_IsBounded(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _, _ := etcd.registered(t)
		b := etcd.block("watch")
		etcd.cancelWatches("etcdserver: no leader")
		<-b.reached
		began := time.Now()
		_ = c.Deregister(Service{Key: "/s/1"})
		if took := time.Since(began); took > defaultTimeout {
			t.Errorf("took %v", took)
		}
		after(time.Second)
		etcd.heldBy(t, 0)
		writes := etcd.writes()
		after(time.Minute)
		if n := etcd.writes() - writes; n != 0 {
			t.Errorf("%d writes after Deregister", n)
		}
	})
}

func TestVirtual_DeregisterDuringTheFirstRegister_NothingIsLeft(t *testing.T) {
	for _, call := range []string{"grant", "grant answered", "put", "put answered"} {
		for _, letOn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/answered=%v", call, letOn), func(t *testing.T) {
				virtually(t, func(t *testing.T, etcd *virtualEtcd) {
					c, _ := etcd.client(t)
					r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, nil)
					b := etcd.block(call)
					registering := make(chan struct{})
					go func() {
						defer close(registering)
						r.Register()
					}()
					<-b.reached
					if letOn {
						time.AfterFunc(time.Second, func() { close(b.on) })
					}
					r.Deregister()
					<-registering
					if n := len(etcd.values("/s/")); n != 0 {
						t.Errorf("%d keys", n)
					}
					after(11 * time.Second) // a lease whose grant was not answered in time runs out
					etcd.heldBy(t, 0)
					if !errors.Is(r.Err(), errDeregistered) {
						t.Error(r.Err())
					}
				})
			})
		}
	}
}

func TestVirtual_DeregisterWhileEtcdIsAway_IsBounded(t *testing.T) {
	for name, how := range map[string]virtualFault{"hangs": hangs, "refuses": refuses} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T, etcd *virtualEtcd) {
				_, r, _ := etcd.registered(t)
				etcd.goAway(how)
				began := time.Now()
				r.Deregister()
				if took := time.Since(began); took > defaultTimeout {
					t.Errorf("took %v", took)
				}
				after(11 * time.Second)
				etcd.heldBy(t, 0)
				etcd.comeBack()
				after(time.Minute)
				etcd.heldBy(t, 0)
				if n := etcd.count("beat answered"); n > 0 {
					t.Errorf("%d heartbeats after Deregister", n)
				}
			})
		})
	}
}

func TestVirtual_DeregisterAgain_RevokesTheLeaseThatWasLeft(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(3*time.Second, time.Hour)}
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		etcd.breaks(only("revoke", hangs))
		if err := c.Deregister(s); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		after(0)
		etcd.heldBy(t, 1, "v")
		etcd.breaks(nil)
		if err := c.Deregister(s); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 0)
		if err := c.Deregister(s); err != nil {
			t.Error(err)
		}
	})
}

func TestVirtual_LeaseThatCouldNotBeRevoked_IsRevokedAtTheEnd(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(3*time.Second, time.Hour)}
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		etcd.breaks(only("revoke", refuses))
		s.TTL = NewTTLOption(3*time.Second, 2*time.Hour)
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		etcd.heldBy(t, 2, "v")
		etcd.breaks(nil)
		if err := c.Deregister(s); err != nil {
			t.Fatal(err)
		}
		etcd.heldBy(t, 0)
	})
}

func TestVirtual_ContextEnds_ReleaseIsBoundedAndNothingGoesOn(t *testing.T) {
	for name, how := range map[string]virtualFault{"answers": nil, "hangs": hangs, "refuses": refuses} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T, etcd *virtualEtcd) {
				c, cancel := etcd.client(t)
				for i := range 20 {
					if err := c.Register(Service{Key: fmt.Sprint("/s/", i), Value: "v"}); err != nil {
						t.Fatal(err)
					}
				}
				if how != nil {
					etcd.goAway(how)
				}
				cancel()
				after(defaultTimeout)
				calls := len(etcd.calls)
				after(11 * time.Second)
				etcd.heldBy(t, 0)
				if n := len(etcd.calls) - calls; n > 0 {
					t.Errorf("%d calls after the release: %v", n, etcd.calls[calls:])
				}
				if err := c.Register(Service{Key: "/s/x", Value: "v"}); !errors.Is(err, errClosed) {
					t.Error(err)
				}
			})
		})
	}
}
