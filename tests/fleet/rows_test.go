package fleet

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// register starts so many services on so many clients, and waits until all are
// registered.
func (w *world) register(services, clients int, ttl *etcdv3.TTLOption) (all []*etcdv3.Registrar) {
	w.Helper()
	on := make([]etcdv3.Client, clients)
	for i := range on {
		on[i] = w.client(w.ctx)
	}
	for i := range services {
		service := etcdv3.Service{Key: fmt.Sprintf("/s/%05d", i), Value: "v", TTL: ttl}
		all = append(all, etcdv3.NewRegistrar(on[i%clients], service, nil))
	}
	for _, r := range all {
		go r.Register()
	}
	w.waitFor(5*time.Minute, func() bool { return w.missing(all) == 0 })
	return all
}

// missing is how many of some services are not registered, as they know.
func (w *world) missing(all []*etcdv3.Registrar) (n int) {
	for _, r := range all {
		if r.Err() != nil {
			n++
		}
	}
	return n
}

// calm fails if a key goes away within a time, or another lease is taken.
func (w *world) calm(keys int, d time.Duration) {
	w.Helper()
	grants, least := w.etcd.Count("LeaseGrant"), keys
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		least = min(least, w.etcd.CountKeys("/s/"))
	}
	if grants = w.etcd.Count("LeaseGrant") - grants; least < keys || grants > 0 {
		w.Errorf("%d of %d keys were there at a time, and %d leases were taken", least, keys, grants)
	}
}

func passwords(members int) etcdtest.Config {
	return etcdtest.Config{Members: members, Settings: etcdtest.Settings{PasswordTime: passwordTime}}
}

func TestUsers_LinkThatBreaksCostsNoAuthentication(t *testing.T) {
	for _, members := range []int{1, 3} {
		virtually(t, passwords(members), func(w *world) {
			w.protect()
			w.register(150, 150, nil)
			if n := w.etcd.Count("Authenticate"); n != 150 {
				w.Errorf("%d authentications at the start", n)
			}
			w.etcd.Forget()
			w.etcd.Member(0).Break()
			w.calm(150, time.Minute)
			if n := w.etcd.Count("Authenticate"); n != 0 {
				w.Errorf("%d authentications after a link broke", n)
			}
		})
	}
}

func TestUsers_RestartOfEtcdCostsOneAuthenticationEach(t *testing.T) {
	virtually(t, passwords(1), func(w *world) {
		w.protect()
		all := w.register(150, 150, nil)
		time.Sleep(10 * time.Second)
		w.etcd.Forget()
		w.etcd.Stop()
		time.Sleep(time.Second)
		w.etcd.Start()
		time.Sleep(2*150*passwordTime + 5*time.Second)
		if n := w.etcd.Count("Authenticate"); n > 150 || w.missing(all) > 0 || w.etcd.CountKeys("/s/") != 150 {
			w.Errorf("%d authentications, %d services are missing, %d keys", n, w.missing(all), w.etcd.CountKeys("/s/"))
		}
	})
}

func TestSilentLinkThatHeals_BringsNoKeyBack(t *testing.T) {
	for _, early := range []bool{false, true} {
		virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
			if early {
				w.etcd.Member(0).Silence()
			}
			all := w.register(288, 12, nil)
			w.etcd.Member(0).Silence()
			var left sync.WaitGroup
			for _, r := range all {
				left.Go(r.Deregister)
			}
			left.Wait()
			if keys := w.etcd.CountKeys("/s/"); keys > 0 {
				w.Errorf("%d keys are there after Deregister", keys)
			}
			w.etcd.Member(0).Speak()
			for range 600 {
				time.Sleep(100 * time.Millisecond)
				if keys := w.etcd.CountKeys("/s/"); keys > 0 {
					w.Fatalf("%d keys came back", keys)
				}
			}
			if leases := w.etcd.Leases(); len(leases) > 0 {
				w.Errorf("%d leases are left", len(leases))
			}
		})
	}
}

func TestDeregister_OutlastsARefusalForLoad(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(w *world) {
		client := w.client(w.ctx)
		service := etcdv3.Service{Key: "/s/1", Value: "v"}
		if err := client.Register(service); err != nil {
			w.Fatal(err)
		}
		var refusals atomic.Int32
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(_ int, method string, _ any) error {
				if method == "LeaseRevoke" && refusals.Add(1) == 1 {
					return rpctypes.ErrTooManyRequests
				}
				return nil
			}
		})
		began := time.Now()
		err := client.Deregister(service)
		if took := time.Since(began); err != nil || w.etcd.CountKeys("/") > 0 || took > time.Second {
			w.Errorf("Deregister: %v after %v, %d keys", err, took, w.etcd.CountKeys("/"))
		}
	})
}

func TestTwentyStreams_AreEnoughForTwentyFiveInstancers(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3, MaxStreams: 20}, func(w *world) {
		client := w.client(w.ctx)
		for i := range 25 {
			prefix := fmt.Sprintf("/%d/", i)
			w.etcd.Put(prefix, "v")
			s, err := etcdv3.NewInstancer(client, prefix, nil)
			if err != nil {
				w.Fatal(err)
			}
			defer s.Stop()
			if state := s.State(); state.Err != nil || len(state.Instances) != 1 {
				w.Errorf("instancer %d: %v", i, state)
			}
		}
		service := etcdv3.Service{Key: "/s/1", Value: "v"}
		if err := client.Register(service); err != nil {
			w.Error(err)
		}
		if values, err := client.GetEntries("/s/"); err != nil || len(values) != 1 {
			w.Error(values, err)
		}
		if err := client.Deregister(service); err != nil {
			w.Error(err)
		}
		time.Sleep(time.Minute)
		if n := w.etcd.Connections(); w.etcd.MostStreams() > 4 {
			w.Errorf("%d streams on a connection, %d connections", w.etcd.MostStreams(), n)
		}
	})
}

func TestQuietInstancer_StaysQuietOverALongRoundTrip(t *testing.T) {
	for _, members := range []int{1, 3} {
		virtually(t, etcdtest.Config{Members: members}, func(w *world) {
			w.etcd.SetLinks(etcdtest.Link{RTT: 1300 * time.Millisecond})
			w.etcd.Put("/s/1", "v")
			s, err := etcdv3.NewInstancer(w.client(w.ctx), "/s/", nil)
			if err != nil {
				w.Fatal(err)
			}
			defer s.Stop()
			time.Sleep(time.Minute)
			w.etcd.Forget()
			time.Sleep(5 * time.Minute)
			reads, streams, lists := w.etcd.Count("Range"), w.etcd.Count("Watch"), w.etcd.RangeBytes()
			w.Logf("%d reads, %d bytes of them, %d streams in five minutes with %d endpoints", reads, lists, streams, members)
			if streams > 0 || reads > 5*60/8*(members-1) && reads > 0 {
				w.Errorf("%d reads and %d streams in five quiet minutes with %d endpoints", reads, streams, members)
			}
		})
	}
}

func TestStalledMember_IsLeftByInstancersAndKeys(t *testing.T) {
	for _, timeout := range []time.Duration{0, 7 * time.Second} { // of etcd's own
		stalledMemberIsLeft(t, etcdtest.Settings{RequestTimeout: timeout})
	}
}

func stalledMemberIsLeft(t *testing.T, settings etcdtest.Settings) {
	t.Helper()
	virtually(t, etcdtest.Config{Members: 3, Settings: settings}, func(w *world) {
		all := w.register(9, 9, nil)
		know := &known{first: map[int]string{}}
		readers{instancers: 6, clients: 6, instances: 1}.watch(w, know, "/i/")
		w.etcd.Put("/i/1", mark(1))
		w.waitFor(time.Minute, func() bool { return know.by(6, 1) })
		time.Sleep(10 * time.Second)
		w.etcd.Member(0).Stall()
		w.etcd.DeleteAll("/s/")
		w.etcd.Put("/i/1", mark(2))
		took := w.waitFor(40*time.Second, func() bool { return know.by(6, 2) })
		back := took + w.waitFor(40*time.Second, func() bool { return w.etcd.CountKeys("/s/") == 9 && w.missing(all) == 0 })
		w.Logf("known after %v, put back after %v", took, back)
		if took > 15*time.Second || back > 15*time.Second+4*time.Second {
			w.Errorf("known after %v, put back after %v", took, back)
		}
		time.Sleep(40 * time.Second)
		w.etcd.Member(0).Unstall()
		w.calm(9, time.Minute)
	})
}

func TestManyLeases_OverALongWayToTheLeaderAreNotLost(t *testing.T) {
	settings := etcdtest.Settings{RenewTime: 22 * time.Millisecond}
	virtually(t, etcdtest.Config{Members: 3, Settings: settings}, func(w *world) {
		all := w.register(180, 1, nil)
		w.calm(180, 2*time.Minute)
		if n := w.missing(all); n > 0 {
			w.Errorf("%d services are missing", n)
		}
	})
}

func TestServiceWithoutItsRole_LeavesTheOthersAlone(t *testing.T) {
	settings := etcdtest.Settings{PasswordTime: passwordTime, CheckRenewals: true}
	virtually(t, etcdtest.Config{Settings: settings}, func(w *world) {
		w.protect()
		w.etcd.SetUser("u", "u", etcdtest.ReadWrite("/s/"), etcdtest.ReadWrite("/lost"))
		client := w.client(w.ctx)
		ttl := etcdv3.NewTTLOption(time.Second, 3*time.Second)
		for i := range 10 {
			r := etcdv3.NewRegistrar(client, etcdv3.Service{Key: fmt.Sprintf("/s/%d", i), Value: "v", TTL: ttl}, nil)
			r.Register()
		}
		lost := etcdv3.NewRegistrar(client, etcdv3.Service{Key: "/lost", Value: "v", TTL: ttl}, nil)
		lost.Register()
		time.Sleep(10 * time.Second)
		w.etcd.Forget()
		w.etcd.SetUser("u", "u", etcdtest.ReadWrite("/s/"))
		least := 10
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			least = min(least, w.etcd.CountKeys("/s/"))
		}
		if n := w.etcd.Count("Authenticate"); least < 10 || n > 0 || lost.Err() == nil {
			w.Errorf("%d of 10 neighbours had their keys, %d authentications, and it says %v", least, n, lost.Err())
		}
		w.Logf("%d keep-alive streams in a minute", w.etcd.Count("LeaseKeepAlive"))
	})
}

func TestDeletedKey_IsFoundInOneRoundTripAfterABreak(t *testing.T) {
	for _, members := range []int{1, 3} {
		virtually(t, etcdtest.Config{Members: members}, func(w *world) {
			w.etcd.SetLinks(etcdtest.Link{RTT: 100 * time.Millisecond})
			w.register(300, 1, nil)
			time.Sleep(10 * time.Second)
			for _, m := range w.etcd.Members() {
				m.Break()
			}
			w.etcd.Delete("/s/00150")
			if took := w.waitFor(time.Minute, func() bool { return w.etcd.CountKeys("/s/") == 300 }); took > 5*time.Second {
				w.Errorf("put back after %v", took)
			}
		})
	}
}
