package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// momentsOfAWatch are some at which an outage may begin.
var momentsOfAWatch = []time.Duration{0, 900 * time.Millisecond, 5 * time.Second, 10900 * time.Millisecond}

func TestOutage_IsToldWithin15sAndOver(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, at := range momentsOfAWatch {
			t.Run(fmt.Sprint(way.name, at), func(t *testing.T) {
				virtually(t, func(w *world) {
					w.etcd.Put("/s/1", "a")
					c, _ := w.client()
					events, j := w.followed(c)
					after(at)
					events.are(w, "a")
					w.all(way.away)
					after(4 * time.Second)
					events.are(w) // a short break is nobody's business
					after(11 * time.Second)
					events.are(w, "error")
					after(time.Hour)
					if slices.ContainsFunc(events.take(), func(event string) bool { return event != "error" }) {
						w.Error("a set while etcd is away")
					}
					w.etcd.Put("/s/2", "b")
					w.all(way.back)
					after(again)
					events.are(w, "a b")
					w.logs(j, 1, "resumed")
					after(time.Minute)
					events.are(w)
				})
			})
		}
	}
}

// Who connects meanwhile waits for an answer that was lost.
func TestOutageBehindAProxyThatDrops_IsOverWithin5s(t *testing.T) {
	worst := time.Duration(0)
	for at := range 300 {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			c, _ := w.client()
			events, _ := w.followed(c)
			after(20 * time.Second)
			w.etcd.SetLinks(etcdtest.Link{Drops: true})
			w.until(15*time.Second, "told", func() bool { return len(events.ch) == 2 })
			after(20*time.Second + time.Duration(at)*17*time.Millisecond)
			events.take()
			w.etcd.SetLinks(etcdtest.Link{})
			worst = max(worst, w.until(time.Minute, "back", func() bool { return slices.Contains(events.take(), "a") }))
		})
	}
	if worst > again {
		t.Errorf("back after %v", worst)
	}
}

func TestShortOutage_IsNotTold(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, at := range momentsOfAWatch {
			virtually(t, func(w *world) {
				w.etcd.Put("/s/1", "a")
				c, _ := w.client()
				events, _ := w.followed(c)
				after(at)
				w.all(way.away)
				after(4100 * time.Millisecond)
				w.all(way.back)
				after(time.Minute)
				events.are(w, "a")
			})
		}
	}
}

func TestSubscriberThatJoinsInAnOutage_GetsTheSetAndThenTheError(t *testing.T) {
	for _, way := range waysToBeAway {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			c, _ := w.client()
			s, first, _ := w.polled(c)
			w.Cleanup(s.Stop)
			w.all(way.away)
			after(20 * time.Second)
			first.are(w, "a", "error")
			later := subscribed(s)
			after(time.Second)
			later.are(w, "a", "error")
			w.etcd.Put("/s/1", "b")
			w.all(way.back)
			after(again)
			first.are(w, "b")
			later.are(w, "b")
		})
	}
}

func TestRefusal_IsToldAtOnceAndOver(t *testing.T) {
	virtually(t, func(w *world) {
		w.withUsers()
		w.etcd.Put("/s/1", "a")
		c, _ := w.client(asUser("u", "p"))
		events, j := w.followed(c)
		after(time.Minute)
		events.are(w, "a")
		w.etcd.SetUser("u", "p")
		w.etcd.Member(0).Break() // so that etcd looks
		after(4 * time.Second)
		events.are(w, "error")
		if j.count("permission denied") == 0 {
			w.Errorf("%s", j)
		}
		after(time.Minute)
		events.are(w)
		w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
		after(6 * time.Second)
		events.are(w, "a")
	})
}

// Whatever happens to the token of a user who may not read.
func TestRefusal_IsTheReasonUntilItIsOver(t *testing.T) {
	virtuallyOn(t, etcdtest.Config{Members: 3, Settings: etcdtest.Settings{TokenTTL: 2 * time.Second}}, func(w *world) {
		w.withUsers()
		w.etcd.Put("/s/1", "a")
		c, _ := w.client(asUser("u", "p"))
		events, j := w.followed(c)
		for range 20 {
			w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/other/"))
			w.all((*etcdtest.Member).Break)
			after(20 * time.Second)
			w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
			events.take()
			after(6 * time.Second)
			events.are(w, "a")
		}
		if told, rightly := j.count("failed to retrieve"), j.count("failed to retrieve", "permission denied"); told != 20 || rightly != 20 {
			w.Errorf("%d errors, %d of them rightly:\n%s", told, rightly, j)
		}
	})
}

func TestListThatIsNotAnsweredWhileEtcdIsWell_IsToldInTheEnd(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "a")
		c, _ := w.client()
		events, _ := w.followed(c)
		after(0) // the watch stands
		events.are(w, "a")
		w.etcd.Set(func(s *etcdtest.Settings) { // lists are too large for the link
			s.Delay = func(_ int, method string, req any) time.Duration {
				if isList(method, req) {
					return time.Hour
				}
				return 0
			}
		})
		w.etcd.Member(0).Break()
		after(time.Minute)
		events.are(w, "error")
		w.heals()
		w.etcd.Put("/s/1", "b")
		w.etcd.Member(0).Break()
		after(again)
		events.are(w, "b")
	})
}

func TestWatchPrefix_SignalsTroubleAndChange(t *testing.T) {
	for _, way := range waysToBeAway {
		virtually(t, func(w *world) {
			c, cancel := w.client()
			ch := make(chan struct{})
			done := start(func() { c.WatchPrefix("/s/", ch) })
			signals := func() (n int) {
				for {
					select {
					case <-ch:
						n++
					case <-time.After(time.Second):
						return n
					}
				}
			}
			if n := signals(); n != 1 {
				w.Errorf("%d signals when the watch stands", n)
			}
			for i := range 10 {
				w.etcd.Put("/s/1", fmt.Sprint(i))
			}
			after(time.Second)
			if n := signals(); n != 1 {
				w.Errorf("%d signals for changes while the receiver was busy", n)
			}
			w.all(way.away)
			after(15 * time.Second)
			if n := signals(); n != 1 {
				w.Errorf("%d signals for an outage", n)
			}
			if _, err := c.GetEntries("/s/"); !errors.Is(err, context.DeadlineExceeded) {
				w.Error(err)
			}
			w.all(way.back)
			after(again)
			if n := signals(); n != 1 {
				w.Errorf("%d signals for the set after it", n)
			}
			w.etcd.Put("/s/1", "last") // nobody receives it
			after(time.Second)
			cancel()
			<-done
		})
	}
}

// A program whose first Register meets an etcd that is away.
func TestRegisterWhileEtcdIsAway_GoesOnUntilItSucceeds(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, away := range []time.Duration{time.Second, 10 * time.Second, 20 * time.Minute} {
			virtually(t, func(w *world) {
				w.all(way.away)
				c, _ := w.client()
				r, _ := registrar(c, service("v"))
				w.within(requestTimeout, r.Register)
				after(away)
				w.all(way.back)
				w.until(again, "registered", func() bool { return r.Err() == nil })
				w.comesToHold(r, "v")
			})
		}
	}
}

func TestEtcdAwayForLongerThanTheTTL_IsRegisteredAgainWithin5s(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, away := range []time.Duration{11 * time.Second, time.Minute, 20 * time.Minute} {
			for _, wiped := range []bool{false, true} {
				virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
					c, r, j := w.registered()
					events, _ := w.followed(c)
					after(20 * time.Second)
					w.all(way.away)
					after(away)
					if wiped {
						w.etcd.Wipe(false)
					}
					w.all(way.back)
					w.until(again, "registered", func() bool { return len(w.etcd.Values("/s/")) == 1 && r.Err() == nil })
					w.comesToHold(r, "v")
					w.logs(j, 1, "registration lost")
					w.logs(j, 1, "registered again")
					if got := events.take(); got[len(got)-1] != "v" {
						w.Errorf("events %q", got)
					}
				})
			}
		}
	}
}

func TestInstancerThatStartsWhileEtcdIsDown_LogsThatOnce(t *testing.T) {
	virtually(t, func(w *world) {
		w.all((*etcdtest.Member).Down)
		c, _ := w.client()
		_, j := w.followed(c)
		after(50 * time.Second)
		w.logs(j, 1, "failed to retrieve entries")
	})
}

// A member without a leader answers for progress until it ends the stream.
func TestLeaderLost_IsToldWithin15s(t *testing.T) {
	for _, members := range []int{1, 3} {
		for at := range 20 {
			virtuallyOn(t, etcdtest.Config{Members: members}, func(w *world) {
				c, _ := w.client()
				events, _ := w.followed(c)
				after(20*time.Second + time.Duration(at)*400*time.Millisecond)
				events.take()
				w.all((*etcdtest.Member).LoseLeader)
				took := w.until(time.Minute, "told", func() bool { return len(events.ch) > 0 })
				if took > 15*time.Second {
					w.Errorf("%d members, moment %d: told after %v", members, at, took)
				}
			})
		}
	}
}

func TestInstancerThatStartsInAShortBreak_WaitsForTheSet(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "a")
		w.etcd.Member(0).Down()
		time.AfterFunc(1500*time.Millisecond, w.etcd.Member(0).Up)
		c, _ := w.client()
		events, _ := w.followed(c)
		after(again)
		events.are(w, "a")
	})
}

func TestInstancerThatStartsWithOneMemberOfThreeUnwell_WaitsForTheSet(t *testing.T) {
	for _, c := range []struct {
		name string
		rtt  time.Duration
		how  func(*etcdtest.Member)
	}{
		{"stalled", 0, (*etcdtest.Member).Stall},
		{"leaderless", 0, (*etcdtest.Member).LoseLeader},
		{"leaderless", 300 * time.Millisecond, (*etcdtest.Member).LoseLeader},
	} {
		for i := range 3 {
			virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
				w.etcd.Put("/s/1", "a")
				w.etcd.SetLinks(etcdtest.Link{RTT: c.rtt})
				c.how(w.etcd.Member(i))
				own, _ := w.client()
				events, j := w.followed(own)
				after(10 * time.Second)
				if got := events.take(); !slices.Equal(got, []string{"a"}) {
					w.Errorf("%s, %v: %q\n%s", c.name, c.rtt, got, j)
				}
			})
		}
	}
}

func TestInstancerThatStartsInAnOutage_ReturnsWithinTheRequestTimeout(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, timeout := range []time.Duration{50 * time.Millisecond, requestTimeout, 20 * time.Second} {
			virtually(t, func(w *world) {
				w.all(way.away)
				c, _ := w.client(func(o *etcdv3.ClientOptions) { o.HeaderTimeoutPerRequest = timeout })
				var s *etcdv3.Instancer
				w.within(timeout, func() { s, _, _ = w.polled(c) })
				w.Cleanup(s.Stop)
				if s.State().Err == nil {
					w.Error("no error")
				}
				if way.name == "down" && timeout >= requestTimeout {
					w.says(s.State().Err, "connection refused")
				}
			})
		}
	}
}
