package etcdv3

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestVirtual_LeaseLostWhileGrantsGetNoAnswer_IsReplacedByOne(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, _ := etcd.registered(t)
		etcd.revokeAll()
		etcd.breaks(only("grant answered", hangs))
		etcd.comesToHold(t, r, "v")
	})
}

func TestVirtual_GrantThatExpiresBeforeItIsFound_IsTakenAgain(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		var expired atomic.Bool
		etcd.breaks(func(ctx context.Context, call string) error {
			switch {
			case call == "grant answered" && !expired.Load():
				return hangs(ctx, call)
			case call == "beat" && !expired.Load():
				expired.Store(true)
				etcd.revokeAll()
			}
			return nil
		})
		if err := c.Register(Service{Key: "/s/1", Value: "v"}); err != nil {
			t.Fatal(err)
		}
		etcd.heldBy(t, 1, "v")
		if !expired.Load() {
			t.Error("it was not found before")
		}
	})
}

func TestVirtual_LeasesThatWereNeverAnsweredFor_AreRevokedAtTheEnd(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v"}
		if err := c.Register(s); err != nil {
			t.Fatal(err)
		}
		etcd.breaks(func(ctx context.Context, call string) error {
			if call == "grant answered" || call == "beat" {
				return hangs(ctx, call)
			}
			return nil
		})
		for _, ttl := range []time.Duration{time.Hour, 2 * time.Hour} {
			s.TTL = NewTTLOption(3*time.Second, ttl)
			if err := c.Register(s); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		etcd.heldBy(t, 3, "v")
		if err := c.Deregister(s); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 0)
	})
}

// Nothing is revoked, and nothing waits for that, if no request has left.
func TestVirtual_GrantThatWasNeverSent_IsNotRevoked(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		etcd.breaks(only("grant", hangs))
		if err := c.Register(Service{Key: "/s/1", Value: "v"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		after(time.Minute)
		if n := etcd.count("revoke"); n != 0 {
			t.Errorf("%d revokes", n)
		}
	})
}
