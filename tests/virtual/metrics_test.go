package virtual_test

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// Whatever took a registration, and whoever hears of it first: one loss, and one
// return. A service that comes late has not returned.
func TestLossesAndReturns_AreCountedOnceEach(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		lose   func(w *world)
	}{
		"revoked": {"lease lost", func(w *world) { w.etcd.RevokeAll() }},
		"deleted": {"key deleted", func(w *world) { w.etcd.Delete("/s/1") }},
		"taken": {"key taken", func(w *world) {
			w.etcd.Put("/s/1", "other")
			after(10 * time.Second)
			w.etcd.Delete("/s/1")
		}},
		"away": {"connection refused", func(w *world) {
			w.all((*etcdtest.Member).Down)
			after(20 * time.Second)
			w.all((*etcdtest.Member).Up)
		}},
		"wiped": {"lease lost", func(w *world) { w.etcd.Wipe(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(w *world) {
				s, with := spied()
				c0, _ := w.client(with)
				w.etcd.Stop()
				r, _ := registrar(c0, service("v"))
				r.Register()
				after(5 * time.Second)
				w.etcd.Start()
				w.comesToHold(r, "v")
				if s.sum("losses")+s.sum("returns") != 0 || s.get("registered") != 1 {
					w.Errorf("after a late start: %v", s.all())
				}
				for i := range 3 {
					c.lose(w)
					w.comesToHold(r, "v")
					want := float64(i + 1)
					if s.sum("losses") != want || s.sum("returns") != want || s.get("registered") != 1 ||
						s.get("losses{reason="+c.reason+"}") != want || s.get("returns{reason="+c.reason+"}") != want {
						w.Errorf("after loss %d: %v", i+1, s.all())
					}
				}
				r.Register()
				r.Deregister()
				r.Register()
				if s.sum("losses") != 3 || s.sum("returns") != 3 || s.get("registered") != 1 {
					w.Errorf("in the end: %v", s.all())
				}
			})
		})
	}
}

// A counter that begins at one has not increased, for Prometheus, and an alert that
// compares two gauges says nothing while one of them is not there.
func TestMetrics_AreThereFromTheBeginning(t *testing.T) {
	virtually(t, func(w *world) {
		s, with := spied()
		c, _ := w.client(with)
		want := []string{"wanted", "registered", "unanswered", "watched", "stale", "sent", "coalesced", "requests", "retries", "waiting", "authentications"}
		reasons := []string{"no space", "permission", "password", "certificate", "connection refused", "no leader", "too many requests", "no answer", "connection lost", "other"}
		for _, reason := range reasons {
			want = append(want, "losses{reason="+reason+"}", "returns{reason="+reason+"}", "interruptions{reason="+reason+"}")
		}
		for _, reason := range []string{"lease lost", "key deleted", "key changed", "key taken"} {
			want = append(want, "losses{reason="+reason+"}", "returns{reason="+reason+"}")
		}
		all := s.all()
		for _, name := range want {
			if value, has := all[name]; !has || value != 0 {
				w.Errorf("%s is %v, there: %v", name, value, has)
			}
		}
		if len(all) != len(want) {
			w.Errorf("%d metrics, want %d: %v", len(all), len(want), all)
		}
		r, _ := registrar(c, service("v"))
		r.Register()
		w.client(with) // which shares them, and leaves them as they are
		if s.get("registered") != 1 {
			w.Error(s.all())
		}
	})
}

func TestSilence_IsCountedAsNoAnswer(t *testing.T) {
	virtually(t, func(w *world) {
		s, with := spied()
		c, _ := w.client(with)
		w.followed(c)
		after(20 * time.Second)
		w.etcd.Set(func(s *etcdtest.Settings) { s.Delay = func(int, string, any) time.Duration { return time.Hour } })
		after(20 * time.Second)
		if s.get("interruptions{reason=no answer}") != 1 {
			w.Error(s.all())
		}
		w.heals()
		after(2 * time.Hour)
	})
}
