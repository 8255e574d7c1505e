package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// What a further Register of a key that is registered leaves behind, and tells.

func TestRegisterAgain_IsSilentAndKeepsTheLease(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, j := w.registered()
		lease := c.LeaseID()
		for i := range 10 {
			r.Register()
			w.isRegistered(r)
			w.logs(j, i+2, "action=register")
			w.logs(j, i+2, "")
		}
		if c.LeaseID() != lease {
			w.Error("it has another lease")
		}
		w.holds(1, "v")
		w.wasNeverDeleted("/s/1")
	})
}

func TestRegisterAgain_WithALongerTTL_IsNoLoss(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		for _, ttl := range []*etcdv3.TTLOption{etcdv3.NewTTLOption(time.Second, 2*time.Second), etcdv3.NewTTLOption(20*time.Second, time.Minute)} {
			s := service("v")
			s.TTL = ttl
			r, j := registrar(c, s)
			r.Register()
			for range 60 {
				w.isRegistered(r)
				after(100 * time.Millisecond)
			}
			w.logs(j, 1, "")
		}
		w.holds(1, "v")
		w.wasNeverDeleted("/s/1")
	})
}

func TestRegisterAgain_WithALongerHeartbeat_KeepsTheLease(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		short, long := service("v"), service("v")
		short.TTL, long.TTL = etcdv3.NewTTLOption(4*time.Second, 6*time.Second), etcdv3.NewTTLOption(5900*time.Millisecond, 6*time.Second)
		for i := range 40 {
			w.register(c, short)
			lease := c.LeaseID()
			after(time.Duration(i) * 100 * time.Millisecond) // at any moment before the first beat
			w.register(c, long)
			after(time.Minute)
			if c.LeaseID() != lease {
				w.Error("the lease was lost")
			}
		}
		w.wasNeverDeleted("/s/1")
	})
}

func TestRegisterAgain_WithAShorterHeartbeat_BeatsFaster(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		for _, heartbeat := range []time.Duration{time.Minute, time.Second} {
			s := service("v")
			s.TTL = etcdv3.NewTTLOption(heartbeat, 3*time.Minute)
			w.register(c, s)
			after(10 * time.Second)
		}
		if beats, grants := w.etcd.Count("Renew"), w.etcd.Count("LeaseGrant"); beats < 9 || grants != 1 {
			w.Errorf("%d beats in 10 s, %d leases", beats, grants)
		}
	})
}

func TestRegisterAgainThatGetsNoAnswer_LeavesOneLeaseInTheEnd(t *testing.T) {
	for _, p := range []point{{"LeaseGrant", true}, {"Txn", true}, {"LeaseGrant", false}, {"Txn", false}} {
		for _, value := range []string{"v", "w"} {
			t.Run(fmt.Sprint(p, value), func(t *testing.T) {
				virtually(t, func(w *world) {
					c, r, j := w.registered()
					s := service(value)
					s.TTL = etcdv3.NewTTLOption(3*time.Second, 30*time.Second)
					w.hold(p, time.Hour)
					w.within(requestTimeout, func() {
						if err := c.Register(s); !errors.Is(err, context.DeadlineExceeded) {
							w.Error(err)
						}
					})
					after(31 * time.Second) // the lease that was granted has no key
					w.holds(1, "v")         // what was registered stays
					w.isRegistered(r)
					w.wasNeverDeleted("/s/1")
					after(2 * time.Hour) // what arrives late changes nothing
					w.holds(1, "v")
					w.isRegistered(r)
					if n := j.count("registration lost"); n > 1 {
						w.Errorf("%s", j)
					}
				})
			})
		}
	}
}

func TestRegisterAgainThatIsRefused_LeavesWhatIsRegistered(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, j := w.registered()
		w.refuses(rpctypes.ErrGRPCNoSpace, "Txn")
		r.Register()
		w.isRegistered(r)
		after(time.Minute)
		w.holds(1, "v")
		w.wasNeverDeleted("/s/1")
		w.logs(j, 1, "database space exceeded")
		after(20 * time.Second)
		w.heals()
		after(11 * time.Second)
		w.isRegistered(r)
		r.Deregister()
		w.holds(0)
	})
}

func TestRegisterAgainOfAnotherValueThatIsRefused_SaysWhy(t *testing.T) {
	virtually(t, func(w *world) {
		c, a, ja := w.registered()
		b, jb := registrar(c, service("w"))
		w.refuses(rpctypes.ErrGRPCNoSpace, "Txn")
		b.Register()
		w.says(b.Err(), "database space exceeded")
		w.hasValues("v")
		after(50 * time.Second)
		w.logs(jb, 1, "database space exceeded")
		w.says(a.Err(), "another Registrar")
		w.logs(ja, 1, "registration ended")
		w.hasValues("v") // until the other is there
		w.heals()
		after(11 * time.Second)
		w.holds(1, "w")
		w.isRegistered(b)
		w.wasNeverDeleted("/s/1")
	})
}

func TestRegisterWhileTheLostKeyIsAcquired_IsServedAtOnce(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, _ := w.registered()
		w.refuses(rpctypes.ErrGRPCPermissionDenied, "LeaseGrant")
		w.etcd.RevokeAll()
		after(time.Minute)
		if err := c.Register(service("w")); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			w.Error(err)
		}
		after(time.Minute)
		w.heals()
		w.register(c, service("w"))
		w.holds(1, "w")
		w.isRegistered(r)
		after(time.Minute)
		w.holds(1, "w")
	})
}

func TestRegisterWhileItsRegistrationWaitsForEtcd_IsBounded(t *testing.T) {
	for _, method := range []string{"Range", "Txn"} {
		virtually(t, func(w *world) {
			c, r, _ := w.registered()
			after(time.Second)
			w.etcd.Delete("/s/1")
			reached := w.hold(point{"Txn", false}, time.Minute)
			w.etcd.Member(0).Break()
			w.soon(reached, method)
			after(time.Second)
			w.within(requestTimeout, func() {
				if err := c.Register(service("v")); err != nil && !errors.Is(err, context.DeadlineExceeded) {
					w.Error(err)
				}
			})
			after(time.Minute)
			w.comesToHold(r, "v")
		})
	}
}

func TestRegisterTwice_TheSecondStays(t *testing.T) {
	for _, own := range []bool{true, false} {
		for _, p := range []point{{"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}} {
			virtually(t, func(w *world) {
				c, _ := w.client()
				if !own {
					c = struct{ etcdv3.Client }{c}
				}
				r, _ := registrar(c, service("v"))
				reached := w.hold(p, time.Second)
				var both sync.WaitGroup
				both.Go(r.Register)
				w.soon(reached, p)
				both.Go(r.Register)
				both.Wait()
				after(time.Minute)
				w.holds(1, "v")
				w.isRegistered(r)
				r.Deregister()
				w.holds(0)
			})
		}
	}
}

func TestRegisterAnotherValueWhileTheFirstIsUnderWay_TheLastStays(t *testing.T) {
	for _, p := range []point{{"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}, {"WatchCreate", false}} {
		for _, d := range []time.Duration{2 * time.Second, 5 * time.Second, 20 * time.Second} {
			t.Run(fmt.Sprint(p, d), func(t *testing.T) {
				virtually(t, func(w *world) {
					c, _ := w.client()
					a, ja := registrar(c, service("a"))
					s := service("b")
					s.TTL = etcdv3.NewTTLOption(2*time.Second, 7*time.Second)
					b, jb := registrar(c, s)
					reached := w.hold(p, d)
					first := start(a.Register)
					w.soon(reached, p)
					w.within(requestTimeout, b.Register)
					<-first
					after(time.Minute)
					w.holds(1, "b")
					w.isRegistered(b)
					w.says(a.Err(), "another Registrar")
					if got := w.etcd.Leases()[0].TTL; got != 7*time.Second {
						w.Errorf("a lease of %v", got)
					}
					w.logs(ja, 1, "registration ended")
					w.logs(jb, 1, "action=register")
					w.wasNeverDeleted("/s/1")
				})
			})
		}
	}
}

func TestRegisterAnotherValueWhileEtcdIsAway_TheLastStays(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, registeredBefore := range []bool{false, true} {
			virtually(t, func(w *world) {
				c, _ := w.client()
				if registeredBefore {
					w.register(c, service("before"))
				}
				w.all(way.away)
				var last *etcdv3.Registrar
				for i := range 5 {
					s := service(fmt.Sprint(i))
					s.TTL = etcdv3.NewTTLOption(time.Second, time.Duration(5+i)*time.Second)
					last, _ = registrar(c, s)
					w.within(requestTimeout, last.Register)
					if last.Err() == nil {
						w.Error("registered")
					}
					after(20 * time.Second)
				}
				w.all(way.back)
				w.until(again, "registered", func() bool { return last.Err() == nil })
				after(20 * time.Second)
				w.holds(1, "4")
				w.isRegistered(last)
			})
		}
	}
}

// A thousand calls in any order, with requests that come late, twice, and in any
// order: in the end what was asked for last is what there is.
func TestRegisterAgainAndAgainOnASlowEtcd_TheLastStays(t *testing.T) {
	for seed := range uint64(40) {
		virtually(t, func(w *world) {
			random := rand.New(rand.NewPCG(seed, 2))
			w.etcd.Set(etcdtest.Lateness(seed, 2900*time.Millisecond))
			c, _ := w.client()
			ttls := []*etcdv3.TTLOption{nil, etcdv3.NewTTLOption(time.Second, 5*time.Second), etcdv3.NewTTLOption(4*time.Second, 20*time.Second)}
			var last *etcdv3.Registrar
			var j *journal
			var all sync.WaitGroup
			for i := range 25 {
				s := service(fmt.Sprint(i))
				s.TTL = ttls[random.IntN(len(ttls))]
				last, j = registrar(c, s)
				all.Go(last.Register)
				after(time.Duration(random.Int64N(int64(4 * time.Second))))
			}
			all.Wait()
			w.until(time.Minute, "registered", func() bool { return last.Err() == nil })
			w.heals()
			after(30 * time.Second)
			w.holds(1, "24")
			w.isRegistered(last)
			w.wasNeverDeleted("/s/1")
			if w.Failed() {
				w.Fatalf("seed %d:\n%s", seed, j)
			}
		})
	}
}

func TestClientRegisterThatFails_LeavesNoKey(t *testing.T) {
	for _, p := range []point{{"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}} {
		t.Run(p.String(), func(t *testing.T) {
			virtually(t, func(w *world) {
				c, _ := w.client()
				w.hold(p, time.Hour)
				w.within(requestTimeout, func() {
					if err := c.Register(service("v")); !errors.Is(err, context.DeadlineExceeded) {
						w.Error(err)
					}
				})
				after(100 * time.Millisecond) // what was put without an answer is taken back at once
				w.hasValues()
				if c.LeaseID() != 0 {
					w.Error("there is a lease")
				}
				after(11 * time.Second)
				w.holds(0)
				after(2 * time.Hour) // what arrives late brings no key
				w.holds(0)
			})
		})
	}
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.refuses(rpctypes.ErrGRPCNoSpace, "Txn")
		if err := c.Register(service("v")); !errors.Is(err, rpctypes.ErrNoSpace) {
			w.Error(err)
		}
		w.holds(0)
	})
}

func TestManyCallers_OneOfThemDeregisters(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		r, _ := registrar(c, service("v"))
		var all sync.WaitGroup
		for range 50 {
			all.Go(r.Register)
		}
		all.Wait()
		w.isRegistered(r)
		w.holds(1, "v")
		copied := *r
		copied.Deregister()
		w.holds(0)
		w.says(r.Err(), "deregistered")
	})
}

// A put that arrives after its caller has left is taken back at the next heartbeat.
func TestPutThatArrivesAfterItsCallerLeft_IsTakenBack(t *testing.T) {
	for _, ttl := range []*etcdv3.TTLOption{nil, etcdv3.NewTTLOption(3*time.Second, 30*time.Second)} {
		virtually(t, func(w *world) {
			c, r, j := w.registered()
			w.hold(point{"Txn", false}, 5*time.Second)
			s := service("w")
			s.TTL = ttl
			if err := c.Register(s); !errors.Is(err, context.DeadlineExceeded) {
				w.Error(err)
			}
			after(6 * time.Second)
			w.hasValues("v")
			after(time.Minute)
			w.holds(1, "v")
			w.isRegistered(r)
			w.logs(j, 1, "registered again")
			w.wasNeverDeleted("/s/1")
		})
	}
}

// The lease outlives the request timeout by far, and could not be revoked in it.
func TestPutOfARegisterThatFailed_IsTakenBackWhenEtcdAnswers(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Delay = only(10*time.Second, "Txn")
			s.Refuse = only(errUnavailable, "LeaseRevoke")
		})
		if err := c.Register(timed(3*time.Second, time.Hour)); !errors.Is(err, context.DeadlineExceeded) {
			w.Error(err)
		}
		after(8 * time.Second)
		w.hasValues("v")
		w.heals()
		after(2 * time.Second)
		w.holds(0)
	})
}

// The first of them is refused, while the registration was at something else.
func TestManyWhoRegisterAtOnce_AreServedEach(t *testing.T) {
	virtually(t, func(w *world) {
		c, _, _ := w.registered()
		var puts atomic.Int32
		busy := make(chan struct{})
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(_ int, method string, _ any) error {
				if method != "Txn" {
					return nil
				}
				switch puts.Add(1) {
				case 2:
					close(busy)
					time.Sleep(time.Second)
					fallthrough
				case 1, 3:
					return rpctypes.ErrGRPCNoSpace
				}
				return nil
			}
		})
		w.etcd.Delete("/s/1")
		w.soon(busy, "second put")
		var all []*etcdv3.Registrar
		for i := range 4 {
			r, _ := registrar(c, service(fmt.Sprint(i)))
			all = append(all, r)
			go r.Register()
		}
		after(again)
		has := 0
		for _, r := range all {
			if r.Err() == nil {
				has++
			} else {
				w.says(r.Err(), "another Registrar")
			}
		}
		if has != 1 {
			w.Errorf("%d Registrars have the key", has)
		}
	})
}
