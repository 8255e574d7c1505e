package lease_test

import (
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// An hour of heartbeats is sent at the heartbeat that was asked for, on one stream.
func TestHeartbeat_IsTheOneThatIsAskedFor(t *testing.T) {
	for _, every := range []time.Duration{500 * time.Millisecond, 3 * time.Second, 70 * time.Second} {
		t.Run(every.String(), func(t *testing.T) {
			virtually(t, setting{}, func(w *world) {
				l := w.grant(int64(3*every/time.Second+1), every)
				after(time.Hour)
				beats := w.etcd.Times("Renew")
				w.within("beats", len(beats), int(time.Hour/every), int(time.Hour/every)+1)
				for i := 1; i < len(beats); i++ {
					if d := beats[i].Sub(beats[i-1]); i > 8 && d != every || d > every || d < every*15/16 {
						w.Fatalf("%v between beats %d and %d", d, i-1, i)
					}
				}
				w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
				w.same("news", l.said(), []string{})
			})
		})
	}
}

func TestHeartbeatOfTwoHours_IsKept(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(5*60*60, 2*time.Hour)
		after(20 * time.Hour)
		w.untroubled([]*kept{l})
	})
}

func TestThousandLeases_ShareOneStreamAndFewWrites(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		for range 1000 {
			w.grant(10, 3*time.Second)
			time.Sleep(3 * time.Millisecond)
		}
		after(10 * time.Second)
		w.etcd.Forget()
		after(time.Minute)
		sent := w.etcd.Times("Renew")
		moments := len(slices.CompactFunc(slices.Clone(sent), time.Time.Equal))
		w.within("beats", len(sent), 19_000, 21_000)
		w.within("moments", moments, 20, 41)
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 0)
	})
}

func TestHeartbeatThatChanges_IsTheOneFromThen(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(3600, time.Minute)
		after(2 * time.Minute)
		w.etcd.Forget()
		l.Alive(time.Second)
		after(time.Minute)
		w.within("beats", w.etcd.Count("Renew"), 60, 62)
		l.Alive(10 * time.Second)
		w.etcd.Forget()
		after(time.Minute)
		w.within("beats", w.etcd.Count("Renew"), 6, 8)
	})
}

func TestDroppedLease_IsRenewedNoLonger(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		one, other := w.grant(4, time.Second), w.grant(4, time.Second)
		after(10 * time.Second)
		one.Drop()
		one.Drop()
		one.Alive(time.Second)
		after(6 * time.Second)
		w.same("lost", w.lost([]*kept{one}), 1)
		w.untroubled([]*kept{other})
		other.Drop()
		w.etcd.Forget()
		after(time.Hour)
		w.same("beats", w.etcd.Count("Renew"), 0)
	})
}

func TestRevokedLease_IsTold(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l, other := w.grant(10, 3*time.Second), w.grant(10, 3*time.Second)
		after(5 * time.Second)
		w.etcd.Revoke(int64(l.ID))
		after(3 * time.Second)
		w.same("news", l.said(), []string{"lost"})
		w.untroubled([]*kept{other})
		w.etcd.Forget()
		after(time.Minute)
		w.within("beats of the other one", w.etcd.Count("Renew"), 19, 21)
		if err := w.keeper.Revoke(w.Context(), l.ID); err != nil {
			w.Error(err)
		}
		if err := w.keeper.Revoke(w.Context(), other.ID); err != nil {
			w.Error(err)
		}
		w.same("leases", len(w.etcd.Leases()), 0)
	})
}

func TestExpect_HearsOfEveryAnswer(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(10, time.Second)
		l.Expect(true)
		after(10500 * time.Millisecond)
		n := len(l.news())
		w.within("news", n, 10, 11)
		l.Expect(false)
		after(10 * time.Second)
		w.same("news", l.said(), []string{})
	})
}

func TestGrant_HasTheTTLOfTheAnswer(t *testing.T) {
	virtually(t, setting{Config: etcdtest.Config{Settings: etcdtest.Settings{MinTTL: 30}}}, func(w *world) {
		l := w.grant(5, time.Second)
		w.same("TTL", l.TTL, 5)
		if l.Cluster() == 0 {
			w.Error("no cluster")
		}
		w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = refuse("Renew", errNoLeader) })
		after(29 * time.Second)
		w.same("news", l.said(), []string{})
		after(3 * time.Second)
		w.same("news", l.said(), []string{"silent etcdserver: no leader"})
	})
}

// A put under a lease that is answered shows that etcd holds the lease.
func TestLeaseThatIsSeenAlive_IsNotSilent(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l, err := w.keeper.Grant(w.Context(), 10, 3*time.Second)
		if err != nil {
			w.Fatal(err)
		}
		after(time.Minute)
		w.etcd.Member(0).Freeze()
		after(11 * time.Second)
		w.same("untaken news of silence", len(l.News), 1)
		l.Alive(3 * time.Second)
		w.same("news once it was seen", len(l.News), 0)
		after(9 * time.Second)
		w.same("news within the TTL", len(l.News), 0)
		after(2 * time.Second)
		w.same("news after the TTL", len(l.News), 1)
	})
}
