package virtual_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// timed is service("v") with a heartbeat and a TTL.
func timed(heartbeat, ttl time.Duration) etcdv3.Service {
	s := service("v")
	s.TTL = etcdv3.NewTTLOption(heartbeat, ttl)
	return s
}

func TestHeartbeats_KeepTheirIntervalForAnHour(t *testing.T) {
	for _, heartbeat := range []time.Duration{500 * time.Millisecond, 3 * time.Second, 70 * time.Second} {
		virtually(t, func(w *world) {
			c, cancel := w.client()
			w.register(c, timed(heartbeat, 0))
			lease := c.LeaseID()
			if ttl := w.etcd.Leases()[0].TTL; ttl != max(3*heartbeat, 2*time.Second) {
				w.Errorf("heartbeat %v: a TTL of %v", heartbeat, ttl)
			}
			after(time.Hour)
			if c.LeaseID() != lease {
				w.Error("the lease was lost")
			}
			beats := w.etcd.Times("Renew")
			for _, wait := range waits(beats) {
				if off := wait - heartbeat; off.Abs() > heartbeat/10 {
					w.Fatalf("heartbeat %v: %v between two beats", heartbeat, wait)
				}
			}
			if n := len(beats); n < int(time.Hour/heartbeat)-1 {
				w.Errorf("heartbeat %v: %d beats in an hour", heartbeat, n)
			}
			if n := w.etcd.Count("LeaseKeepAlive"); n != 1 {
				w.Errorf("heartbeat %v: %d streams", heartbeat, n)
			}
			cancel()
			after(time.Second)
			w.holds(0)
		})
	}
}

func TestThousandLeases_ShareAStreamAndPackets(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		for i := range 1000 {
			w.register(c, etcdv3.Service{Key: key(i), Value: "v"})
			time.Sleep(3 * time.Millisecond)
		}
		after(time.Minute)
		w.etcd.Forget()
		after(time.Minute)
		sent := w.etcd.Times("Renew")
		moments := len(slices.CompactFunc(slices.Clone(sent), time.Time.Equal))
		if n := w.etcd.Count("LeaseKeepAlive"); n != 0 {
			w.Errorf("%d further streams", n)
		}
		if len(sent) < 19_000 || len(sent) > 21_000 || moments > 42 {
			w.Errorf("%d beats, at %d moments", len(sent), moments)
		}
		if n := w.etcd.MostStreams(); n > 4 {
			w.Errorf("%d streams at one time", n)
		}
	})
}

func TestAnswersSlowerThanTheHeartbeat_KeepTheLeaseAndTheStream(t *testing.T) {
	for _, slow := range []time.Duration{900 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond} {
		virtually(t, func(w *world) {
			w.delaysAnswers(slow, "Renew")
			c, _ := w.client()
			r, j := registrar(c, timed(time.Second, 10*time.Second))
			r.Register()
			for range 3600 {
				after(time.Second)
				w.isRegistered(r)
			}
			if n := w.etcd.Count("LeaseKeepAlive"); n > 4 {
				w.Errorf("answers take %v: %d streams in an hour", slow, n)
			}
			w.logs(j, 1, "")
			w.holds(1, "v")
		})
	}
}

func TestAnswersThatGetSlower_AreWaitedFor(t *testing.T) {
	virtually(t, func(w *world) {
		w.delaysAnswers(800*time.Millisecond, "Renew")
		c, _ := w.client()
		w.register(c, timed(3*time.Second, 4*time.Second)) // which alone is patience for 1.4 s
		lease := c.LeaseID()
		after(30 * time.Second)
		w.delaysAnswers(1300*time.Millisecond, "Renew")
		after(time.Minute)
		w.delaysAnswers(2500*time.Millisecond, "Renew")
		after(time.Minute)
		if n := w.etcd.Count("LeaseKeepAlive"); n != 1 {
			w.Errorf("%d streams", n)
		}
		if c.LeaseID() != lease {
			w.Error("the lease was lost")
		}
		w.holds(1, "v")
	})
}

func TestMemberThatFallsSilent_IsLeftInTimeForTheLease(t *testing.T) {
	for name, fault := range map[string]func(*etcdtest.Member){
		"silent": (*etcdtest.Member).Silence, "frozen": (*etcdtest.Member).Freeze,
		"without a leader": (*etcdtest.Member).LoseLeader, "down": (*etcdtest.Member).Down,
	} {
		t.Run(name, func(t *testing.T) {
			for which := range 3 {
				for at := time.Duration(0); at < 3*time.Second; at += 250 * time.Millisecond {
					virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
						c, r, j := w.registered()
						lease := c.LeaseID()
						after(time.Minute + at)
						fault(w.etcd.Member(which))
						for range 60 {
							after(time.Second)
							w.isRegistered(r)
						}
						if c.LeaseID() != lease {
							w.Errorf("member %d at %v: the lease was lost", which, at)
						}
						w.logs(j, 1, "")
						w.holds(1, "v")
					})
				}
			}
		})
	}
}

// Nothing tells here whether etcd is slow or its one member dead: three beats
// leave before the lease ends.
func TestHeartbeatsWithoutAnAnswer_AreTriedThreeTimesInTheLifeOfTheLease(t *testing.T) {
	for at := time.Duration(0); at < 3*time.Second; at += 250 * time.Millisecond {
		virtually(t, func(w *world) {
			_, r, j := w.registered()
			after(time.Minute + at)
			beats := w.etcd.Times("Renew")
			answered := beats[len(beats)-1]
			w.delays(time.Hour, "Renew")
			after(time.Until(answered.Add(8 * time.Second)))
			if tries := since(w.etcd.Times("Renew"), answered); len(tries) < 2 {
				w.Errorf("%d tries within 8 s of the last answer", len(tries))
			}
			w.isRegistered(r)
			after(time.Until(answered.Add(10 * time.Second)))
			if tries := since(w.etcd.Times("Renew"), answered); len(tries) < 3 {
				w.Errorf("%d tries in the life of the lease", len(tries))
			}
			after(time.Second)
			w.says(r.Err(), "no heartbeat was answered")
			w.logs(j, 1, "registration lost", "no heartbeat was answered")
			w.heals()
			after(10 * time.Second) // the last stream still owes its answer
			w.comesToHold(r, "v")
		})
	}
}

func TestPatience_DoublesAndIsForgotten(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, _ := w.registered()
		after(time.Minute)
		w.delays(time.Hour, "Renew")
		w.etcd.Forget()
		after(5 * time.Minute)
		between := waits(w.etcd.Times("LeaseKeepAlive"))
		if between[0] < time.Second || between[1] < 2*time.Second || slices.Max(between) > 32*time.Second || slices.Max(between) < 30*time.Second {
			w.Errorf("%v between streams", between)
		}
		w.heals()
		after(30 * time.Second) // the last stream still owes its answer
		w.comesToHold(r, "v")
		w.delays(time.Hour, "Renew")
		w.etcd.Forget()
		after(20 * time.Second)
		if between := waits(w.etcd.Times("LeaseKeepAlive")); between[0] < time.Second || between[0] >= 2*time.Second {
			w.Errorf("%v between streams, after one that was well", between)
		}
	})
}

func TestStreamThatCannotBeOpened_IsTriedWithBackoff(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		r, j := registrar(c, timed(time.Second, 4*time.Second))
		r.Register()
		w.refuses(errUnavailable, "LeaseKeepAlive")
		w.etcd.Member(0).Break()
		w.etcd.Forget()
		after(time.Hour)
		if n := w.etcd.Count("LeaseKeepAlive"); n < 1800 || n > 7500 {
			w.Errorf("%d attempts in an hour", n)
		}
		w.says(r.Err(), "refused by the test")
		w.logs(j, 1, "registration lost")
		w.holds(0)
		w.heals()
		w.until(again, "registered", func() bool { return r.Err() == nil })
		w.comesToHold(r, "v")
		w.logs(j, 1, "registered again")
	})
}

func TestLeasesOfDifferentHeartbeats_LiveEachItsOwn(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		fast, slow := timed(time.Second, 4*time.Second), timed(time.Minute, time.Hour)
		slow.Key = "/s/2"
		w.register(c, fast)
		w.register(c, slow)
		after(30 * time.Second)
		slow.TTL = etcdv3.NewTTLOption(time.Second, time.Hour) // from now on
		w.register(c, slow)
		if err := c.Deregister(fast); err != nil {
			w.Error(err)
		}
		w.etcd.Forget()
		after(30 * time.Second)
		if beats := w.etcd.Count("Renew"); beats < 29 || beats > 32 {
			w.Errorf("%d beats in 30 s", beats)
		}
		if err := c.Deregister(slow); err != nil {
			w.Error(err)
		}
		w.etcd.Forget()
		after(time.Hour)
		if n := w.etcd.Count("Renew"); n != 0 {
			w.Errorf("%d beats without leases", n)
		}
	})
}

func TestSilenceThatIsOver_IsToldOnceAndTakenBack(t *testing.T) {
	for _, way := range waysToBeAway {
		virtually(t, func(w *world) {
			_, r, j := w.registered()
			after(time.Minute)
			w.all(way.away)
			after(9500 * time.Millisecond)
			if way.name != "down" {
				w.isRegistered(r)
			}
			after(4 * time.Second)
			w.says(r.Err(), "no heartbeat was answered")
			after(40 * time.Second)
			w.logs(j, 1, "registration lost")
			if n := j.count("not registered"); n > 1 { // that the connection broke, too, is news
				w.Errorf("%s", j)
			}
			w.all(way.back)
			w.until(again, "registered", func() bool { return r.Err() == nil })
			w.comesToHold(r, "v")
			w.logs(j, 1, "registered again")
		})
	}
}

// A lease that no heartbeat reaches runs out. A Register finds that out first.
func TestRegisterThatIsAnswered_TakesBackThatTheLeaseIsSilent(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, j := w.registered()
		w.delays(time.Hour, "Renew", "LeaseKeepAlive")
		w.etcd.Member(0).Break()
		after(9 * time.Second)
		w.register(c, service("w"))
		w.isRegistered(r)
		after(12 * time.Second)
		w.says(r.Err(), "no heartbeat was answered")
		w.holds(0)
		r.Register()
		w.isRegistered(r)
		w.holds(1, "v")
		w.logs(j, 1, "registered again")
	})
}

func TestOneStreamForAll_OnManyMembersAndPrefixes(t *testing.T) {
	virtuallyOn(t, etcdtest.Config{Members: 3, MaxStreams: 20}, func(w *world) {
		c, _ := w.client()
		for i := range 200 {
			w.register(c, etcdv3.Service{Key: key(i), Value: "v"})
		}
		for i := range 30 {
			s, err := etcdv3.NewInstancer(c, fmt.Sprintf("/s/%03d", i), nil)
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(s.Stop)
		}
		after(time.Minute)
		w.etcd.Forget()
		after(time.Hour)
		if n := w.etcd.MostStreams(); n > 4 {
			w.Errorf("%d streams at one time", n)
		}
	})
}
