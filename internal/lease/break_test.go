package lease_test

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

var errNoLeader = rpctypes.ErrGRPCNoLeader

// refuse has requests of a method answered with an error.
func refuse(method string, err error) func(int, string, any) error {
	return func(_ int, m string, _ any) error {
		if m == method {
			return err
		}
		return nil
	}
}

// The member that has the stream falls silent, or stands still.
func TestSilentMember_IsLeftInTime(t *testing.T) {
	for _, row := range []struct {
		name    string
		foreign bool
		how     func(*etcdtest.Member)
	}{
		{"silent", false, (*etcdtest.Member).Silence},
		{"frozen", false, (*etcdtest.Member).Freeze},
		{"silent, without evidence", true, (*etcdtest.Member).Silence},
		{"frozen, without evidence", true, (*etcdtest.Member).Freeze},
	} {
		t.Run(row.name, func(t *testing.T) {
			for at := time.Duration(0); at < 3*time.Second; at += 500 * time.Millisecond {
				virtually(t, setting{Config: etcdtest.Config{Members: 3}, foreign: row.foreign}, func(w *world) {
					all := w.grants(20, 10, 3*time.Second)
					after(time.Minute + at)
					w.untroubled(all)
					member, broken := w.serving(), time.Now()
					row.how(member)
					after(20 * time.Second)
					w.untroubled(all)
					if w.missed.Value() == 0 {
						w.Error("no heartbeat is counted as unanswered")
					}
					if row.foreign {
						return
					}
					for _, at := range w.etcd.Times("LeaseKeepAlive") {
						if d := at.Sub(broken); d > 5500*time.Millisecond {
							w.Errorf("a stream was opened %v after the break", d)
						}
					}
				})
			}
		})
	}
}

// Two links of three are silent at once. A comparison may find no evidence.
func TestTwoSilentMembers_AreLeftInTime(t *testing.T) {
	for at := time.Duration(0); at < 3*time.Second; at += 300 * time.Millisecond {
		virtually(t, setting{Config: etcdtest.Config{Members: 3}}, func(w *world) {
			all := w.grants(20, 10, 3*time.Second)
			after(time.Minute)
			member := w.serving()
			after(at)
			member.Silence()
			for _, other := range w.etcd.Members() {
				if other != member {
					other.Silence()
					break
				}
			}
			after(30 * time.Second)
			w.untroubled(all)
		})
	}
}

// The member answers reads, and so is not silent. The stream that was given up does
// not come back to it, whatever else the client asks for meanwhile.
func TestMemberThatRenewsNothing_IsLeftInTime(t *testing.T) {
	for range 60 {
		virtually(t, setting{Config: etcdtest.Config{Members: 3}}, func(w *world) {
			all := w.grants(5, 10, 3*time.Second)
			after(time.Minute)
			member := w.serving()
			w.etcd.Set(func(s *etcdtest.Settings) {
				s.Delay = func(m int, method string, _ any) time.Duration {
					if method == "Renew" && w.etcd.Member(m) == member {
						return time.Hour
					}
					return 0
				}
			})
			for range 60 {
				if _, err := w.conn.KV.Get(w.Context(), "/x"); err != nil {
					w.Error(err)
				}
				after(rand.N(time.Second))
			}
			w.untroubled(all)
		})
	}
}

// serving returns the member that has the stream of heartbeats.
func (w *world) serving() (m *etcdtest.Member) {
	w.Helper()
	w.etcd.Forget()
	after(3100 * time.Millisecond)
	for _, one := range w.etcd.Members() {
		if one.Count("Renew") > 0 {
			if m != nil {
				w.Fatal("two members have heartbeats")
			}
			m = one
		}
	}
	if m == nil {
		w.Fatal("no member has heartbeats")
	}
	return m
}

func TestOneSilentLinkThatHeals_GoesOn(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(60, 3*time.Second)
		after(time.Minute)
		w.etcd.Member(0).Silence()
		after(30 * time.Second)
		w.etcd.Member(0).Speak()
		w.etcd.Forget()
		after(10 * time.Second)
		w.same("news", l.said(), []string{"resumed"})
		w.within("beats", w.etcd.Count("Renew"), 2, 8)
	})
}

func TestMemberRestarts_AllResumeAtOnce(t *testing.T) {
	virtually(t, setting{Config: etcdtest.Config{Members: 3}}, func(w *world) {
		all := w.grants(100, 10, 3*time.Second)
		all = append(all, w.grant(300, 100*time.Second)) // whose first beat is not due for long
		after(20 * time.Second)
		w.serving().Restart()
		after(2 * time.Second)
		for _, l := range all {
			if said := l.said(); len(said) != 1 || said[0] != "resumed" {
				w.Fatalf("heard %q", said)
			}
		}
		after(time.Minute)
		w.untroubled(all)
	})
}

func TestEtcdComesBackEmpty_AllAreLostAtOnce(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		all := append(w.grants(50, 10, 3*time.Second), w.grant(300, 100*time.Second))
		after(20 * time.Second)
		w.etcd.Wipe(false)
		after(2 * time.Second)
		for _, l := range all {
			if news := l.news(); len(news) != 1 || !news[0].Lost {
				w.Fatalf("heard %v", news)
			}
		}
		w.etcd.Forget()
		after(time.Minute)
		w.same("beats", w.etcd.Count("Renew"), 0)
	})
}

func TestNoLeader_MovesToAnotherMember(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		virtually(t, setting{Config: etcdtest.Config{Members: 3}, foreign: foreign}, func(w *world) {
			all := w.grants(20, 10, 3*time.Second)
			after(time.Minute)
			w.serving().LoseLeader()
			after(time.Minute)
			w.untroubled(all)
		})
	}
}

func TestNoMemberHasALeader_IsToldAndTakenBack(t *testing.T) {
	virtually(t, setting{Config: etcdtest.Config{Members: 3}}, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(time.Minute)
		for _, m := range w.etcd.Members() {
			m.LoseLeader()
		}
		w.etcd.Forget()
		after(20 * time.Second)
		w.same("news", l.said(), []string{"silent etcdserver: no leader"})
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 5, 30)
		for _, m := range w.etcd.Members() {
			m.FindLeader()
		}
		after(5 * time.Second)
		if news := l.news(); len(news) != 1 || !news[0].Resumed && !news[0].Lost {
			w.Errorf("heard %v", news)
		}
	})
}

func TestStreamBrokenEverySecond_LosesNothing(t *testing.T) {
	virtually(t, setting{Config: etcdtest.Config{Members: 3}}, func(w *world) {
		all := w.grants(100, 10, 3*time.Second)
		all = append(all, w.grants(10, 2, 500*time.Millisecond)...)
		after(10 * time.Second)
		w.etcd.Forget()
		for range 120 {
			for _, m := range w.etcd.Members() {
				m.Break()
			}
			after(time.Second)
		}
		w.untroubled(all)
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 40, 120)
	})
}

// The beats of leases that are gone do not keep those of new ones waiting.
func TestBusyEtcdComesBackEmpty_NewLeasesAreKept(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		w.grants(4000, 20, 10*time.Second)
		after(20 * time.Second)
		w.etcd.Set(func(s *etcdtest.Settings) { s.RenewTime = 4 * time.Millisecond })
		w.etcd.Wipe(false)
		after(time.Second)
		all := w.grants(100, 5, time.Second)
		after(20 * time.Second)
		w.untroubled(all)
	})
}

// Each stream brings one answer, and breaks.
func TestStreamThatEndsWithEachAnswer_IsOpenedWithBackoff(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(10 * time.Second)
		w.etcd.Forget()
		for began, beats := time.Now(), 0; time.Since(began) < time.Minute; after(10 * time.Millisecond) {
			if n := w.etcd.Count("Renew"); n > beats {
				beats = n
				w.etcd.Member(0).Break()
			}
		}
		w.untroubled([]*kept{l})
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 20, 60)
	})
}

// Once there is a connection nobody refuses it any more, whatever etcd answers.
func TestConnectionRefusedAndThenNoAnswer_IsTold(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(time.Minute)
		w.etcd.Stop()
		after(7 * time.Second)
		w.etcd.Set(func(s *etcdtest.Settings) { s.RenewTime = time.Hour })
		w.etcd.Start()
		after(4 * time.Second)
		w.same("news", l.said(), []string{"silent no answer for 10s"})
	})
}

func TestConnectionRefusedForAnHour_IsToldOnce_AndBack(t *testing.T) {
	virtually(t, setting{Config: etcdtest.Config{Members: 3}}, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(time.Minute)
		w.etcd.Stop()
		after(time.Hour)
		news := l.news()
		if len(news) != 1 || !news[0].Silent || !strings.Contains(news[0].Err.Error(), "connection refused") {
			w.Errorf("heard %v", news)
		}
		w.etcd.Forget()
		w.etcd.Start()
		after(3 * time.Second)
		w.same("news", l.said(), []string{"resumed"})
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 1, 3)
		after(time.Minute)
		w.untroubled([]*kept{l})
	})
}

func TestReasonThatChanges_IsToldAgain(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(time.Minute)
		w.etcd.Member(0).Freeze()
		after(11 * time.Second)
		w.etcd.Stop()
		after(20 * time.Second)
		w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = refuse("Renew", errNoLeader) })
		w.etcd.Member(0).Thaw()
		w.etcd.Start()
		after(10 * time.Second)
		var reasons []string
		for _, h := range l.news() {
			if !h.Silent {
				w.Errorf("heard %s", inWords(h.Beat))
			}
			reasons = append(reasons, etcd.Reason(h.Err))
		}
		w.same("reasons", reasons, []string{"other", "connection lost", "connection refused", "no leader"})
	})
}

// After a break those go first that would end first.
func TestLostStream_RenewsFirstWhatEndsFirst(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		short := map[int64]bool{}
		long := w.grants(300, 60, 5*time.Second)
		for _, l := range w.grants(100, 5, time.Second) {
			short[int64(l.ID)] = true
		}
		after(20 * time.Second)
		var order []bool
		var mu sync.Mutex
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.RenewTime = 20 * time.Millisecond
			s.Delay = func(_ int, method string, req any) time.Duration {
				if beat, ok := req.(*pb.LeaseKeepAliveRequest); ok && method == "Renew" {
					mu.Lock()
					defer mu.Unlock()
					order = append(order, short[beat.ID])
				}
				return 0
			}
		})
		w.etcd.Member(0).Break()
		after(5 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		for i, isShort := range order[:100] {
			if !isShort {
				w.Fatalf("beat %d is one of a lease that has time", i)
			}
		}
		w.untroubled(long)
	})
}

// etcd's gRPC proxy answers each lease once in a third of its TTL, in any order.
func TestProxy_KeepsAllOnOneStream(t *testing.T) {
	virtually(t, setting{Config: etcdtest.Config{Settings: etcdtest.Settings{Proxy: true}}, foreign: true}, func(w *world) {
		all := append(w.grants(50, 10, 3*time.Second), w.grants(50, 30, time.Second)...)
		all = append(all, w.grant(10, 500*time.Millisecond), w.grant(600, time.Minute))
		after(10 * time.Minute)
		w.untroubled(all)
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
	})
}
