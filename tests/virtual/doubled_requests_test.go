package virtual_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A request that arrives twice does what one does. The second time is at any
// moment of what comes after.
func TestRequestsThatArriveTwice_ChangeNothing(t *testing.T) {
	for _, twice := range []time.Duration{time.Millisecond, time.Second, 4 * time.Second, 20 * time.Second, time.Minute} {
		for _, method := range []string{"LeaseGrant", "Txn", "LeaseRevoke"} {
			t.Run(fmt.Sprint(method, twice), func(t *testing.T) {
				virtually(t, func(w *world) {
					w.etcd.Set(func(s *etcdtest.Settings) { s.Twice = only(twice, method) })
					c, r, j := w.registered()
					after(500 * time.Millisecond)
					w.register(c, service("w"))
					after(500 * time.Millisecond)
					w.register(c, service("x"))
					after(time.Second)
					w.hasValues("x")
					after(2 * time.Minute)
					w.holds(1, "x")
					w.isRegistered(r)
					w.logs(j, 0, "registration lost")
					r.Deregister()
					w.hasValues()
					w.etcd.Put("/s/1", "theirs") // a later owner
					after(2 * time.Minute)
					w.holds(0, "theirs")
				})
			})
		}
	}
}

func TestDeleteByKeyThatArrivesTwice_LeavesALaterOwnersKey(t *testing.T) {
	for _, s := range []etcdv3.Service{service(""), guarded("a"), {Key: "/s", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}}} {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			w.etcd.Set(func(s *etcdtest.Settings) {
				s.Twice = func(_ int, method string, _ any) time.Duration {
					if method == "Txn" || method == "DeleteRange" {
						return time.Second
					}
					return 0
				}
			})
			c, _ := w.client()
			if err := c.Deregister(s); err != nil {
				w.Error(err)
			}
			w.hasValues()
			w.etcd.Put("/s/1", "a")
			after(time.Minute)
			w.hasValues("a")
		})
	}
}

// The delete takes effect, and its answer is lost with the connection.
func TestRepeatOfADelete_LeavesALaterOwnersKey(t *testing.T) {
	for _, s := range []etcdv3.Service{service(""), guarded("a"), {Key: "/s", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}}} {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			c, _ := w.client()
			w.etcd.Set(func(settings *etcdtest.Settings) {
				settings.DelayAnswer = func(int, string, any) time.Duration {
					if len(w.etcd.Values("/s/")) == 0 {
						return time.Hour
					}
					return 0
				}
			})
			done := start(func() {
				if err := c.Deregister(s); err != nil {
					w.Error(err)
				}
			})
			after(500 * time.Millisecond)
			w.hasValues()
			w.etcd.Put("/s/1", "later")
			w.etcd.Member(0).Break()
			<-done
			after(10 * time.Second)
			w.hasValues("later")
		})
	}
}

// All of it at random: what was asked for last is what there is, and what another
// owner wrote stays.
func TestRequestsLateTwiceAndInAnyOrder_TheEndIsRight(t *testing.T) {
	for seed := range uint64(60) {
		virtuallyOn(t, etcdtest.Config{Members: 1 + 2*int(seed%2)}, func(w *world) {
			random := rand.New(rand.NewPCG(seed, 3))
			w.etcd.Set(etcdtest.Lateness(seed, 3*time.Second))
			c, _ := w.client()
			var r *etcdv3.Registrar
			var j *journal
			for i := range 8 {
				r, j = registrar(c, service(fmt.Sprint(i)))
				r.Register()
				switch random.IntN(5) {
				case 0:
					w.etcd.RevokeAll()
				case 1:
					w.etcd.Delete("/s/1")
				case 2:
					w.etcd.Member(0).Break()
				case 3:
					r.Deregister()
				}
				after(time.Duration(random.Int64N(int64(8 * time.Second))))
			}
			r.Register()
			after(time.Minute)
			w.heals()
			after(30 * time.Second)
			w.holds(1, "7")
			w.isRegistered(r)
			w.etcd.Set(etcdtest.Lateness(seed, 3*time.Second))
			r.Deregister()
			after(20 * time.Second)
			w.etcd.Put("/s/1", "theirs")
			after(time.Minute)
			w.heals()
			w.holds(0, "theirs")
			if t.Failed() {
				w.Fatalf("seed %d:\n%s", seed, j)
			}
		})
	}
}

// The first put takes effect, and its answer is lost with the connection.
func TestRepeatOfTheFirstPut_LeavesALaterOwnersKey(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		r, _ := registrar(c, service("a"))
		reached := w.hold(point{"Txn", true}, time.Hour)
		done := start(r.Register)
		w.soon(reached, "transaction")
		after(500 * time.Millisecond)
		w.hasValues("a")
		w.etcd.Put("/s/1", "other")
		w.etcd.Member(0).Break()
		<-done
		after(10 * time.Second)
		w.hasValues("other")
	})
}

// So with a put that takes the key of another owner over, and with one of another
// value.
func TestRepeatOfALaterPut_LeavesALaterOwnersKey(t *testing.T) {
	for _, ours := range []bool{false, true} {
		virtually(t, func(w *world) {
			c, _ := w.client()
			if ours {
				w.register(c, service("a"))
			} else {
				w.etcd.Put("/s/1", "earlier")
			}
			w.etcd.Set(func(settings *etcdtest.Settings) {
				settings.DelayAnswer = func(int, string, any) time.Duration {
					if slices.Equal(w.etcd.Values("/s/"), []string{"b"}) {
						return time.Hour
					}
					return 0
				}
			})
			done := start(func() { _ = c.Register(service("b")) })
			after(500 * time.Millisecond)
			w.hasValues("b")
			w.etcd.Put("/s/1", "other")
			w.etcd.Member(0).Break()
			<-done
			after(10 * time.Second)
			w.hasValues("other")
			w.register(c, service("c")) // who is called anew takes the key over
			w.hasValues("c")
		})
	}
}

// etcd says that the put has timed out, and carries it out.
func TestPutThatTimedOut_LeavesALaterOwnersKey(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		var puts atomic.Int32
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Late = func(_ int, method string, _ any) (time.Duration, error) {
				if method == "Txn" && puts.Add(1) == 1 {
					return time.Millisecond, rpctypes.ErrGRPCTimeout
				}
				return 0, nil
			}
		})
		r, _ := registrar(c, service("a"))
		done := start(r.Register)
		after(100 * time.Millisecond)
		w.hasValues("a")
		w.etcd.Put("/s/1", "other")
		<-done
		after(10 * time.Second)
		w.hasValues("other")
		w.says(r.Err(), "another owner")
	})
}

// A user who may not read cannot compare. Another value then gets another lease.
func TestPutOfWhoMayNotRead_ThatArrivesLate_PutsNoEarlierValueBack(t *testing.T) {
	virtually(t, func(w *world) {
		w.withUsers()
		w.etcd.SetUser("u", "p", etcdtest.Permission{Key: "/s/", End: "/s0", Write: true})
		c, _ := w.client(asUser("u", "p"))
		reached := w.hold(point{"Put", false}, 10*time.Second)
		done := start(func() { w.register(c, service("a")) })
		w.soon(reached, "put")
		after(time.Second)
		w.etcd.Member(0).Break()
		<-done
		w.hasValues("a")
		w.register(c, service("b"))
		w.hasValues("b")
		after(time.Minute)
		w.holds(1, "b")
	})
}

// The key was first put under a lease that could not be revoked when another one
// took its place. It is revoked at the end, so that the put that comes again finds
// none.
func TestFirstPutThatArrivesAgainAfterDeregister_FindsNoLease(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.etcd.Set(func(s *etcdtest.Settings) { s.Twice = only(5*time.Second, "Txn") })
		w.register(c, service("a"))
		w.heals()
		w.refuses(rpctypes.ErrGRPCRequestTooManyRequests, "LeaseRevoke")
		w.register(c, timed(3*time.Second, 30*time.Second))
		w.heals()
		if err := c.Deregister(service("")); err != nil {
			w.Error(err)
		}
		w.holds(0)
		after(20 * time.Second)
		w.holds(0)
	})
}
