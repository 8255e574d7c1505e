package etcdv3

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// comesToHold waits for some heartbeats, and fails unless etcd then holds the
// one value under one lease, and the Registrar says so.
func (e *virtualEtcd) comesToHold(t *testing.T, r *Registrar, value string) {
	t.Helper()
	after(10 * time.Second)
	e.heldBy(t, 1, value)
	if r.Err() != nil {
		t.Error(r.Err())
	}
}

// What a further Register of a key that is registered leaves behind, and tells.

func TestVirtual_RegisterAgainThatGetsNoAnswer_LeavesOneLease(t *testing.T) {
	for _, lost := range []string{"grant answered", "put answered"} {
		virtually(t, func(t *testing.T, etcd *virtualEtcd) {
			c, r, _ := etcd.registered(t)
			etcd.breaks(func(ctx context.Context, call string) error {
				if call == lost || call == "beat" {
					return hangs(ctx, call)
				}
				return nil
			})
			if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(3*time.Second, time.Hour)}); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			etcd.breaks(nil)
			etcd.comesToHold(t, r, "v")
		})
	}
}

func TestVirtual_RegisterAgainThatFailsAfterItsPut_LeavesNoGap(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, r, _ := etcd.registered(t)
		etcd.breaks(only("put answered", func(context.Context, string) error { return status.Error(codes.Internal, "a proxy failed") }))
		if err := c.Register(Service{Key: "/s/1", Value: "w", TTL: NewTTLOption(3*time.Second, time.Hour)}); err == nil {
			t.Error("registered")
		}
		etcd.breaks(nil)
		etcd.comesToHold(t, r, "v")
		for _, event := range etcd.past {
			if event.Type == clientv3.EventTypeDelete {
				t.Error("the key was deleted meanwhile")
			}
		}
	})
}

func TestVirtual_RegisterAgainThatFails_LeavesErrAsItIs(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, j := etcd.registered(t)
		etcd.breaks(only("put", func(context.Context, string) error { return status.Error(codes.ResourceExhausted, "no space") }))
		r.Register()
		after(time.Minute)
		etcd.heldBy(t, 1, "v")
		if r.Err() != nil || j.count("no space") != 1 {
			t.Errorf("%v\n%s", r.Err(), j)
		}
		etcd.breaks(nil)
		r.Deregister()
		etcd.heldBy(t, 0)
	})
}

func TestVirtual_KeyOfAnotherOwner_IsLoggedOnceWhateverHappensToTheLease(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, _, j := etcd.registered(t)
		etcd.set("/s/1", "other")
		for range 3 {
			after(5 * time.Second)
			etcd.revokeAll()
		}
		after(10 * time.Second)
		if n := j.count("another owner"); n != 1 {
			t.Errorf("%d lines\n%s", n, j)
		}
		etcd.remove("/s/1")
		after(5 * time.Second)
		etcd.set("/s/1", "another")
		after(5 * time.Second)
		if n := j.count("another owner"); n != 2 {
			t.Errorf("%d lines after it was ours again\n%s", n, j)
		}
	})
}

func TestVirtual_GuardThatFailsWhileTheLeaseIsLost_EndsTheRegistration(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _, _ := etcd.registered(t)
		etcd.breaks(only("grant", refuses))
		etcd.revokeAll()
		after(5 * time.Second)
		etcd.set("/s/1", "other") // without a lease, as the registration is
		if err := c.Deregister(Service{Key: "/s/1", DeleteOptions: &DeleteOptions{PrevValue: "v"}}); !errors.Is(err, ErrCompareFailed) {
			t.Error(err)
		}
		etcd.remove("/s/1")
		etcd.breaks(nil)
		after(time.Minute)
		etcd.heldBy(t, 0)
	})
}

func TestVirtual_RegistrarDeregister_WhileRegisterHangs_IsBounded(t *testing.T) {
	for _, at := range []string{"grant", "put"} {
		virtually(t, func(t *testing.T, etcd *virtualEtcd) {
			c, _ := etcd.client(t)
			etcd.breaks(only(at, hangs))
			r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, nil)
			registering := start(t.Context(), func(context.Context) { r.Register() })
			after(time.Second)
			etcd.breaks(hangs)
			began := time.Now()
			r.Deregister()
			if took := time.Since(began); took > defaultTimeout {
				t.Errorf("at the %s: took %v", at, took)
			}
			<-registering.done
		})
	}
}

// deafClient is a Client whose WatchPrefix hands its channel on and returns.
type deafClient struct {
	*virtualClient
	signal chan chan struct{}
}

func (c deafClient) WatchPrefix(_ string, ch chan struct{}) { c.signal <- ch }

func TestVirtual_ForeignClient_ThatReturnsFromWatchPrefix_IsStillHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := deafClient{newVirtualClient("a"), make(chan chan struct{}, 1)}
		s, err := NewInstancer(c, "/s/", nil)
		if err != nil {
			t.Fatal(err)
		}
		events := subscribed(s)
		ch := <-c.signal
		after(time.Minute)
		c.becomes(nil, "a", "b")
		ch <- struct{}{}
		after(time.Second)
		events.are(t, "a", "a b")
		s.Stop()
	})
}

func TestVirtual_ForeignClient_ThatIsClosed_LeavesTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient("a")
		s, events, _ := polled(t, c)
		c.becomes(errClosed)
		c.signals <- struct{}{}
		after(time.Hour)
		events.are(t, "a")
		if n := c.count("list"); n != 2 {
			t.Errorf("%d lists", n)
		}
		s.Stop()
		close(c.end)
	})
}

func TestVirtual_Hedge_IsTheFirstAnswerThatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan int, 10)
		silent := func(n int) func(context.Context) (int, error) {
			return func(ctx context.Context) (int, error) {
				me := len(asked)
				asked <- me
				if me < n {
					<-ctx.Done()
					return 0, ctx.Err()
				}
				return me, nil
			}
		}
		waits := []time.Duration{time.Second, time.Second}
		for n := range 3 {
			began := time.Now()
			answer, err := hedge(t.Context(), waits, silent(n))
			if answer != n || err != nil || time.Since(began) != time.Duration(n)*time.Second {
				t.Errorf("%d silent: %d, %v after %v", n, answer, err, time.Since(began))
			}
			for len(asked) > 0 {
				<-asked
			}
		}
		refused := errors.New("refused")
		if _, err := hedge(t.Context(), waits, func(ctx context.Context) (int, error) {
			answer, err := silent(1)(ctx)
			if answer == 1 {
				err = refused
			}
			return answer, err
		}); err != refused {
			t.Errorf("%v after a refusal", err)
		}
		for len(asked) > 0 {
			<-asked
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := hedge(ctx, waits, silent(10)); !errors.Is(err, context.DeadlineExceeded) || len(asked) != 3 {
			t.Errorf("%v after %d", err, len(asked))
		}
	})
}
