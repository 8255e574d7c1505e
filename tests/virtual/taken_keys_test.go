package virtual_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestKeyDeleted_IsPutBackAtTheNextBeatAndNotBefore(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, j := w.registered()
		for i := range 20 {
			after(3100 * time.Millisecond)
			beats := w.etcd.Count("Renew")
			w.etcd.Delete("/s/1")
			after(time.Millisecond)
			w.says(r.Err(), "the next heartbeat tells why")
			for w.etcd.Count("Renew") == beats {
				after(10 * time.Millisecond)
				if w.etcd.Count("Renew") == beats && len(w.etcd.Values("/s/")) > 0 {
					w.Fatal("put back before the next heartbeat")
				}
			}
			after(10 * time.Millisecond)
			w.holds(1, "v")
			w.isRegistered(r)
			w.logs(j, i+1, "registration lost", "deleted from outside")
			w.logs(j, i+1, "registered again")
		}
		if n := w.etcd.Count("LeaseGrant"); n != 1 {
			w.Errorf("%d grants", n)
		}
	})
}

// The role is gone while the watch is opened anew. Before 3.7 etcd renews the lease
// all the same.
func TestRoleThatComesBack_TheKeyIsPutBackAgain(t *testing.T) {
	for name, fault := range map[string]func(w *world){
		"broken":  func(w *world) { w.etcd.Member(0).Break() },
		"another": func(w *world) { w.etcd.Restore(w.etcd.Revision(), false) },
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(w *world) {
				w.withUsers()
				w.etcd.Set(func(s *etcdtest.Settings) { s.CheckRenewals = false })
				_, r, _ := w.registered(asUser("u", "p"))
				after(10 * time.Second)
				w.etcd.SetUser("u", "p")
				fault(w)
				after(20 * time.Second)
				w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
				after(14 * time.Second)
				w.etcd.Delete("/s/1")
				w.comesToHold(r, "v")
				w.etcd.Forget()
				after(time.Minute)
				if n := w.etcd.Count("WatchCreate"); n > 0 {
					w.Errorf("%d watches more", n)
				}
			})
		})
	}
}

func TestKeyTaken_IsToldAndLeftAloneUntilItIsFree(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, j := w.registered()
		writes := w.writes()
		w.etcd.Put("/s/1", "other")
		after(time.Minute)
		w.etcd.Put("/s/1", "other again")
		after(45 * time.Minute)
		w.hasValues("other again")
		w.says(r.Err(), "taken by another owner")
		w.logs(j, 1, "registration lost", "taken by another owner")
		w.logs(j, 5, "not registered", "taken by another owner", "for=") // after 1, 11, ... 41 minutes
		w.logs(j, 7, "")
		if n := w.writes() - writes; n > 0 {
			w.Errorf("%d writes while another owner has the key", n)
		}
		w.etcd.Delete("/s/1")
		after(4 * time.Second)
		w.holds(1, "v")
		w.isRegistered(r)
		w.logs(j, 1, "registered again")
		w.logs(j, 8, "")
		after(time.Hour)
		w.logs(j, 8, "")
	})
}

func TestKeyTaken_IsToldOnceWhateverHappensToTheLease(t *testing.T) {
	virtually(t, func(w *world) {
		_, _, j := w.registered()
		w.etcd.Put("/s/1", "other")
		for range 3 {
			after(5 * time.Second)
			w.etcd.RevokeAll()
		}
		after(10 * time.Second)
		w.logs(j, 1, "another owner")
		w.logs(j, 2, "")
		w.etcd.Delete("/s/1")
		after(5 * time.Second)
		w.etcd.Put("/s/1", "another")
		after(5 * time.Second)
		w.logs(j, 2, "another owner")
	})
}

func TestStoreStartsOver_AndTheKeyIsTaken_IsSeen(t *testing.T) {
	for _, keepID := range []bool{false, true} {
		virtually(t, func(w *world) {
			for i := range 50 {
				w.etcd.Put("/x", fmt.Sprint(i))
			}
			_, r, _ := w.registered()
			w.etcd.Wipe(keepID)
			w.etcd.Put("/s/1", "other")
			after(5 * time.Second)
			w.hasValues("other")
			w.says(r.Err(), "taken by another owner")
			w.etcd.Delete("/s/1")
			after(4 * time.Second)
			w.holds(1, "v")
			w.isRegistered(r)
		})
	}
}

// What a backup holds is an earlier value, under an earlier lease.
func TestKeyWithAnEarlierValue_IsPutAgain(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, j := w.registered()
		backup := w.etcd.Revision()
		s := service("w")
		s.TTL = etcdv3.NewTTLOption(3*time.Second, 20*time.Second)
		w.register(c, s)
		after(time.Second)
		w.etcd.Restore(backup, true)
		after(again)
		w.hasValues("w")
		w.isRegistered(r)
		after(20 * time.Second)
		w.holds(1, "w")
		w.logs(j, 1, "registered again")
	})
}

func TestKeyWithAnEarlierValue_IsPutAgainEvenIfItGoesMeanwhile(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, _ := w.registered()
		after(time.Second)
		w.putUnder(c.LeaseID(), "/s/1", "earlier")
		w.says(r.Err(), "the next heartbeat tells why")
		w.at("Txn", func() { w.etcd.Delete("/s/1") }) // between what was found and what replaces it
		txns := w.etcd.Count("Txn")
		after(4 * time.Second)
		w.holds(1, "v")
		w.isRegistered(r)
		if n := w.etcd.Count("Txn") - txns; n != 2 {
			w.Errorf("%d transactions", n)
		}
	})
}

// putUnder writes a key as somebody else would, under a lease.
func (w *world) putUnder(lease int64, key, value string) {
	w.Helper()
	cli := w.plain()
	if _, err := pb.NewKVClient(cli).Put(w.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}); err != nil {
		w.Fatal(err)
	}
	after(0)
}

func TestDeregisterDuringRegister_LeavesTheKeyThatAnotherOwnerPut(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.register(c, service("v"))
		if err := c.Deregister(service("v")); err != nil {
			w.Fatal(err)
		}
		w.etcd.Put("/s/1", "theirs")
		reached := w.hold(point{"LeaseGrant", false}, time.Second)
		registering := start(func() { w.says(c.Register(service("v")), "deregistered meanwhile") })
		w.soon(reached, "grant")
		if err := c.Deregister(service("v")); err != nil {
			w.Error(err)
		}
		<-registering
		w.hasValues("theirs")
		after(15 * time.Second)
		w.holds(0, "theirs")
	})
}

// One process is one owner of a key: programs make a client for each
// registration, and cannot close the older ones.
func TestTwoClientsOfOneProcess_TheLaterHasTheKey(t *testing.T) {
	virtually(t, func(w *world) {
		_, a, ja := w.registered()
		c, _ := w.client()
		b, jb := registrar(c, service("b"))
		b.Register()
		after(time.Second)
		w.holds(1, "b")
		w.says(a.Err(), "another client of this process")
		w.isRegistered(b)
		w.logs(ja, 1, "registration ended", "another client of this process")
		a.Deregister()
		after(time.Minute)
		w.logs(ja, 3, "")
		w.says(a.Err(), "deregistered")
		w.holds(1, "b") // which another owner took over
		w.isRegistered(b)
		other, _ := w.client()
		if err := other.Deregister(service("")); err != nil { // by key alone
			w.Error(err)
		}
		w.holds(0)
		w.says(b.Err(), "another client of this process")
		w.logs(jb, 1, "registration ended")
		after(time.Hour)
		w.holds(0)
	})
}

func TestTwoClientsOfOneProcess_RegisterAndDeregisterInAnyOrder(t *testing.T) {
	for i := range 30 {
		virtually(t, func(w *world) {
			w.etcd.Set(etcdtest.Lateness(uint64(i), 500*time.Millisecond))
			a, _ := w.client()
			b, _ := w.client()
			ra, ja := registrar(a, service("a"))
			rb, jb := registrar(b, service("b"))
			one, two := start(ra.Register), start(rb.Register)
			<-one
			<-two
			after(30 * time.Second)
			w.heals()
			after(30 * time.Second)
			values := w.etcd.Values("/s/")
			if len(values) != 1 || (values[0] == "a") != (ra.Err() == nil) || (values[0] == "b") != (rb.Err() == nil) {
				w.Fatalf("run %d: etcd holds %q, Err %v and %v\n%s%s", i, values, ra.Err(), rb.Err(), ja, jb)
			}
			w.holds(1, values...)
		})
	}
}

func TestTwoRegistrarsOfOneClient_TheFirstEndsTheSecond(t *testing.T) {
	virtually(t, func(w *world) {
		c, a, ja := w.registered()
		b, jb := registrar(c, service("b"))
		b.Register()
		w.holds(1, "b")
		w.says(a.Err(), "another Registrar")
		w.isRegistered(b)
		w.logs(ja, 1, "registration ended", "another Registrar")
		a.Deregister()
		w.holds(0)
		w.says(b.Err(), "deregistered")
		w.logs(jb, 1, "registration ended")
		after(time.Hour)
		w.holds(0)
		w.logs(ja, 3, "")
		w.logs(jb, 2, "")
		b.Register()
		w.holds(1, "b")
		w.isRegistered(b)
		w.logs(jb, 2, "action=register")
	})
}

func TestGuardedRegistrars_TheFirstLeavesTheSecond(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		a, _ := registrar(c, guarded("a"))
		b, _ := registrar(c, guarded("b"))
		a.Register()
		b.Register()
		a.Deregister()
		after(time.Minute)
		w.holds(1, "b")
		w.isRegistered(b)
	})
}

// An answer that is none: a proxy fails after etcd has put the key.
func TestRegisterAgainThatFailsAfterItsPut_LeavesNoGap(t *testing.T) {
	for _, value := range []string{"v", "w"} {
		virtually(t, func(w *world) {
			c, r, _ := w.registered()
			failed := false
			w.etcd.Set(func(s *etcdtest.Settings) {
				s.Late = func(_ int, method string, _ any) (time.Duration, error) {
					if method != "Txn" || failed {
						return 0, nil
					}
					failed = true
					return time.Nanosecond, status.Error(codes.Internal, "a proxy failed")
				}
			})
			s := service(value)
			s.TTL = etcdv3.NewTTLOption(3*time.Second, time.Hour)
			w.register(c, s)
			w.hasValues(value)
			w.comesToHold(r, value)
			w.wasNeverDeleted("/s/1")
			if !failed || !slices.Equal(w.etcd.Values("/s/"), []string{value}) {
				w.Error("nothing failed")
			}
		})
	}
}
