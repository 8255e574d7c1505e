package virtual_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestLeaseLost_IsReplacedWithinAHeartbeatAndASecond(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, j := w.registered()
		for i := range 200 {
			time.Sleep(time.Duration(i) * 37 * time.Millisecond) // at any moment between two beats
			w.etcd.RevokeAll()
			w.until(4*time.Second, "registered again", func() bool { return len(w.etcd.Values("/s/")) == 1 })
			after(10 * time.Millisecond)
			w.holds(1, "v")
			w.isRegistered(r)
			w.logs(j, i+1, "registration lost", "lease was lost")
			w.logs(j, i+1, "registered again")
		}
		w.logs(j, 401, "")
	})
}

func TestRefusedGrants_AreTriedAgainWithJitterAndABound(t *testing.T) {
	const most = 10 * time.Second
	var all [][]time.Duration
	for range 2 {
		virtually(t, func(w *world) {
			_, r, j := w.registered()
			w.refuses(rpctypes.ErrGRPCPermissionDenied, "LeaseGrant")
			w.etcd.RevokeAll()
			w.etcd.Forget()
			after(20 * time.Minute)
			tries := waits(w.etcd.Times("LeaseGrant"))
			all = append(all, tries)
			for i, wait := range tries {
				if wait > most {
					w.Fatalf("%v before attempt %d", wait, i)
				}
			}
			if tries[0] > 400*time.Millisecond {
				w.Errorf("%v before the second attempt", tries[0])
			}
			if slices.Max(tries[:2]) >= slices.Max(tries[5:]) {
				w.Error("the back-off does not grow")
			}
			w.heals()
			w.until(most+100*time.Millisecond, "registered again", func() bool { return r.Err() == nil })
			w.holds(1, "v")
			w.logs(j, 1, "registration lost", "lease was lost")
			w.logs(j, 3, "permission denied") // at once, and after 1 and 11 minutes
		})
	}
	if slices.Equal(all[0], all[1]) {
		t.Error("two outages had the same waits: there is no jitter")
	}
}

func TestEtcdUnwell_IsAskedWithJitterAndComesBackWithin5s(t *testing.T) {
	var all [][]time.Duration
	for range 2 {
		virtually(t, func(w *world) {
			_, r, _ := w.registered()
			w.refuses(rpctypes.ErrGRPCNoLeader, "LeaseGrant")
			w.etcd.RevokeAll()
			w.etcd.Forget()
			after(20 * time.Minute)
			tries := waits(w.etcd.Times("LeaseGrant"))
			all = append(all, tries)
			if most := slices.Max(tries); most > 2*time.Second || tries[0] > 400*time.Millisecond {
				w.Errorf("waits %v", tries[:10])
			}
			w.heals()
			w.until(again, "registered again", func() bool { return r.Err() == nil })
			w.holds(1, "v")
		})
	}
	if slices.Equal(all[0], all[1]) {
		t.Error("two outages had the same waits: there is no jitter")
	}
}

func TestLeaseGrantedButKeyRefused_TheSameLeaseIsUsedAgain(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, _ := w.registered()
		w.refuses(errUnavailable, "Txn")
		w.etcd.RevokeAll()
		w.etcd.Forget()
		after(time.Minute)
		w.holds(1)
		w.heals()
		after(again)
		w.holds(1, "v")
		w.isRegistered(r)
		if n := w.etcd.Count("LeaseGrant"); n != 1 {
			w.Errorf("%d grants for one lease", n)
		}
	})
}

func TestLeaseLostWhileTheKeyIsPut_AnotherIsTaken(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, _ := w.registered()
		w.etcd.RevokeAll()
		w.at("Txn", w.etcd.RevokeAll)
		w.comesToHold(r, "v")
		if n := w.etcd.Count("LeaseGrant"); n != 3 {
			w.Errorf("%d grants for three leases", n)
		}
	})
}

func TestLeaseLostBeforeAPut_AndNoOtherGranted_IsAnError(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, _ := w.registered()
		w.etcd.RevokeAll()
		w.refuses(rpctypes.ErrGRPCPermissionDenied, "LeaseGrant")
		if err := c.Register(service("w")); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			w.Error(err)
		}
		w.heals()
		w.comesToHold(r, "v")
	})
}

func TestLeaseLostWhileGrantsGetNoAnswer_IsReplaced(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, _ := w.registered()
		w.etcd.RevokeAll()
		answerless := w.hold(point{"LeaseGrant", true}, 20*time.Second)
		w.soon(answerless, "grant")
		after(30 * time.Second)
		w.comesToHold(r, "v")
		if n := w.etcd.Count("LeaseGrant"); n != 2 && n != 3 { // the lease may have run out before its answer
			w.Errorf("%d grants", n)
		}
	})
}

func TestGrantThatExpiresBeforeItIsAnswered_IsReplaced(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.hold(point{"LeaseGrant", true}, 2500*time.Millisecond)
		s := service("v")
		s.TTL = etcdv3.NewTTLOption(time.Second, 2*time.Second)
		w.register(c, s)
		w.holds(1, "v")
	})
}

func TestPutThatFailsForAMoment_IsTriedAgain(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		var left atomic.Int32
		left.Store(3)
		fails := func(_ int, method string, _ any) error {
			if method == "Txn" && left.Add(-1) > 0 {
				return status.Error(codes.Unavailable, "refused")
			}
			return nil
		}
		w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = fails })
		w.register(c, service("v"))
		w.holds(1, "v")
		left.Store(1e6)
		w.within(requestTimeout, func() {
			if err := c.Register(service("w")); err == nil {
				w.Error("registered")
			}
		})
		w.hasValues("v") // what was registered stays
		left.Store(0)
		after(time.Minute)
		w.holds(1, "v")
	})
}
