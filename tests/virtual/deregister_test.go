package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// soonAnswered and neverAnswered are how long a request is held up at most. The
// latter is carried out after all has been over for long.
const (
	soonAnswered  = 500 * time.Millisecond
	neverAnswered = time.Hour
)

var heldFor = map[string]time.Duration{"answered": soonAnswered, "unanswered": neverAnswered}

// waysToRegisterAgain are what makes a registration act, with the requests that
// it makes then.
var waysToRegisterAgain = []struct {
	name   string
	begin  func(*world)
	points []point
}{
	{"lease lost", func(w *world) { w.etcd.RevokeAll() }, []point{
		{"Renew", false}, {"Renew", true}, {"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}, {"WatchCreate", false},
	}},
	{"key deleted", func(w *world) { w.etcd.Delete("/s/1") }, []point{{"Renew", false}, {"Renew", true}, {"Txn", false}, {"Txn", true}}},
	{"connection broken", func(w *world) {
		w.etcd.Delete("/s/1")
		w.etcd.Member(0).Break()
	}, []point{{"Watch", false}, {"WatchCreate", false}, {"LeaseKeepAlive", false}, {"Renew", false}, {"Txn", false}, {"Txn", true}}},
	{"store starts over", func(w *world) { w.etcd.Wipe(true) }, []point{
		{"Watch", false}, {"LeaseKeepAlive", false}, {"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true},
	}},
	{"registered again", func(w *world) { go w.more() }, []point{{"Txn", false}, {"Txn", true}}},
}

func TestDeregisterAtEveryPointOfARegistration_NeverResurrects(t *testing.T) {
	for _, way := range waysToRegisterAgain {
		for _, p := range way.points {
			for name, d := range heldFor {
				t.Run(fmt.Sprintf("%s/%v/%s", way.name, p, name), func(t *testing.T) {
					virtually(t, func(w *world) { w.deregisterAt(way.begin, p, d) })
				})
			}
		}
	}
}

// deregisterAt deregisters while a registration waits for a request to be
// answered, which takes a time.
func (w *world) deregisterAt(begin func(*world), p point, d time.Duration) {
	c, r, _ := w.registered()
	w.more = r.Register
	after(time.Second)
	reached := w.hold(p, d)
	begin(w)
	w.soon(reached, p)
	w.within(requestTimeout, r.Deregister)
	w.hasValues()
	known := len(w.etcd.History("/s/1"))
	writes := w.writes()
	after(time.Minute)
	if n := w.writes() - writes; n != 0 {
		w.Errorf("%d writes after Deregister", n)
	}
	w.holds(0)
	w.says(r.Err(), "deregistered")
	if id := c.LeaseID(); id != 0 {
		w.Errorf("lease %d", id)
	}
	after(neverAnswered)
	if history := w.etcd.History("/s/1"); len(history) != known {
		w.Errorf("the key came back: %v", history)
	}
	after(time.Minute)
	w.holds(0)
}

func TestDeregisterDuringTheFirstRegister_NothingIsLeft(t *testing.T) {
	for _, p := range []point{{"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}, {"Watch", false}, {"WatchCreate", false}, {"Renew", false}} {
		for name, d := range heldFor {
			t.Run(fmt.Sprintf("%v/%s", p, name), func(t *testing.T) {
				virtually(t, func(w *world) {
					c, _ := w.client()
					r, _ := registrar(c, service("v"))
					reached := w.hold(p, d)
					registering := start(r.Register)
					w.soon(reached, p)
					w.within(requestTimeout, r.Deregister)
					w.within(requestTimeout, func() { <-registering })
					w.hasValues()
					after(11 * time.Second) // a lease without an answer runs out
					w.holds(0)
					w.says(r.Err(), "deregistered")
					after(neverAnswered + time.Minute)
					w.holds(0)
					for _, kv := range w.etcd.History("/s/1") {
						if kv.Version > 1 {
							w.Errorf("the key came back: %v", w.etcd.History("/s/1"))
						}
					}
				})
			})
		}
	}
}

// Each moment of a Register is a moment for a Deregister, with etcd as slow as it
// may be, and with requests that come late, twice, and in any order.
func TestDeregisterAtRandomMomentsOfRegister_NothingIsLeft(t *testing.T) {
	for seed := range uint64(150) {
		virtually(t, func(w *world) {
			random := rand.New(rand.NewPCG(seed, 1))
			w.etcd.Set(etcdtest.Lateness(seed, 2*time.Second))
			c, _ := w.client()
			r, j := registrar(c, service("v"))
			var all []<-chan struct{}
			for range 1 + random.IntN(3) {
				all = append(all, start(r.Register))
				time.Sleep(time.Duration(random.Int64N(int64(8 * time.Second))))
				all = append(all, start(r.Deregister))
				time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
			}
			for _, done := range all {
				<-done
			}
			r.Deregister()
			after(15 * time.Second)
			w.heals()
			w.says(r.Err(), "deregistered")
			after(time.Minute)
			w.holds(0)
			if w.Failed() {
				w.Fatalf("seed %d:\n%s%v", seed, j, w.etcd.History("/s/1"))
			}
		})
	}
}

func TestDeregisterWhileEtcdIsAway_IsBounded(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, members := range []int{1, 3} {
			t.Run(fmt.Sprint(way.name, members), func(t *testing.T) {
				virtuallyOn(t, etcdtest.Config{Members: members}, func(w *world) {
					_, r, j := w.registered()
					w.all(way.away)
					w.within(requestTimeout, r.Deregister)
					w.logs(j, 1, "not deregistered")
					after(time.Minute)
					w.etcd.Forget()
					w.all(way.back)
					after(13 * time.Second)
					w.holds(0)
					after(time.Minute)
					if n := w.etcd.Count("Renew"); n > 1 { // one may have been under way
						w.Errorf("%d heartbeats after Deregister", n)
					}
					if n := w.writes(); n > 0 {
						w.Errorf("%d writes after Deregister", n)
					}
				})
			})
		}
	}
}

// deregisteredLate registers a service under a lease of an hour, and deregisters it
// while etcd refuses what that takes.
func (w *world) deregisteredLate(s etcdv3.Service, refused string) (etcdv3.Client, etcdv3.Service) {
	w.Helper()
	c, _ := w.client()
	s.TTL = etcdv3.NewTTLOption(3*time.Second, time.Hour)
	w.register(c, s)
	w.refuses(errUnavailable, refused)
	if err := c.Deregister(s); !errors.Is(err, context.DeadlineExceeded) {
		w.Error(err)
	}
	return c, s
}

// What Deregister could not do in time goes on until etcd has answered.
func TestDeregisterThatWasLate_GoesOn(t *testing.T) {
	virtually(t, func(w *world) {
		c, s := w.deregisteredLate(service("v"), "LeaseRevoke")
		w.holds(1, "v")
		w.heals()
		after(2 * time.Second)
		w.holds(0)
		for range 2 {
			if err := c.Deregister(s); err != nil {
				w.Error(err)
			}
		}
	})
}

// Leases do not age while etcd is away: after that they have their whole TTL.
func TestDeregisterWhileEtcdIsAwayForLong_GoesOn(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, again := range []bool{false, true} {
			virtually(t, func(w *world) {
				c, r, _ := w.registered()
				w.all(way.away)
				r.Deregister()
				after(5 * time.Minute)
				w.says(c.Deregister(service("v")), "etcd did not answer")
				w.etcd.Stop()
				w.etcd.Start()
				w.all(way.back)
				if again {
					if err := c.Deregister(service("v")); err != nil {
						w.Error(err)
					}
				} else {
					after(2 * time.Second)
				}
				w.holds(0)
			})
		}
	}
}

func TestDeregisterAgain_WaitsForTheFirst(t *testing.T) {
	virtually(t, func(w *world) {
		c, s := w.deregisteredLate(service("v"), "LeaseRevoke")
		w.holds(1, "v")
		w.heals()
		if err := c.Deregister(s); err != nil {
			w.Error(err)
		}
		w.holds(0)
	})
}

// What was registered first has a put and a revoke on their way, while what was
// registered next is gone already.
func TestDeregisterAgain_WaitsForAllThatIsOnItsWay(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		var puts, revokes atomic.Int32
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Delay = func(_ int, method string, _ any) time.Duration {
				if method == "Txn" && puts.Add(1) == 1 || method == "LeaseRevoke" && revokes.Add(1) == 1 {
					return 8 * time.Second
				}
				return 0
			}
		})
		r, _ := registrar(c, service("v"))
		r.Register()
		r.Deregister()
		r.Register()
		w.hasValues("v")
		w.within(requestTimeout, func() { w.says(c.Deregister(service("v")), "etcd did not answer") })
		if err := c.Deregister(service("v")); err != nil {
			w.Error(err)
		}
		known := len(w.etcd.History("/s/1"))
		after(time.Minute)
		if history := w.etcd.History("/s/1"); len(history) != known {
			w.Errorf("the key came back: %v", history)
		}
		w.holds(0)
	})
}

func TestRegisterAndDeregisterInAnOutage_LeaveNothingBehind(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, _ := w.registered()
		w.all((*etcdtest.Member).Down)
		r.Deregister()
		before := runtime.NumGoroutine()
		for range 100 {
			r.Register()
			r.Deregister()
		}
		after(time.Second)
		if n := runtime.NumGoroutine(); n > before+5 {
			w.Errorf("%d goroutines, %d before", n, before)
		}
		w.all((*etcdtest.Member).Up)
		r.Deregister()
		w.holds(0)
	})
}

// Whoever is told that etcd has refused mends that, and calls again.
func TestDeregisterThatWasRefused_CanBeCalledAgain(t *testing.T) {
	for _, guard := range []bool{false, true} {
		virtually(t, func(w *world) {
			w.withUsers()
			c, _ := w.client(asUser("u", "p"))
			s := timed(3*time.Second, time.Hour)
			w.register(c, s)
			if guard {
				s.DeleteOptions = &etcdv3.DeleteOptions{PrevValue: "v"}
			}
			for range 2 {
				w.etcd.SetUser("u", "p", etcdtest.Read("/s/"))
				w.says(c.Deregister(s), "permission denied")
				w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
			}
			w.hasValues("v")
			if err := c.Deregister(s); err != nil {
				w.Error(err)
			}
			w.holds(0)
			w.etcd.Put("/s/1", "theirs")
			if err := c.Deregister(service("v")); err != nil {
				w.Error(err)
			}
			w.hasValues("theirs")
		})
	}
}

func TestLeaseThatCouldNotBeRevoked_HasNoKeyAndRunsOut(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		s := service("v")
		s.TTL = etcdv3.NewTTLOption(3*time.Second, time.Minute)
		w.register(c, s)
		w.refuses(errUnavailable, "LeaseRevoke")
		s.TTL = etcdv3.NewTTLOption(3*time.Second, 2*time.Minute)
		w.register(c, s)
		w.holds(2, "v")
		w.heals()
		if err := c.Deregister(s); err != nil {
			w.Fatal(err)
		}
		w.hasValues()
		after(time.Minute + time.Second)
		w.holds(0)
	})
}

func TestRecursiveDeregister_RemovesAllBelow(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		for _, key := range []string{"/s", "/s/1", "/s/2", "/sx"} {
			w.register(c, etcdv3.Service{Key: key, Value: key})
		}
		w.etcd.Put("/s/3", "of somebody")
		if err := c.Deregister(etcdv3.Service{Key: "/s", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}}); err != nil {
			w.Error(err)
		}
		after(time.Minute)
		if got := w.etcd.Keys("/"); len(got) != 1 || got[0] != "/sx" {
			w.Errorf("%q are left", got)
		}
	})
}

func TestRecursiveDeregister_WithEtcdAway_IsBounded(t *testing.T) {
	for _, way := range waysToBeAway {
		virtually(t, func(w *world) {
			c, _ := w.client()
			for _, key := range []string{"/s", "/s/1", "/s/2"} {
				w.register(c, etcdv3.Service{Key: key, Value: "v"})
			}
			w.all(way.away)
			w.within(requestTimeout, func() {
				if err := c.Deregister(etcdv3.Service{Key: "/s", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}}); err == nil {
					w.Error("deregistered")
				}
			})
			after(time.Minute)
			w.all(way.back)
			after(15 * time.Second)
			w.holds(0)
		})
	}
}

func TestDeregisterByKey_AfterARegisterThatFailed_DeletesIt(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "of a run before")
		c, _ := w.client()
		w.refuses(errUnavailable, "LeaseGrant", "Txn")
		if err := c.Register(service("v")); err == nil {
			w.Fatal("registered")
		}
		w.heals()
		if err := c.Deregister(service("")); err != nil {
			w.Error(err)
		}
		w.holds(0)
	})
}

// Its caller has heard that the key could not be deleted. Who puts it after that is a
// later owner.
func TestDeregisterByKeyInAnOutage_LeavesWhatIsPutAfterwards(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, tried := range []bool{false, true} {
			for _, recursive := range []bool{false, true} {
				virtually(t, func(w *world) {
					w.etcd.Put("/s/1", "earlier")
					c, _ := w.client()
					_, _ = c.GetEntries("/s/")
					w.all(way.away)
					s := service("v")
					if recursive {
						s.DeleteOptions = &etcdv3.DeleteOptions{Recursive: true}
					}
					if tried {
						r, _ := registrar(c, s)
						r.Register()
						after(time.Second)
						w.within(requestTimeout, r.Deregister)
					} else if err := c.Deregister(s); !errors.Is(err, context.DeadlineExceeded) {
						w.Error(err)
					}
					w.etcd.Put("/s/1", "theirs")
					w.etcd.Put("/s/1/2", "theirs")
					w.all(way.back)
					after(2 * time.Minute)
					w.holds(0, "theirs", "theirs")
				})
			}
		}
	}
}

func TestDeregister_WithARevisionThatCannotBe_IsAnError(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		s := service("v")
		s.DeleteOptions = &etcdv3.DeleteOptions{PrevIndex: math.MaxUint64}
		w.says(c.Deregister(s), "PrevIndex")
		if counts := w.etcd.Counts(); len(counts) != 0 {
			w.Errorf("etcd was asked: %v", counts)
		}
	})
}

func TestRegisterAgainstDeregister_NobodyFails(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		var both sync.WaitGroup
		both.Go(func() {
			for range 200 {
				if err := c.Register(service("v")); err != nil {
					w.says(err, "deregistered meanwhile")
				}
			}
		})
		both.Go(func() {
			for range 200 {
				if err := c.Deregister(service("v")); err != nil {
					w.Error(err)
				}
			}
		})
		both.Wait()
		w.register(c, service("v"))
		after(11 * time.Second)
		w.holds(1, "v")
	})
}

// The stream of watches stays open for a while, and is due for its first check
// then: a check that spins lets no time pass here.
func TestDeregisterAtOnce_LeavesAStreamAtRest(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		for wait := time.Duration(0); wait < 3*time.Second; wait += 250 * time.Millisecond {
			w.register(c, service("v"))
			after(wait)
			if err := c.Deregister(service("v")); err != nil {
				w.Error(err)
			}
			w.holds(0)
			after(time.Minute)
		}
	})
}

// A key that Register has put since Deregister looked for it is not put back.
func TestDeregisterDuringTheFirstRegister_IsOneOrTheOther(t *testing.T) {
	bad := 0
	for range 200 {
		virtually(t, func(w *world) {
			c, _ := w.client()
			r, j := registrar(c, service("v"))
			one, two := start(r.Register), start(r.Deregister)
			<-one
			<-two
			after(10 * time.Second)
			if j.count("deleted from outside") > 0 {
				if bad++; bad == 1 {
					w.Logf("%s", j)
				}
			}
		})
	}
	if bad > 0 {
		t.Errorf("in %d of 200 runs", bad)
	}
}
