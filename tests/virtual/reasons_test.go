package virtual_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// aHeartbeat is within what a reason that is known is told, by default.
const aHeartbeat = 3 * time.Second

func TestErrors_SayWhatToDo(t *testing.T) {
	for err, advice := range map[error]string{
		rpctypes.ErrGRPCPermissionDenied: "grant a role of the user permission for it",
		rpctypes.ErrGRPCUserEmpty:        "set ClientOptions.Username and Password",
		rpctypes.ErrGRPCAuthFailed:       "check ClientOptions.Username and Password",
		rpctypes.ErrGRPCNoSpace:          "compact and defragment it",
		rpctypes.ErrGRPCRequestTooLarge:  "make it smaller",
	} {
		for _, method := range []string{"LeaseGrant", "Txn", "LeaseRevoke"} {
			virtually(t, func(w *world) {
				c, _ := w.client()
				if method == "LeaseRevoke" {
					w.register(c, service("v"))
				}
				w.refuses(err, method, map[string]string{"Txn": "Put"}[method]) // as who may not read puts
				got := c.Register(service("v"))
				if method == "LeaseRevoke" {
					got = c.Deregister(service("v"))
				}
				if got == nil {
					w.Fatalf("%v of a %s is no error", err, method)
				}
				w.says(got, advice)
				w.says(got, rpctypes.ErrorDesc(err))
				w.says(got, `"/s/1"`)
				if !errors.Is(got, rpctypes.Error(err)) {
					w.Errorf("%v is not %v", got, err)
				}
				if strings.Count(got.Error(), advice) != 1 {
					w.Errorf("%v", got)
				}
			})
		}
	}
	virtually(t, func(w *world) {
		c, _ := w.client()
		whatever := status.Error(codes.FailedPrecondition, "whatever")
		w.refuses(whatever, "Txn")
		if err := c.Register(service("v")); err.Error() != `register "/s/1": `+whatever.Error() {
			w.Error(err)
		}
	})
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.etcd.Member(0).Down()
		err := c.Register(service("v"))
		w.says(err, "connection refused")
		w.says(err, "check that etcd runs")
		if !errors.Is(err, context.DeadlineExceeded) {
			w.Error(err)
		}
	})
}

func TestErr_IsThatOfTheRegistrationWhoeverEndsIt(t *testing.T) {
	virtually(t, func(w *world) {
		c, r, j := w.registered()
		if err := c.Deregister(service("v")); err != nil {
			w.Fatal(err)
		}
		w.says(r.Err(), "deregistered")
		w.logs(j, 1, "registration ended")
		r.Register()
		w.isRegistered(r)
		w.logs(j, 2, "action=register")
	})
}

// Reasons that can be known while nothing can be done about them, what is done to
// get there, and etcd's own words for them.
var reasons = []struct {
	name  string
	begin func(w *world)
	end   func(w *world)
	words string
}{
	{"password", func(w *world) { w.etcd.SetUser("u", "changed", etcdtest.ReadWrite("/s/")) },
		func(w *world) { w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/")) }, "authentication failed, invalid user ID or password"},
	{"role", func(w *world) { w.etcd.SetUser("u", "p") },
		func(w *world) { w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/")) }, "permission denied"},
	{"user", func(w *world) { w.etcd.RemoveUser("u") },
		func(w *world) { w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/")) }, "authentication failed, invalid user ID or password"},
	{"no space", func(w *world) { w.etcd.Set(func(s *etcdtest.Settings) { s.NoSpace = true }) },
		func(w *world) { w.etcd.Set(func(s *etcdtest.Settings) { s.NoSpace = false }) }, "database space exceeded"},
	{"no leader", func(w *world) { w.all((*etcdtest.Member).LoseLeader) },
		func(w *world) { w.all((*etcdtest.Member).FindLeader) }, "no leader"},
	{"connection refused", func(w *world) { w.all((*etcdtest.Member).Down) }, func(w *world) { w.all((*etcdtest.Member).Up) }, "connection refused"},
	{"too many requests", func(w *world) {
		w.refuses(rpctypes.ErrGRPCRequestTooManyRequests, "LeaseGrant", "Txn", "Range", "LeaseKeepAlive")
	}, (*world).heals, "too many requests"},
}

// withUsers makes a cluster that knows a user "u" with the password "p".
func (w *world) withUsers() {
	w.etcd.SetUser("root", "secret")
	w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
	w.etcd.Set(func(s *etcdtest.Settings) { s.CheckRenewals = true })
	w.etcd.EnableAuth()
}

// A lease is lost while something stands in the way.
func TestReason_OfALostLease_IsToldWithinAHeartbeat(t *testing.T) {
	for _, reason := range reasons {
		t.Run(reason.name, func(t *testing.T) {
			virtually(t, func(w *world) {
				w.withUsers()
				_, r, j := w.registered(asUser("u", "p"))
				after(20 * time.Second)
				reason.begin(w)
				w.etcd.RevokeAll()
				most := aHeartbeat + time.Second
				if reason.name == "connection refused" || reason.name == "no leader" || reason.name == "too many requests" {
					most = 13 * time.Second // no heartbeat is answered: that is known after the TTL
				}
				w.until(most, "told", func() bool { return r.Err() != nil && strings.Contains(r.Err().Error(), reason.words) })
				after(30 * time.Second)
				w.says(r.Err(), reason.words)
				if n := j.count(reason.words); n != 1 {
					w.Errorf("%d lines:\n%s", n, j)
				}
				reason.end(w)
				most = again
				if reason.name == "password" || reason.name == "user" || reason.name == "too many requests" {
					most = time.Minute // so seldom is etcd asked about a refused user, or while it has too much to do
				} else if reason.name == "role" || reason.name == "no space" {
					most = 11 * time.Second
				}
				w.until(most, "registered", func() bool { return r.Err() == nil })
				w.comesToHold(r, "v")
				w.logs(j, 1, "registered again")
			})
		})
	}
}

// comesBack is how long a registration may take to come back after a refusal: a
// user is asked about a minute apart at most, and a registration 10 s apart.
const comesBack = 75 * time.Second

// Nothing is lost at first: the heartbeats tell.
func TestReason_OfARegistration_IsToldInTime(t *testing.T) {
	for _, reason := range reasons {
		t.Run(reason.name, func(t *testing.T) {
			virtually(t, func(w *world) {
				w.withUsers()
				_, r, j := w.registered(asUser("u", "p"))
				after(20 * time.Second)
				reason.begin(w)
				if slices.Contains([]string{"no space", "too many requests"}, reason.name) {
					after(time.Hour) // which keeps no lease from being renewed
					w.isRegistered(r)
					w.logs(j, 1, "")
					w.holds(1, "v")
					return
				}
				most := aHeartbeat + time.Second
				if reason.name == "connection refused" || reason.name == "no leader" || reason.name == "password" || reason.name == "user" {
					most = 11 * time.Second // the TTL, or that a stream lives on with its token
				}
				w.until(most, "told", func() bool { return r.Err() != nil })
				after(15 * time.Second)
				w.says(r.Err(), reason.words)
				if n := j.count(reason.words); n != 1 && reason.name != "role" { // and again once the lease has run out
					w.Errorf("%d lines:\n%s", n, j)
				}
				reason.end(w)
				w.until(comesBack, "registered", func() bool { return r.Err() == nil })
				w.comesToHold(r, "v")
			})
		})
	}
}

// What keeps the first Register from succeeding.
func TestReason_OfTheFirstRegister(t *testing.T) {
	for _, reason := range reasons {
		t.Run(reason.name, func(t *testing.T) {
			virtually(t, func(w *world) {
				w.withUsers()
				c, _ := w.client(asUser("u", "p"))
				reason.begin(w)
				r, j := registrar(c, service("v"))
				w.within(requestTimeout, r.Register)
				w.says(r.Err(), reason.words)
				w.logs(j, 1, reason.words)
				w.logs(j, 1, "not registered")
				after(50 * time.Second)
				w.says(r.Err(), reason.words)
				w.logs(j, 1, "")
				after(20 * time.Minute)
				w.logs(j, 3, reason.words) // and after 1 and 11 minutes
				reason.end(w)
				w.until(comesBack, "registered", func() bool { return r.Err() == nil })
				w.comesToHold(r, "v")
				if j.count("p@", "secret") > 0 {
					w.Errorf("%s", j)
				}
			})
		})
	}
}

// The others do not notice.
func TestRoleOfOneOfManyIsRevoked_TheOthersLive(t *testing.T) {
	for _, lost := range []bool{false, true} {
		virtually(t, func(w *world) {
			w.withUsers()
			c, _ := w.client(asUser("u", "p"))
			var all []*etcdv3.Registrar
			var logs []*journal
			for i := range 20 {
				r, j := registrar(c, etcdv3.Service{Key: key(i), Value: "v"})
				r.Register()
				all, logs = append(all, r), append(logs, j)
			}
			after(20 * time.Second)
			w.etcd.SetUser("u", "p", etcdtest.Permission{Key: "/s/", End: "/s/0000", Read: true, Write: true}, etcdtest.Permission{Key: "/s/0001", End: "/s0", Read: true, Write: true})
			if lost {
				w.etcd.Revoke(w.etcd.KeyValues(key(0))[0].Lease)
			}
			for range 600 {
				after(time.Second)
				for i, r := range all[1:] {
					if err := r.Err(); err != nil {
						w.Fatalf("service %d: %v", i+1, err)
					}
				}
			}
			w.says(all[0].Err(), "permission denied")
			for _, j := range logs[1:] {
				w.logs(j, 1, "")
			}
			if n := logs[0].count("permission denied"); n != 2 && n != 3 { // when it is known, once the lease has run out, and a minute later
				w.Errorf("%d lines:\n%s", n, logs[0])
			}
			w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
			after(15 * time.Second)
			w.isRegistered(all[0])
		})
	}
}

// A lease that runs out because etcd refuses to renew it is lost for that reason,
// which has to be mended first.
func TestLeaseThatRunsOutRefused_IsNotToldAsLost(t *testing.T) {
	virtually(t, func(w *world) {
		w.withUsers()
		c, _ := w.client(asUser("u", "p"))
		r, j := registrar(c, service("v"))
		r.Register()
		w.isRegistered(r)
		w.etcd.SetUser("u", "p", etcdtest.Permission{Key: "/s/", End: "/s0", Read: true})
		after(20 * time.Second) // the lease has run out
		w.says(r.Err(), "permission denied")
		w.logs(j, 1, "registration lost")
		w.logs(j, 0, "the lease was lost")
		w.etcd.SetUser("u", "p", etcdtest.ReadWrite("/s/"))
		after(15 * time.Second)
		w.isRegistered(r)
		w.logs(j, 0, "the lease was lost")
	})
}

// The watch of the key hears first that it is gone, and why it is not known.
func TestLeaseExpired_IsToldAsThatAndOnce(t *testing.T) {
	for name, lose := range map[string]func(*world){
		"revoked": func(w *world) { w.etcd.RevokeAll() },
		"expired": func(w *world) {
			w.delays(12*time.Second, "Renew")
			after(14 * time.Second)
			w.heals()
		},
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(w *world) {
				_, r, j := w.registered()
				after(time.Second)
				lose(w)
				if name == "revoked" {
					after(0)
					w.says(r.Err(), "the next heartbeat tells why")
					w.logs(j, 1, "")
				}
				w.comesToHold(r, "v")
				if name == "revoked" {
					w.logs(j, 1, "registration lost", "the lease was lost")
					w.logs(j, 3, "")
				}
				w.logs(j, 0, "deleted from outside")
				w.logs(j, 1, "registered again")
			})
		})
	}
}

func TestTokenThatDiedInAnOutage_IsNoReason(t *testing.T) {
	virtually(t, func(w *world) {
		w.withUsers()
		_, _, j := w.registered(asUser("u", "p"))
		w.all((*etcdtest.Member).Down)
		after(20 * time.Second)
		w.all((*etcdtest.Member).Up)
		after(10 * time.Second)
		w.logs(j, 0, "invalid auth token")
	})
}

func TestPasswordChangedDuringAnOutage_IsTold(t *testing.T) {
	virtually(t, func(w *world) {
		w.withUsers()
		_, r, j := w.registered(asUser("u", "p"))
		w.all((*etcdtest.Member).Down)
		after(20 * time.Second)
		w.etcd.SetUser("u", "changed", etcdtest.ReadWrite("/s/"))
		w.all((*etcdtest.Member).Up)
		after(30 * time.Minute)
		w.says(r.Err(), "authentication failed")
		if j.count("authentication failed") == 0 {
			w.Errorf("%s", j)
		}
	})
}

// The event, State and the log follow the reason.
func TestReasonThatChangesInAnOutage_IsTold(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		s, events, j := w.polled(c)
		w.Cleanup(s.Stop)
		after(20 * time.Second)
		w.all((*etcdtest.Member).Down)
		after(20 * time.Second)
		w.says(s.State().Err, "connection refused")
		w.all((*etcdtest.Member).Up)
		w.all((*etcdtest.Member).LoseLeader)
		after(10 * time.Second)
		w.says(s.State().Err, "no leader")
		w.logs(j, 1, "failed to retrieve", "no leader")
		events.are(w, "", "error", "error")
		w.all((*etcdtest.Member).Down) // as before
		after(time.Minute + aHeartbeat)
		w.says(s.State().Err, "connection refused")
	})
}

func TestRefusalThatBecomesAnOutage_IsTold(t *testing.T) {
	virtually(t, func(w *world) {
		w.withUsers()
		c, _ := w.client(asUser("u", "p"))
		s, _, j := w.polled(c)
		w.Cleanup(s.Stop)
		w.etcd.SetUser("u", "p")
		w.all((*etcdtest.Member).Break)
		after(10 * time.Second)
		w.says(s.State().Err, "permission denied")
		w.all((*etcdtest.Member).Down)
		after(30 * time.Second)
		w.says(s.State().Err, "connection refused")
		w.logs(j, 2, "failed to retrieve")
	})
}

// The connection that was lost is back: it is the list that has no answer.
func TestReasonFromBeforeTheList_IsNoReasonAnyMore(t *testing.T) {
	for _, down := range []bool{false, true} {
		virtually(t, func(w *world) {
			c, _ := w.client()
			s, _, j := w.polled(c)
			w.Cleanup(s.Stop)
			after(time.Minute)
			w.all((*etcdtest.Member).Down)
			if down {
				after(20 * time.Second)
				w.says(s.State().Err, "connection refused")
			}
			w.delaysAnswers(time.Hour, "Range")
			w.etcd.Put("/s/1", "a")
			_ = w.etcd.Compact(w.etcd.Revision())
			w.all((*etcdtest.Member).Up)
			after(10 * time.Second)
			if !down && s.State().Err != nil {
				w.Error(s.State().Err)
			}
			after(40 * time.Second)
			w.says(s.State().Err, "etcd does not answer")
			w.logs(j, map[bool]int{false: 1, true: 2}[down], "failed to retrieve")
			w.heals()
			w.all((*etcdtest.Member).Break)
			after(again)
			if err := s.State().Err; err != nil {
				w.Error(err)
			}
		})
	}
}

func TestNoLeaderOverALongRoundTrip_IsTheReason(t *testing.T) {
	for at := range 8 {
		virtually(t, func(w *world) {
			w.etcd.SetLinks(etcdtest.Link{RTT: 2500 * time.Millisecond})
			c, _ := w.client()
			s, events, j := w.polled(c)
			w.Cleanup(s.Stop)
			after(time.Minute + time.Duration(at)*time.Second)
			events.take()
			w.all((*etcdtest.Member).LoseLeader)
			w.until(20*time.Second, "told", func() bool { return len(events.ch) > 0 })
			w.says(s.State().Err, "no leader")
			after(time.Hour)
			events.are(w, "error")
			w.logs(j, 1, "failed to retrieve", "no leader")
		})
	}
}
