package virtual_test

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// A client with a password comes back as soon as one without, although its token
// is gone with the members.
func TestUser_ComesBackWithin5sHoweverLongEtcdWasAway(t *testing.T) {
	for _, way := range append(waysToBeAway, way{"without a leader", (*etcdtest.Member).LoseLeader, (*etcdtest.Member).FindLeader}) {
		for _, members := range []int{1, 3} {
			t.Run(way.name, func(t *testing.T) {
				virtuallyOn(t, etcdtest.Config{Members: members, Settings: etcdtest.Settings{RequestTimeout: 7 * time.Second}}, func(w *world) {
					w.withUsers()
					c, r, _ := w.registered(asUser("u", "p"))
					events, _ := w.followed(c)
					after(20 * time.Second)
					w.all(way.away)
					w.etcd.ForgetTokens()
					w.etcd.Forget()
					after(20 * time.Minute)
					w.etcd.ForgetTokens()
					w.etcd.RevokeAll()
					n := w.etcd.Count("Authenticate")
					if n > 1000 {
						w.Errorf("%d authentications in 20 minutes", n)
					}
					events.take()
					w.all(way.back)
					w.until(again, "registered", func() bool { return len(w.etcd.Values("/s/")) == 1 })
					after(again)
					if got := events.take(); len(got) == 0 || got[len(got)-1] != "v" {
						w.Errorf("events %q", got)
					}
					w.comesToHold(r, "v")
					if n := w.etcd.Count("Authenticate") - n; n > 3 {
						w.Errorf("%d authentications afterwards", n)
					}
				})
			})
		}
	}
}

func TestUser_OfAClientThatStartsInAnOutage_ComesWithin5s(t *testing.T) {
	for _, way := range append(waysToBeAway, way{"without a leader", (*etcdtest.Member).LoseLeader, (*etcdtest.Member).FindLeader}) {
		t.Run(way.name, func(t *testing.T) {
			virtuallyOn(t, etcdtest.Config{Settings: etcdtest.Settings{RequestTimeout: 7 * time.Second}}, func(w *world) {
				w.withUsers()
				w.all(way.away)
				c, _ := w.client(asUser("u", "p"))
				r, _ := registrar(c, service("v"))
				w.within(requestTimeout, r.Register)
				after(20 * time.Minute)
				w.all(way.back)
				w.until(again, "registered", func() bool { return r.Err() == nil })
				w.comesToHold(r, "v")
			})
		})
	}
}
