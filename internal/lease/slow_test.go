package lease_test

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// A round of heartbeats may take longer than a heartbeat.
func TestRenewalsOneAfterTheOther_LoseNoLease(t *testing.T) {
	for _, row := range []struct {
		name    string
		leases  int
		each    time.Duration
		foreign bool
	}{
		{"180 leases over 22 ms", 180, 22 * time.Millisecond, false},
		{"180 leases over 22 ms, without evidence", 180, 22 * time.Millisecond, true},
		{"4,000 leases at 1 ms", 4000, time.Millisecond, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			virtually(t, setting{Config: etcdtest.Config{Members: 3}, foreign: row.foreign}, func(w *world) {
				w.delay(row.each)
				all := w.grants(row.leases, 10, 3*time.Second)
				after(time.Minute)
				w.untroubled(all)
				w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
				most := int(time.Minute / max(3*time.Second, time.Duration(row.leases)*row.each))
				w.within("beats", w.etcd.Count("Renew"), row.leases*(most-2), row.leases*(most+2))
				w.same("missed", w.missed.Value(), 0)
			})
		})
	}
}

// Each answer comes late, one lease or a hundred, with evidence or without.
func TestSlowEtcd_LosesNothingAndKeepsItsStream(t *testing.T) {
	for _, slow := range []time.Duration{900 * time.Millisecond, 1600 * time.Millisecond, 2900 * time.Millisecond} {
		for _, s := range []setting{
			{},
			{Config: etcdtest.Config{Members: 3}},
			{Config: etcdtest.Config{Members: 3}, foreign: true},
		} {
			t.Run(slow.String(), func(t *testing.T) {
				virtually(t, s, func(w *world) {
					w.etcd.Set(func(s *etcdtest.Settings) {
						s.DelayAnswer = func(int, string, any) time.Duration { return slow }
					})
					all := []*kept{w.grant(10, 3*time.Second)}
					after(time.Hour)
					w.untroubled(all)
					w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
					w.same("missed", w.missed.Value(), 0)
				})
			})
		}
	}
}

func TestLongLink_LosesNothingAndKeepsItsStream(t *testing.T) {
	for _, n := range []int{1, 100} {
		virtually(t, setting{Config: etcdtest.Config{Members: 3}, foreign: true}, func(w *world) {
			w.etcd.SetLinks(etcdtest.Link{RTT: 2500 * time.Millisecond})
			all := w.grants(n, 10, 3*time.Second)
			after(10 * time.Minute)
			w.untroubled(all)
			w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
		})
	}
}

// Who waits for one answer waits for the next that is slower.
func TestAnswersThatGetSlower_AreWaitedFor(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(6, 3*time.Second) // which alone is patience for 2.1 s
		for _, slow := range []time.Duration{100 * time.Millisecond, 1500 * time.Millisecond, 2800 * time.Millisecond} {
			w.delay(slow)
			after(time.Minute)
		}
		w.untroubled([]*kept{l})
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
		w.delay(0)
		after(3 * time.Minute) // and that is forgotten
		w.etcd.Member(0).Freeze()
		after(6 * time.Second)
		w.within("streams", w.opened.Value(), 2, 3)
	})
}

// A stream is waited for longer than the lease lives. Its owner hears in time.
func TestShortLeaseOnAPatientStream_IsToldSilentWithinItsTTL(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		w.grant(300, 3*time.Second)
		w.delay(12 * time.Second)
		after(time.Minute)
		w.delay(0)
		after(20 * time.Second)
		l := w.grant(10, 3*time.Second)
		w.etcd.Member(0).Freeze()
		after(10500 * time.Millisecond)
		w.same("news", l.said(), []string{"silent no answer for 10s"})
	})
}

// Of answers that come together the first alone tells how slow etcd is.
func TestAnswersToManyThatGetSlower_AreWaitedFor(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		all := w.grants(100, 6, 3*time.Second) // which alone is patience for 2.1 s
		for _, slow := range []time.Duration{100 * time.Millisecond, 1500 * time.Millisecond, 2800 * time.Millisecond} {
			w.etcd.SetLinks(etcdtest.Link{RTT: slow})
			after(time.Minute)
		}
		w.untroubled(all)
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
	})
}

// The answer to the grant tells how slow etcd is.
func TestSlowEtcdFromTheStart_KeepsItsFirstStream(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.DelayAnswer = func(int, string, any) time.Duration { return 2 * time.Second }
		})
		l := w.grant(5, time.Second) // which alone is patience for 1.75 s
		after(time.Minute)
		w.untroubled([]*kept{l})
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
	})
}

// An etcd that gets slow all at once is asked again a few times, and no more.
func TestEtcdThatGetsSlower_IsNotAskedAgainAndAgain(t *testing.T) {
	for _, slow := range []time.Duration{2 * time.Second, 2900 * time.Millisecond, 5 * time.Second, 8 * time.Second} {
		virtually(t, setting{}, func(w *world) {
			l := w.grant(10, 3*time.Second)
			after(time.Minute)
			w.delay(slow)
			after(10 * time.Minute)
			w.within("streams", w.etcd.Count("LeaseKeepAlive"), 1, 6)
			if slow < 3*time.Second {
				w.untroubled([]*kept{l})
				w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
			}
		})
	}
}

// Ten thousand clients of an etcd that stands still for a while ask it for less
// than they do while it is well.
func TestFleetOfAStandingEtcd_AsksLessThanBefore(t *testing.T) {
	const clients = 100
	virtually(t, setting{}, func(w *world) {
		all := []*kept{w.grant(60, 3*time.Second)}
		for range clients - 1 {
			all = append(all, connect(w.T, w.etcd, setting{}).grant(60, 3*time.Second))
		}
		after(time.Minute)
		w.etcd.Forget()
		after(40 * time.Second)
		usual := w.etcd.Count("Renew")
		w.etcd.Forget()
		w.delay(40 * time.Second)
		after(40 * time.Second)
		w.within("beats", w.etcd.Count("Renew"), 0, usual/2)
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 0, 5*clients)
		w.delay(0)
		after(40 * time.Second)
		w.untroubled(all)
	})
}
