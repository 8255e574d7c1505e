package virtual_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// isList reports whether a request lists keys, and does not read one.
func isList(method string, req any) bool {
	r, is := req.(*pb.RangeRequest)
	return is && method == "Range" && len(r.RangeEnd) > 0
}

// counted counts the lists from now on.
func (w *world) counted() *int {
	var n int
	w.etcd.Set(func(s *etcdtest.Settings) {
		s.Refuse = func(_ int, method string, req any) error {
			if isList(method, req) {
				n++
			}
			return nil
		}
	})
	return &n
}

func TestWatch_FollowsWhatChanges(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "a")
		c, _ := w.client()
		events, _ := w.followed(c)
		events.are(w, "a")
		for i, step := range []struct {
			change func()
			want   []string
		}{
			{func() { w.etcd.Put("/s/2", "b") }, []string{"a b"}},
			{func() { w.etcd.Put("/s/3", "a") }, nil}, // no other set
			{func() { w.etcd.Put("/other", "c") }, nil},
			{func() { w.etcd.Delete("/s/1") }, nil},
			{func() { w.etcd.Delete("/s/3") }, []string{"b"}},
			{func() { w.etcd.Delete("/s/2") }, []string{""}},
		} {
			step.change()
			after(time.Minute)
			if got := events.take(); !slices.Equal(got, step.want) {
				w.Errorf("step %d: events %q, want %q", i, got, step.want)
			}
		}
		if lists, streams := w.etcd.Count("Range"), w.etcd.Count("Watch"); lists != 1 || streams != 1 {
			w.Errorf("%d lists, %d watches in six quiet minutes", lists, streams)
		}
		if n := w.etcd.Count("WatchProgress"); n < 30 || n > 46 {
			w.Errorf("%d signs of life were asked for in six minutes", n)
		}
	})
}

// A refusal that ends the watch, or its stream, as etcd does.
func TestWatchThatEnds_MissesNothing(t *testing.T) {
	for _, reason := range []error{
		rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken,
		status.Error(codes.Unknown, "whatever"),
	} {
		for _, members := range []int{1, 3} {
			t.Run(fmt.Sprint(status.Convert(reason).Message(), members), func(t *testing.T) {
				virtuallyOn(t, etcdtest.Config{Members: members}, func(w *world) {
					w.etcd.Put("/s/1", "a")
					c, _ := w.client()
					events, j := w.followed(c)
					for range 100 {
						after(300 * time.Millisecond)
						w.refuses(reason, "WatchCreate")
						w.all((*etcdtest.Member).Break)
						after(20 * time.Millisecond)
						w.heals()
					}
					w.etcd.Put("/s/1", "b")
					after(again)
					events.are(w, "a", "b")
					after(time.Minute) // it stands: the next trouble begins anew
					w.all((*etcdtest.Member).Break)
					w.etcd.Put("/s/1", "c")
					after(time.Second)
					events.are(w, "c")
					if j.count("interrupted") != j.count("resumed") {
						w.Errorf("%s", j)
					}
				})
			})
		}
	}
}

func TestCompactedWhileAway_ListsAgain(t *testing.T) {
	for _, way := range waysToBeAway {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			c, _ := w.client()
			events, _ := w.followed(c)
			after(2 * time.Second)
			w.all(way.away)
			w.all((*etcdtest.Member).Break)
			for i := range 50 {
				w.etcd.Put("/s/1", fmt.Sprint(i))
			}
			w.etcd.Put("/s/2", "b")
			if err := w.etcd.Compact(w.etcd.Revision()); err != nil {
				w.Fatal(err)
			}
			w.all(way.back)
			after(again)
			events.are(w, "a", "49 b")
		})
	}
}

func TestWatchThatCannotBeOpened_IsTriedAgain(t *testing.T) {
	for _, method := range []string{"Watch", "WatchCreate"} {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			w.delays(time.Hour, method)
			c, _ := w.client()
			events, _ := w.followed(c)
			after(time.Hour - time.Minute)
			if got := events.take(); len(got) == 0 || got[0] != "a" {
				w.Errorf("events %q", got)
			}
			if n := w.etcd.Count("Watch"); n < 10 || n > 3000 {
				w.Errorf("%d attempts in an hour", n)
			}
			w.etcd.Set(func(s *etcdtest.Settings) { s.Delay = nil })
			w.etcd.Put("/s/1", "b")
			after(5 * time.Minute) // the last attempt still waits
			if got := events.take(); len(got) == 0 || got[len(got)-1] != "b" {
				w.Errorf("events %q", got)
			}
		})
	}
}

func TestMemberWhoseWatchIsSilent_IsLeftForAnother(t *testing.T) {
	virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
		w.etcd.Put("/s/1", "a")
		c, _ := w.client()
		events, _ := w.followed(c)
		after(20 * time.Second) // it has answered before
		events.are(w, "a")
		for i := range 10 {
			m := w.servingMember()
			m.Silence()
			w.etcd.Put("/s/1", fmt.Sprint(i))
			after(15 * time.Second)
			events.are(w, fmt.Sprint(i))
			m.Speak()
			after(15 * time.Second)
		}
	})
}

// servingMember returns the member that the watch is at: the one that was asked
// for the last sign of life.
func (w *world) servingMember() *etcdtest.Member {
	w.Helper()
	counts := func() (all []int) {
		for _, m := range w.etcd.Members() {
			all = append(all, m.Count("WatchProgress"))
		}
		return all
	}
	before := counts()
	for range 60 {
		after(time.Second)
		for i, n := range counts() {
			if n > before[i] {
				return w.etcd.Member(i)
			}
		}
	}
	w.Fatal("no member is asked for a sign of life")
	return nil
}

func TestProxyThatKnowsNoProgress_IsReadInstead(t *testing.T) {
	virtuallyOn(t, etcdtest.Config{Settings: etcdtest.Settings{Proxy: true}}, func(w *world) {
		w.etcd.Put("/s/1", "a")
		c, _ := w.client()
		events, _ := w.followed(c)
		after(time.Minute)
		streams := w.etcd.Count("Watch")
		if streams > 3 {
			w.Errorf("%d watches", streams)
		}
		w.etcd.Forget()
		after(time.Hour)
		if n := w.etcd.Count("Watch"); n > 0 {
			w.Errorf("%d watches in an hour", n)
		}
		if n := w.etcd.Count("Range"); n < 300 || n > 455 {
			w.Errorf("%d reads in an hour", n)
		}
		events.are(w, "a")
		w.all((*etcdtest.Member).Silence)
		after(15 * time.Second)
		events.are(w, "error")
		w.all((*etcdtest.Member).Speak)
		after(again)
		events.are(w, "a")
	})
}

// A member that is behind answers no progress request either.
func TestServerThatAnswersProgressAgain_IsAskedOnANewStream(t *testing.T) {
	virtuallyOn(t, etcdtest.Config{Settings: etcdtest.Settings{Proxy: true}}, func(w *world) {
		c, _ := w.client()
		events, _ := w.followed(c)
		after(time.Minute)
		w.heals()
		w.etcd.Member(0).Break()
		after(time.Minute)
		w.etcd.Forget()
		after(time.Hour)
		if n := w.etcd.Count("WatchProgress"); n < 300 {
			w.Errorf("%d requests for progress in an hour", n)
		}
		events.are(w, "")
	})
}

func TestStoreStartsOver_IsNoticed(t *testing.T) {
	for _, proxy := range []bool{false, true} {
		for _, keepID := range []bool{false, true} {
			for _, writes := range []int{0, 1, 200} { // 200: revisions have overtaken ours
				virtuallyOn(t, etcdtest.Config{Settings: etcdtest.Settings{Proxy: proxy}}, func(w *world) {
					for i := range 50 {
						w.etcd.Put("/s/1", fmt.Sprint("a", i))
					}
					c, _ := w.client()
					events, _ := w.followed(c)
					after(time.Minute)
					events.are(w, "a49")
					w.etcd.Wipe(keepID)
					want := ""
					for i := range writes {
						want = fmt.Sprint("b", i)
						w.etcd.Put("/s/2", want)
					}
					after(30 * time.Second)
					if got := events.take(); len(got) == 0 || got[len(got)-1] != want || slices.Contains(got, "error") {
						w.Errorf("proxy %v, %d writes: events %q, want %q", proxy, writes, got, want)
					}
				})
			}
		}
	}
}

func TestStoreThatHasOvertakenOursUnderOtherKeys_IsNoticed(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "a")
		c, _ := w.client()
		events, _ := w.followed(c)
		after(time.Minute)
		w.etcd.Stop()
		w.etcd.Wipe(true)
		for i := range 200 {
			w.etcd.Put("/other", fmt.Sprint(i))
		}
		w.etcd.Start()
		after(30 * time.Second)
		events.are(w, "a", "")
	})
}

// Each connection breaks, and one is always there. It depends on which goroutine is
// first, and so is tried often.
func TestStoreThatHasOvertakenOursWhileOneConnectionIsThere_IsNoticed(t *testing.T) {
	for _, members := range []int{1, 3} {
		for _, away := range []time.Duration{0, time.Millisecond, 100 * time.Millisecond} {
			wrong, last := 0, ""
			for range 30 {
				virtuallyOn(t, etcdtest.Config{Members: members}, func(w *world) {
					w.etcd.Put("/s/1", "old")
					c, _ := w.client()
					s, _, _ := w.polled(c)
					w.Cleanup(s.Stop)
					after(time.Minute)
					if away > 0 {
						w.etcd.Stop()
					}
					w.etcd.Wipe(true)
					for i := range 50 {
						w.etcd.Put("/s/2", fmt.Sprint("new", i))
					}
					if away > 0 {
						time.Sleep(away)
						w.etcd.Start()
					}
					after(30 * time.Second)
					if got, want := s.State(), w.etcd.Values("/s/"); !slices.Equal(got.Instances, want) {
						wrong, last = wrong+1, fmt.Sprint(got)
					}
				})
			}
			if wrong > 0 {
				t.Errorf("%d members away for %v: wrong %d times of 30: %s", members, away, wrong, last)
			}
		}
	}
}

// Members that restart within a second may have another store. The watch may stand
// on a new connection when the last old one breaks.
func TestLastOldConnectionBreaks_ThePrefixIsListed(t *testing.T) {
	for range 20 {
		virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
			w.etcd.Put("/s/1", "a")
			c, _ := w.client()
			events, j := w.followed(c)
			after(time.Minute)
			first := w.servingMember()
			lists := w.counted()
			first.Down()
			after(10 * time.Millisecond)
			first.Up()
			after(300 * time.Millisecond)
			for _, m := range w.etcd.Members() {
				if m != first {
					m.Down()
					after(100 * time.Millisecond)
				}
			}
			after(5 * time.Second)
			if *lists == 0 {
				w.Errorf("not listed\n%s", j)
			}
			events.are(w, "a")
		})
	}
}

// To resume, etcd reads all that happened since, under whatever key.
func TestWatchThatIsFarBehind_IsListedAndNotResumed(t *testing.T) {
	for _, test := range []struct {
		name            string
		members, behind int
		want            int // lists
	}{
		{"one endpoint", 1, 0, 1},
		{"up to date", 2, 0, 0},
		{"a little behind", 2, 900, 0},
		{"far behind", 2, 5000, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			virtuallyOn(t, etcdtest.Config{Members: test.members}, func(w *world) {
				w.etcd.Put("/s/1", "a")
				c, _ := w.client()
				events, _ := w.followed(c)
				after(time.Minute)
				for i := range test.behind {
					w.etcd.Put("/other", fmt.Sprint(i))
				}
				m := w.servingMember()
				after(time.Second)
				lists := w.counted()
				m.Break()
				after(10 * time.Second)
				if *lists != test.want {
					w.Errorf("%d lists, want %d", *lists, test.want)
				}
				w.etcd.Put("/s/1", "b")
				after(time.Second)
				events.are(w, "a", "b")
			})
		})
	}
}

func TestStop_LeavesNoWatch(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "a")
		c, _ := w.client()
		s, events, _ := w.polled(c)
		after(time.Minute)
		s.Stop()
		s.Stop()
		w.etcd.Forget()
		w.etcd.Put("/s/1", "b")
		after(time.Hour)
		events.are(w, "a")
		if counts := w.etcd.Counts(); counts["Watch"]+counts["WatchCreate"]+counts["WatchProgress"]+counts["Range"] > 0 {
			w.Errorf("after Stop: %v", counts)
		}
		other, _, _ := w.polled(c)
		if state := other.State(); state.Err != nil || len(state.Instances) != 1 {
			w.Error(state)
		}
		other.Stop()
	})
}

// A read tells what the member must have reached, if it is of a key that may be read.
func TestRoleThatIsGoneForAnotherPrefix_HidesNoStall(t *testing.T) {
	for _, gone := range []int{1, 30} {
		late := 0
		for at := range 10 {
			virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
				a, b := etcdtest.ReadWrite("/a/"), etcdtest.ReadWrite("/s/")
				w.etcd.SetUser("root", "secret")
				w.etcd.SetUser("u", "p", a, b)
				w.etcd.EnableAuth()
				c, _ := w.client(asUser("u", "p"))
				for i := range gone {
					other, _ := etcdv3.NewInstancer(c, fmt.Sprintf("/a/%d", i), nil)
					w.Cleanup(other.Stop)
				}
				events, _ := w.followed(c)
				after(time.Minute)
				w.etcd.SetUser("u", "p", b)
				after(time.Minute + time.Duration(at)*666*time.Millisecond)
				m := w.servingMember()
				events.take()
				w.etcd.Forget()
				m.Stall()
				w.etcd.Put("/s/1", "b")
				if w.until(time.Minute, "seen", func() bool { return len(events.ch) > 0 }) > 15*time.Second {
					late++
				}
				m.Unstall()
				if n := w.etcd.Count("Range"); n > 25 { // what is refused is known
					w.Errorf("%d reads", n)
				}
			})
		}
		if late > 0 {
			t.Errorf("%d prefixes gone: seen late %d times of 10", gone, late)
		}
	}
}
