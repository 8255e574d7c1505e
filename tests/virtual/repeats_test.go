package virtual_test

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

func TestTroubleThatLasts_IsRepeatedAfterAMinuteAndThenEveryTen(t *testing.T) {
	for _, reason := range reasons {
		if reason.name == "too many requests" {
			continue // see below
		}
		t.Run(reason.name, func(t *testing.T) {
			virtually(t, func(w *world) {
				w.withUsers()
				c, _ := w.client(asUser("u", "p"))
				reason.begin(w)
				r, j := registrar(c, service("v"))
				r.Register()
				began := time.Now()
				for minutes := range 60 {
					after(time.Until(began.Add(time.Duration(minutes)*time.Minute + 30*time.Second)))
					want := 1
					if minutes >= 1 {
						want += 1 + (minutes-1)/10
					}
					w.logs(j, want, "not registered", reason.words)
					w.logs(j, want, "")
				}
				r.Deregister()
				lines := j.count("")
				after(time.Hour)
				w.logs(j, lines, "")
			})
		})
	}
}

func TestTroubleThatGoesOn_IsRepeatedWhateverItsReasons(t *testing.T) {
	virtually(t, func(w *world) {
		_, _, j := w.registered()
		w.all((*etcdtest.Member).Down)
		after(55 * time.Second)
		w.all((*etcdtest.Member).Up)
		w.all((*etcdtest.Member).LoseLeader)
		after(10 * time.Second)
		w.logs(j, 1, "not registered", "no leader")
		after(20 * time.Second) // a minute after the loss, which is told within the TTL
		w.logs(j, 1, "not registered", "for=1m0s")
		after(11 * time.Minute)
		w.logs(j, 2, "not registered", "no leader", "for=")
		w.logs(j, 1, "for=11m0s")
	})
}

// One host refuses, another one is off: the reason is now the one, now the other.
func TestReasonsThatTakeTurns_AreNotLoggedEachTime(t *testing.T) {
	for _, before := range []bool{true, false} {
		virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
			c, _ := w.client()
			r, j := registrar(c, service("v"))
			if before {
				r.Register()
			}
			w.etcd.Member(0).Down()
			w.etcd.Member(1).Freeze()
			w.etcd.Member(2).Silence()
			if !before {
				r.Register()
			}
			after(time.Hour)
			if n := j.count(""); n > 20 {
				w.Errorf("registered before %v: %d lines in an hour", before, n)
			}
		})
	}
}

// One member refuses connections, and others are silent.
func TestReasonsThatTakeTurns_AreToldOnceEach(t *testing.T) {
	virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
		c, _ := w.client()
		events, j := w.followed(c)
		after(20 * time.Second)
		events.take()
		w.etcd.Member(0).Down()
		w.etcd.Member(1).Freeze()
		w.etcd.Member(2).Silence()
		after(time.Hour)
		if lines, n := j.count(""), len(events.take()); lines >= 25 || n == 0 || n > 5 {
			w.Errorf("%d events:\n%s", n, j)
		}
	})
}
