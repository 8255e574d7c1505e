package virtual_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
)

// guarded is service(value), which is deregistered only while it has the value.
func guarded(value string) etcdv3.Service {
	s := service(value)
	s.DeleteOptions = &etcdv3.DeleteOptions{PrevValue: value}
	return s
}

func TestGuardThatFails_LeavesTheRegistrationAsItIs(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		s := service("v")
		s.DeleteOptions = &etcdv3.DeleteOptions{PrevIndex: 999}
		r, j := registrar(c, s)
		r.Register()
		r.Deregister()
		w.isRegistered(r)
		after(time.Minute)
		w.holds(1, "v")
		w.isRegistered(r)
		w.logs(j, 1, "not deregistered", "compare failed")
		w.etcd.RevokeAll()
		w.comesToHold(r, "v")
		w.logs(j, 1, "registered again")
	})
}

func TestGuardThatFailsOnAnotherOwnersKey_EndsTheRegistration(t *testing.T) {
	for _, lost := range []bool{false, true} { // the lease, before the key was taken
		virtually(t, func(w *world) {
			c, _, _ := w.registered()
			if lost {
				w.refuses(errUnavailable, "LeaseGrant")
				w.etcd.RevokeAll()
				after(5 * time.Second)
			}
			w.etcd.Put("/s/1", "other")
			if err := c.Deregister(guarded("v")); !errors.Is(err, etcdv3.ErrCompareFailed) {
				w.Error(err)
			}
			w.etcd.Delete("/s/1")
			w.heals()
			after(time.Minute)
			w.holds(0)
		})
	}
}

func TestGuardWithEtcdAway_LetsTheLeaseRunOut(t *testing.T) {
	virtually(t, func(w *world) {
		c, _, _ := w.registered()
		w.refuses(errUnavailable, "Range")
		if err := c.Deregister(guarded("v")); !errors.Is(err, context.DeadlineExceeded) {
			w.Error(err)
		}
		w.etcd.Member(0).Silence()
		after(time.Second)
		w.holds(1, "v") // the guard may not hold
		after(11 * time.Second)
		w.holds(0)
	})
}

func TestGuardThatIsKnownLate_IsKeptAllTheSame(t *testing.T) {
	virtually(t, func(w *world) {
		c, _, _ := w.registered()
		w.refuses(errUnavailable, "Range")
		if err := c.Deregister(guarded("v")); !errors.Is(err, context.DeadlineExceeded) {
			w.Error(err)
		}
		w.heals()
		after(2 * time.Second)
		w.holds(0)
	})
}

func TestGuardedDeregisterAgain_RevokesTheLeaseThatWasLeft(t *testing.T) {
	for name, s := range map[string]etcdv3.Service{"guarded": guarded("v"), "unguarded": service("v")} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(w *world) {
				c, _ := w.client()
				first := guarded("v")
				first.TTL = etcdv3.NewTTLOption(3*time.Second, time.Hour)
				w.register(c, first)
				w.refuses(errUnavailable, "Range")
				if err := c.Deregister(first); !errors.Is(err, context.DeadlineExceeded) {
					w.Error(err)
				}
				w.holds(1, "v")
				w.heals()
				if err := c.Deregister(s); err != nil {
					w.Error(err)
				}
				after(2 * time.Second)
				w.holds(0)
			})
		})
	}
}

func TestGuardedDeregisterLongAfterTheFirst_RevokesTheLeaseThatWasLeft(t *testing.T) {
	virtually(t, func(w *world) {
		c, s := w.deregisteredLate(guarded("v"), "Range")
		after(5 * time.Minute)
		w.heals()
		w.holds(1, "v")
		if err := c.Deregister(s); err != nil {
			w.Error(err)
		}
		w.holds(0)
	})
}

func TestGuardedDeregister_LeavesTheKeyOfALaterClient(t *testing.T) {
	virtually(t, func(w *world) {
		a, _ := w.client()
		b, _ := w.client()
		w.register(a, service("v"))
		w.register(b, service("v"))
		if err := a.Deregister(guarded("v")); err != nil {
			w.Error(err)
		}
		w.holds(1, "v")
		if err := b.Deregister(guarded("v")); err != nil {
			w.Error(err)
		}
		w.holds(0)
	})
}

func TestGuardedDeregister_OfARevision(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.register(c, service("v"))
		kv := w.etcd.KeyValues("/s/1")[0]
		s := service("v")
		s.DeleteOptions = &etcdv3.DeleteOptions{PrevIndex: uint64(kv.ModRevision) + 1}
		if err := c.Deregister(s); !errors.Is(err, etcdv3.ErrCompareFailed) {
			w.Error(err)
		}
		s.DeleteOptions.PrevIndex--
		if err := c.Deregister(s); err != nil {
			w.Error(err)
		}
		w.holds(0)
	})
}

func TestGuardedDeregister_AfterTheContextEnded_SaysWhy(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "other")
		c, cancel := w.client()
		cancel()
		after(time.Second)
		w.within(requestTimeout, func() {
			if err := c.Deregister(guarded("v")); err == nil {
				w.Error("deregistered")
			}
		})
		w.hasValues("other")
	})
}
