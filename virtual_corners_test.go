package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestVirtual_RegisterWhileTheLostKeyIsAcquired_IsServedAtOnce(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, r, _ := etcd.registered(t)
		etcd.breaks(only("grant", denies))
		etcd.revokeAll()
		after(time.Minute)
		if err := c.Register(Service{Key: "/s/1", Value: "w"}); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Error(err)
		}
		after(time.Minute)
		etcd.breaks(nil)
		if err := c.Register(Service{Key: "/s/1", Value: "w"}); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 1, "w")
		if r.Err() != nil {
			t.Error(r.Err())
		}
		after(time.Minute)
		etcd.heldBy(t, 1, "w")
	})
}

func TestVirtual_RegisterWhileItsRegistrationWaitsForEtcd_IsBounded(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _, _ := etcd.registered(t)
		after(time.Second)
		etcd.remove("/s/1")
		after(0)
		etcd.cancelWatches("etcdserver: no leader")
		waits := make(chan struct{})
		var once sync.Once
		etcd.breaks(func(ctx context.Context, call string) error {
			if call != "get" && call != "txn" {
				return nil
			}
			once.Do(func() { close(waits) })
			return hangs(ctx, call)
		})
		<-waits
		after(time.Second)
		began := time.Now()
		if err := c.Register(Service{Key: "/s/1", Value: "v"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took > defaultTimeout {
			t.Errorf("took %v", took)
		}
		etcd.breaks(nil)
		after(10 * time.Second)
		etcd.heldBy(t, 1, "v")
	})
}

func TestVirtual_LeaseLostBeforeAPut_AndNoOtherGranted_IsAnError(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, r, _ := etcd.registered(t)
		etcd.revokeAll()
		etcd.breaks(only("grant", denies))
		if err := c.Register(Service{Key: "/s/1", Value: "w"}); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Error(err)
		}
		etcd.breaks(nil)
		etcd.comesToHold(t, r, "v")
	})
}

func TestVirtual_KeyWithAnEarlierValue_IsPutAgainEvenIfItGoesMeanwhile(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, r, _ := etcd.registered(t)
		after(time.Second)
		etcd.mu.Lock()
		etcd.put("/s/1", "earlier", c.LeaseID())
		etcd.commit()
		etcd.mu.Unlock()
		after(0)
		if !errors.Is(r.Err(), errKeyChanged) {
			t.Error(r.Err())
		}
		txns := 0
		etcd.breaks(only("txn", func(context.Context, string) error {
			if txns++; txns == 2 { // between what was found and what replaces it
				etcd.remove("/s/1")
			}
			return nil
		}))
		after(4 * time.Second)
		etcd.heldBy(t, 1, "v")
		if r.Err() != nil || txns != 3 {
			t.Errorf("%v after %d transactions", r.Err(), txns)
		}
	})
}

func TestVirtual_GuardThatFailsOnAnotherOwnersKey_EndsTheRegistration(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _, _ := etcd.registered(t)
		etcd.set("/s/1", "other")
		err := c.Deregister(Service{Key: "/s/1", DeleteOptions: &DeleteOptions{PrevValue: "v"}})
		if !errors.Is(err, ErrCompareFailed) {
			t.Error(err)
		}
		etcd.remove("/s/1")
		after(time.Minute)
		etcd.heldBy(t, 0)
	})
}

func TestVirtual_GuardWithEtcdAway_LetsTheLeaseRunOut(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _, _ := etcd.registered(t)
		etcd.breaks(only("txn", hangs))
		err := c.Deregister(Service{Key: "/s/1", DeleteOptions: &DeleteOptions{PrevValue: "v"}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		etcd.breaks(nil)
		after(time.Second)
		etcd.heldBy(t, 1, "v") // the guard may not hold
		after(11 * time.Second)
		etcd.heldBy(t, 0)
	})
}

func TestVirtual_DeregisterDuringAForeignRegister_LeavesNothing(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		r := NewRegistrar(struct{ Client }{c}, Service{Key: "/s/1", Value: "v"}, nil)
		b := etcd.block("put answered")
		go r.Register()
		<-b.reached
		go r.Deregister()
		after(time.Second)
		close(b.on)
		after(time.Minute)
		etcd.heldBy(t, 0)
		if r.Err() == nil {
			t.Error("Err is nil after Deregister")
		}
	})
}

func TestVirtual_OtherStoreThatHasOvertakenOurs_IsNoticedByItsProgress(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		_, events, _ := etcd.followed(t)
		after(time.Minute)
		etcd.startOver()
		for i := range 200 {
			etcd.set("/other", fmt.Sprint(i))
		}
		after(30 * time.Second)
		events.are(t, "a", "")
	})
}

func TestDeregister_WithARevisionThatCannotBe_IsAnError(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		if err := c.Deregister(Service{Key: "/s/1", DeleteOptions: &DeleteOptions{PrevIndex: math.MaxUint64}}); err == nil {
			t.Error("no error")
		}
		if len(etcd.calls) != 0 {
			t.Errorf("etcd was asked: %v", etcd.calls)
		}
	})
}

func TestErrors_SayWhatToDo(t *testing.T) {
	for _, err := range []error{
		rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrRequestTooLarge, context.DeadlineExceeded,
	} {
		if explained := explain(err); !errors.Is(explained, err) || explained.Error() == err.Error() {
			t.Error(explained)
		}
	}
	if err := errors.New("whatever"); explain(err) != err {
		t.Error(explain(err))
	}
}

func TestVirtual_DeregisterDuringRegister_LeavesTheKeyThatAnotherOwnerPut(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		s := Service{Key: "/s/1", Value: "v"}
		if err := errors.Join(c.Register(s), c.Deregister(s)); err != nil {
			t.Fatal(err)
		}
		etcd.set("/s/1", "theirs")
		b := etcd.block("grant")
		registering := make(chan error)
		go func() { registering <- c.Register(s) }()
		<-b.reached
		if err := c.Deregister(s); err != nil {
			t.Error(err)
		}
		if err := <-registering; err == nil {
			t.Error("Register succeeded that was overtaken by Deregister")
		}
		if got := etcd.values("/s/"); !slices.Equal(got, []string{"theirs"}) {
			t.Errorf("%q", got)
		}
	})
}

func TestVirtual_GuardedDeregisterAgain_RevokesTheLeaseThatWasLeft(t *testing.T) {
	for name, options := range map[string]*DeleteOptions{"guarded": {PrevValue: "v"}, "unguarded": nil} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T, etcd *virtualEtcd) {
				c, _ := etcd.client(t)
				s := Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(3*time.Second, time.Hour)}
				if err := c.Register(s); err != nil {
					t.Fatal(err)
				}
				etcd.breaks(only("txn", hangs))
				s.DeleteOptions = &DeleteOptions{PrevValue: "v"}
				if err := c.Deregister(s); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				after(0)
				etcd.heldBy(t, 1, "v")
				etcd.breaks(nil)
				s.DeleteOptions = options
				if err := c.Deregister(s); err != nil {
					t.Error(err)
				}
				etcd.heldBy(t, 0)
			})
		})
	}
}

// slowLog is a logger that does not return from a line until it is let on.
type slowLog struct {
	line        string
	reached, on chan struct{}
}

func (l slowLog) Log(keyvals ...any) error {
	if strings.Contains(fmt.Sprint(keyvals...), l.line) {
		close(l.reached)
		<-l.on
	}
	return nil
}

func TestVirtual_RegisterWhileDeregisterLogs_IsWhatErrTells(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		logger := slowLog{"deregister", make(chan struct{}), make(chan struct{})}
		r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, logger)
		r.Register()
		deregistering := make(chan struct{})
		go func() {
			defer close(deregistering)
			r.Deregister()
		}()
		<-logger.reached
		if err := r.Err(); !errors.Is(err, errDeregistered) {
			t.Error(err)
		}
		r.Register()
		close(logger.on)
		<-deregistering
		if err := r.Err(); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 1, "v")
	})
}
