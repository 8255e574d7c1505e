package virtual_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// Whatever breaks, each event is a set that there was, no earlier than the one before,
// and the last one is the truth.
func TestEvents_AreWhatThereWasInOrder(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			virtuallyOn(t, etcdtest.Config{Members: 1 + 2*int(seed%2), Settings: etcdtest.Settings{Proxy: seed%5 == 4}}, func(w *world) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				if seed%3 == 0 {
					w.withUsers()
				}
				s, with := spied()
				opts := []func(*etcdv3.ClientOptions){with}
				if seed%3 == 0 {
					opts = append(opts, asUser("u", "p"))
				}
				c, _ := w.client(opts...)
				set := func() string {
					v := w.etcd.Values("/s/")
					slices.Sort(v)
					return strings.Join(slices.Compact(v), " ")
				}
				hist := []string{set()}
				var mu sync.Mutex
				note := func() { hist = append(hist, set()) }
				in, _ := etcdv3.NewInstancer(c, "/s/", nil)
				ch := make(chan sd.Event)
				var got []string
				stop := make(chan struct{})
				done := start(func() {
					for {
						select {
						case e := <-ch:
							mu.Lock()
							if e.Err != nil {
								got = append(got, "error")
							} else {
								if !slices.IsSorted(e.Instances) || len(slices.Compact(slices.Clone(e.Instances))) != len(e.Instances) {
									t.Error("unsorted")
								}
								got = append(got, strings.Join(e.Instances, " "))
							}
							mu.Unlock()
						case <-stop:
							return
						}
					}
				})
				in.Register(ch)
				for range 120 {
					switch rnd.IntN(14) {
					case 0:
						w.etcd.Member(0).Break()
					case 1:
						m := w.etcd.Member(rnd.IntN(len(w.etcd.Members())))
						m.Stall()
						time.AfterFunc(time.Duration(rnd.IntN(20))*time.Second, m.Unstall)
					case 2:
						_ = w.etcd.Compact(w.etcd.Revision())
					case 3:
						m := w.etcd.Member(rnd.IntN(len(w.etcd.Members())))
						m.Silence()
						time.AfterFunc(time.Duration(rnd.IntN(20))*time.Second, m.Speak)
					case 4:
						m := w.etcd.Member(rnd.IntN(len(w.etcd.Members())))
						m.Down()
						time.AfterFunc(time.Duration(rnd.IntN(20))*time.Second, m.Up)
					case 5:
						w.etcd.ForgetTokens()
					case 6:
						w.etcd.SetLinks(etcdtest.Link{RTT: time.Duration(rnd.IntN(1500)) * time.Millisecond})
					case 7:
						if seed%4 == 0 {
							w.etcd.Wipe(rnd.IntN(2) == 0)
							note()
						}
					default:
						for range 1 + rnd.IntN(20) {
							if k := key(rnd.IntN(12)); rnd.IntN(3) == 0 {
								w.etcd.Delete(k)
							} else {
								w.etcd.Put(k, fmt.Sprint("v", rnd.IntN(6)))
							}
							note()
							if rnd.IntN(2) == 0 {
								time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
							}
						}
					}
					time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				}
				time.Sleep(30 * time.Second)
				w.etcd.SetLinks(etcdtest.Link{})
				time.Sleep(30 * time.Second)
				after(0)
				mu.Lock()
				defer mu.Unlock()
				if e := in.State(); e.Err != nil || strings.Join(e.Instances, " ") != set() {
					t.Errorf("state %v, want %q %v", e, set(), s.all())
				}
				at := 0
				for i, g := range got {
					if g == "error" {
						continue
					}
					if i > 0 && got[i-1] == g {
						t.Errorf("twice: %q", g)
					}
					j := slices.Index(hist[at:], g)
					if j < 0 {
						t.Errorf("event %d %q never was after %d", i, g, at)
						continue
					}
					at += j
				}
				if got[len(got)-1] != set() {
					t.Errorf("last %q want %q", got[len(got)-1], set())
				}
				if s.get("stale") != 0 || s.get("waiting") != 0 {
					t.Error(s.all())
				}
				in.Stop()
				close(stop)
				<-done
			})
		})
	}
}
