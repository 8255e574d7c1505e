package virtual_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

func TestContextEnds_ReleaseIsBoundedAndNothingGoesOn(t *testing.T) {
	nothing := func(*etcdtest.Member) {}
	for _, way := range append(slices.Clone(waysToBeAway), way{"answers", nothing, nothing}) {
		for _, members := range []int{1, 3} {
			t.Run(fmt.Sprint(way.name, members), func(t *testing.T) {
				virtuallyOn(t, etcdtest.Config{Members: members}, func(w *world) {
					c, cancel := w.client()
					for i := range 20 {
						w.register(c, etcdv3.Service{Key: key(i), Value: "v"})
					}
					events, _ := w.followed(c)
					w.all(way.away)
					cancel()
					after(requestTimeout)
					if way.name == "answers" {
						w.holds(0)
					}
					if way.name != "silent" && way.name != "frozen" {
						if n := w.etcd.Connections(); n > 0 {
							w.Errorf("%d connections", n)
						}
					}
					w.etcd.Forget()
					after(11 * time.Second)
					w.all(way.back)
					after(11 * time.Second)
					w.holds(0)
					if n := w.etcd.Connections(); n > 0 {
						w.Errorf("%d connections", n)
					}
					if counts := w.etcd.Counts(); way.name != "frozen" && way.name != "silent" && len(counts) > 0 {
						w.Errorf("requests after the release: %v", counts)
					}
					w.says(c.Register(service("v")), "the client is closed")
					if got := events.take(); len(got) != 1 {
						w.Errorf("events %q", got)
					}
				})
			})
		}
	}
}

func TestContextEndsInEachPhase_NothingIsLeft(t *testing.T) {
	for _, p := range []point{
		{"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}, {"Watch", false}, {"WatchCreate", false},
		{"LeaseKeepAlive", false}, {"Renew", false}, {"Renew", true}, {"Range", false},
	} {
		for name, d := range heldFor {
			t.Run(fmt.Sprintf("%v/%s", p, name), func(t *testing.T) {
				virtually(t, func(w *world) {
					c, cancel := w.client()
					r, j := registrar(c, service("v"))
					reached := w.hold(p, d)
					registering := start(r.Register)
					listening := start(func() {
						if s, err := etcdv3.NewInstancer(c, "/s/", nil); err != nil {
							w.Error(err)
						} else {
							w.Cleanup(s.Stop)
						}
					})
					w.soon(reached, p)
					cancel()
					w.within(requestTimeout, func() {
						<-registering
						<-listening
					})
					after(requestTimeout)
					w.hasValues()
					if err := r.Err(); err == nil {
						w.Error("Err is nil after the end")
					}
					if n := w.etcd.Connections(); n > 0 {
						w.Errorf("%d connections", n)
					}
					after(11 * time.Second)
					w.holds(0)
					after(neverAnswered)
					w.holds(0)
					r.Deregister()
					r.Register()
					w.says(r.Err(), "the client is closed")
					if n := j.count("action=register"); n > 1 {
						w.Errorf("%s", j)
					}
				})
			})
		}
	}
}

func TestContextEnds_DeregisterAtAnyMomentIsSafe(t *testing.T) {
	for d := -20 * time.Millisecond; d <= 20*time.Millisecond; d += time.Millisecond {
		virtuallyOn(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: 5 * time.Millisecond}}, func(w *world) {
			c, cancel := w.client()
			r, _ := registrar(c, service("v"))
			r.Register()
			other, _ := registrar(c, etcdv3.Service{Key: "/s/2", Value: "w"})
			other.Register()
			var all sync.WaitGroup
			all.Go(func() {
				time.Sleep(max(0, -d))
				cancel()
			})
			all.Go(func() {
				time.Sleep(max(0, d))
				r.Deregister()
			})
			all.Wait()
			after(requestTimeout)
			w.holds(0)
			if r.Err() == nil || other.Err() == nil {
				w.Errorf("%v, %v", r.Err(), other.Err())
			}
			r.Deregister()
			w.says(r.Err(), "deregistered")
		})
	}
}

func TestContextHasEnded_DeregisterSaysWhatTheReleaseCameTo(t *testing.T) {
	virtually(t, func(w *world) {
		c, cancel := w.client()
		w.register(c, service("v"))
		cancel()
		after(requestTimeout)
		w.holds(0)
		for range 100 {
			if err := c.Deregister(service("v")); err != nil {
				w.Fatalf("it was released: %v", err)
			}
			w.says(c.Deregister(etcdv3.Service{Key: "/s/never"}), "the client is closed")
		}
	})
}

// The key may be under the lease that it had, and under the one that it gets.
func TestEndWhileTheLeaseChanges_OnASlowEtcd_RevokesBoth(t *testing.T) {
	for _, deregister := range []bool{false, true} {
		for at := 500 * time.Millisecond; at < 8*time.Second; at += 500 * time.Millisecond {
			virtually(t, func(w *world) {
				c, cancel := w.client()
				w.register(c, service("v"))
				after(time.Second)
				w.delays(2900*time.Millisecond, unary...)
				changing := start(func() { _ = c.Register(timed(3*time.Second, time.Minute)) })
				after(at)
				if deregister {
					w.within(requestTimeout, func() {
						if err := c.Deregister(service("")); err != nil {
							w.Error(err)
						}
					})
				} else {
					cancel()
					after(requestTimeout)
				}
				w.hasValues()
				<-changing
				after(20 * time.Second)
				w.hasValues()
			})
		}
	}
}

func TestContextEnds_ErrAndTheLogSaySo(t *testing.T) {
	virtually(t, func(w *world) {
		c, cancel := w.client()
		r, j := registrar(c, service("v"))
		r.Register()
		cancel()
		after(time.Second)
		w.holds(0)
		w.says(r.Err(), "the client's context has ended")
		w.logs(j, 1, "registration ended")
		after(time.Hour)
		w.logs(j, 2, "")
	})
}

func TestContextEndsWhileTheFirstListIsUnderWay_TheStateIsOneOfTwo(t *testing.T) {
	for d := 5 * time.Millisecond; d < 15*time.Millisecond; d += 500 * time.Microsecond {
		for range 5 { // at 10 ms both happen at one moment
			virtually(t, func(w *world) {
				w.etcd.Put("/s/1", "a")
				w.delaysAnswers(10*time.Millisecond, "Range")
				c, cancel := w.client()
				time.AfterFunc(d, cancel)
				s, err := etcdv3.NewInstancer(c, "/s/", nil)
				if err != nil {
					w.Fatal(err)
				}
				state := s.State()
				known := state.Err == nil && slices.Equal(state.Instances, []string{"a"})
				closed := state.Err != nil && len(state.Instances) == 0 && strings.Contains(state.Err.Error(), "closed")
				if !known && !closed || known && d < 10*time.Millisecond || closed && d > 11*time.Millisecond {
					w.Errorf("cancelled after %v: %+v", d, state)
				}
				after(time.Minute)
				if later := s.State(); (later.Err == nil) != known {
					w.Errorf("cancelled after %v: %+v, then %+v", d, state, later)
				}
				s.Stop()
			})
		}
	}
}

func TestContextThatHasEnded_RegistersNothing(t *testing.T) {
	virtually(t, func(w *world) {
		for i := range 50 {
			c, cancel := w.client()
			if i%2 == 0 {
				cancel()
			} else {
				time.AfterFunc(0, cancel) // at the moment of the call
			}
			if err := c.Register(etcdv3.Service{Key: key(i), Value: "v"}); err != nil && errors.Is(err, etcdv3.ErrNoKey) {
				w.Error(err)
			}
		}
		after(11 * time.Second)
		w.holds(0)
	})
}
