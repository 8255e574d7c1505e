package etcdv3

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// every returns the waits between moments.
func every(all []time.Time) (waits []time.Duration) {
	for i := 1; i < len(all); i++ {
		waits = append(waits, all[i].Sub(all[i-1]))
	}
	return waits
}

// after waits until all that is to happen within a time has happened.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// heldBy fails unless etcd holds exactly the values under "/s/", and as many
// leases.
func (e *virtualEtcd) heldBy(t *testing.T, leases int, values ...string) {
	t.Helper()
	if got := e.values("/s/"); !slices.Equal(got, values) {
		t.Errorf("etcd holds %q, want %q", got, values)
	}
	if n := e.living(); n != leases {
		t.Errorf("etcd holds %d leases, want %d", n, leases)
	}
}

// registered returns a client that has registered "/s/1" with a heartbeat of
// 3 s and a TTL of 10 s, through a Registrar that writes to the journal.
func (e *virtualEtcd) registered(t *testing.T) (*client, *Registrar, *journal) {
	t.Helper()
	c, _ := e.client(t)
	j := &journal{}
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, j.logger())
	r.Register()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return c, r, j
}

func TestVirtual_AnHourOfHeartbeatsAtTheirOwnIntervals(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		for _, heartbeat := range []time.Duration{500 * time.Millisecond, 3 * time.Second, 70 * time.Second} {
			c, cancel := etcd.client(t)
			before := etcd.count("beat")
			if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(heartbeat, 0)}); err != nil {
				t.Fatal(err)
			}
			lease := c.LeaseID()
			after(time.Hour)
			if c.LeaseID() != lease {
				t.Error("the lease was lost")
			}
			for _, wait := range every(etcd.times("beat")[before:]) {
				if off := wait - heartbeat; off.Abs() > heartbeat/10 {
					t.Fatalf("heartbeat %v: %v between two beats", heartbeat, wait)
				}
			}
			if n := etcd.count("beat") - before; n < int(time.Hour/heartbeat)-1 {
				t.Errorf("heartbeat %v: %d beats in an hour", heartbeat, n)
			}
			cancel()
			after(time.Second)
			etcd.heldBy(t, 0)
		}
	})
}

func TestVirtual_LeaseLost_AcquiredAgainWithinAHeartbeatAndASecond(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, j := etcd.registered(t)
		for i := range 200 {
			time.Sleep(time.Duration(i) * 37 * time.Millisecond) // at any moment between two beats
			etcd.revokeAll()
			began := time.Now()
			for len(etcd.values("/s/")) == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(began); took > 4*time.Second {
				t.Fatalf("took %v", took)
			}
			after(10 * time.Millisecond)
			etcd.heldBy(t, 1, "v")
			if r.Err() != nil {
				t.Fatal(r.Err())
			}
			if lost, again := j.count("registration lost"), j.count("registered again"); lost != i+1 || again != i+1 {
				t.Fatalf("after %d losses: %d lines say lost, %d registered again", i+1, lost, again)
			}
		}
	})
}

func TestVirtual_BackoffGrowsIsJitteredAndCapped(t *testing.T) {
	var all [][]time.Duration
	for range 2 {
		virtually(t, func(t *testing.T, etcd *virtualEtcd) {
			_, r, j := etcd.registered(t)
			etcd.breaks(refuses)
			etcd.revokeAll()
			after(time.Minute)
			tried := len(etcd.times("grant"))
			etcd.breaks(only("grant", denies)) // heartbeats are answered: the lease is lost
			after(20 * time.Minute)
			grants := etcd.times("grant")[tried:]
			waits := every(grants)
			all = append(all, waits)
			for i, wait := range waits {
				if wait > backoffMax {
					t.Fatalf("%v before attempt %d", wait, i)
				}
			}
			if early := waits[0]; early > 400*time.Millisecond {
				t.Errorf("%v before the second attempt", early)
			}
			if slices.Max(waits[:2]) >= slices.Max(waits[5:]) {
				t.Error("the back-off does not grow")
			}
			etcd.breaks(nil)
			began := time.Now()
			for r.Err() != nil {
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(began); took > backoffMax+100*time.Millisecond {
				t.Errorf("after an outage of 20 minutes: registered again %v after etcd answers", took)
			}
			etcd.heldBy(t, 1, "v")
			if n := j.count("err="); n > 2 {
				t.Errorf("%d lines in an outage:\n%s", n, j)
			}
		})
	}
	if slices.Equal(all[0], all[1]) {
		t.Error("two outages had the same waits: there is no jitter")
	}
}

func TestVirtual_GrantSucceedsButPutFails_NothingIsLeft(t *testing.T) {
	failed := errors.New("no space")
	for name, f := range map[string]virtualFault{
		"refused": func(context.Context, string) error { return failed },
		"hangs":   hangs,
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T, etcd *virtualEtcd) {
				c, _ := etcd.client(t)
				etcd.breaks(only("put", f))
				began := time.Now()
				if err := c.Register(Service{Key: "/s/1", Value: "v"}); err == nil {
					t.Error("registered")
				}
				if took := time.Since(began); took > defaultTimeout {
					t.Errorf("took %v", took)
				}
				after(time.Second)
				etcd.heldBy(t, 0)
				if c.LeaseID() != 0 {
					t.Error("there is a lease")
				}
				etcd.breaks(nil)
				after(time.Minute)
				etcd.heldBy(t, 0)
			})
		})
	}
}

func TestVirtual_GrantSucceedsButClaimFails_TheSameLeaseIsUsedAgain(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, _ := etcd.registered(t)
		etcd.breaks(only("txn", refuses))
		etcd.revokeAll()
		after(time.Minute)
		if grants := etcd.count("grant"); grants != 2 {
			t.Errorf("%d grants for two leases", grants)
		}
		etcd.heldBy(t, 1)
		etcd.breaks(nil)
		after(backoffMax + time.Second)
		etcd.heldBy(t, 1, "v")
		if r.Err() != nil || etcd.count("grant") != 2 {
			t.Errorf("%v, %d grants", r.Err(), etcd.count("grant"))
		}
	})
}

func TestVirtual_LeaseLostWhileTheKeyIsClaimed_AnotherIsTaken(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, _ := etcd.registered(t)
		once := true
		etcd.breaks(func(_ context.Context, call string) error {
			if call == "txn" && once {
				once = false
				etcd.revokeAll()
			}
			return nil
		})
		etcd.revokeAll()
		after(10 * time.Second)
		etcd.heldBy(t, 1, "v")
		if r.Err() != nil || etcd.count("grant") != 3 {
			t.Errorf("%v, %d grants", r.Err(), etcd.count("grant"))
		}
	})
}

func TestVirtual_PutThatFailsForAMoment_IsTriedAgain(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, _ := etcd.client(t)
		left := 3
		etcd.breaks(only("put", func(ctx context.Context, call string) error {
			if left--; left > 0 {
				return refuses(ctx, call)
			}
			return nil
		}))
		if err := c.Register(Service{Key: "/s/1", Value: "v"}); err != nil {
			t.Error(err)
		}
		etcd.heldBy(t, 1, "v")
		left = 1e6
		began := time.Now()
		if err := c.Register(Service{Key: "/s/1", Value: "w"}); err == nil {
			t.Error("registered")
		}
		if took := time.Since(began); took > defaultTimeout {
			t.Errorf("took %v", took)
		}
		etcd.heldBy(t, 1, "v") // what was registered stays
	})
}

func TestVirtual_KeyDeleted_PutBackAtTheNextBeatAndNotBefore(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, j := etcd.registered(t)
		for range 20 {
			after(3100 * time.Millisecond)
			beats := etcd.count("beat")
			etcd.remove("/s/1")
			for etcd.count("beat") == beats {
				after(10 * time.Millisecond)
				if etcd.count("beat") == beats && len(etcd.values("/s/")) > 0 {
					t.Fatal("put back before the next heartbeat")
				}
			}
			after(10 * time.Millisecond)
			etcd.heldBy(t, 1, "v")
			if r.Err() != nil {
				t.Fatal(r.Err())
			}
		}
		if n := j.count("registration lost"); n != 20 || etcd.count("grant") != 1 {
			t.Errorf("%d lines say lost, %d grants", n, etcd.count("grant"))
		}
	})
}

func TestVirtual_KeyTaken_OneLineAndTakenBackWhenFree(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		_, r, j := etcd.registered(t)
		puts := etcd.count("put") + etcd.count("txn")
		etcd.set("/s/1", "other")
		after(time.Minute)
		etcd.set("/s/1", "other again")
		after(time.Hour)
		etcd.heldBy(t, 1, "other again")
		if n := j.count("taken by another"); n != 1 || !errors.Is(r.Err(), errKeyTaken) {
			t.Errorf("%d lines say so in an hour, Err: %v", n, r.Err())
		}
		if n := etcd.count("put") + etcd.count("txn") - puts; n > 0 {
			t.Errorf("%d writes while another owner has the key", n)
		}
		etcd.remove("/s/1")
		after(4 * time.Second)
		etcd.heldBy(t, 1, "v")
		if n := j.count("registered again"); n != 1 || r.Err() != nil {
			t.Errorf("%d lines say registered again, Err: %v", n, r.Err())
		}
	})
}
