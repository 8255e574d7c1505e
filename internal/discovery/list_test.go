package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// fill puts n keys with values of a size under a prefix.
func fill(e *etcdtest.Etcd, prefix string, n, size int) {
	all := make(map[string]string, n)
	for i := range n {
		value := fmt.Sprintf("%08d", i)
		all[fmt.Sprintf("%s%08d", prefix, i)] = value + strings.Repeat("x", max(0, size-len(value)))
	}
	e.PutAll(all)
	e.Put("/other", "") // a watch begins with the last revision, and brings it again
}

func TestList_MakesHeadwayOverThinLinks(t *testing.T) {
	for _, test := range []struct{ n, bytes int }{{6000, 500_000}, {6000, 50_000}, {25_000, 50_000}} {
		n, bytes := test.n, test.bytes
		virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
			fill(e, "/s/", n, 505)
			e.SetLinks(etcdtest.Link{RTT: 10 * time.Millisecond, BytesPerSecond: bytes})
			f := connect(t, e).follow(t, "/s/")
			ideal := time.Duration(float64(n*(505+30)) / float64(bytes) * float64(time.Second))
			after(ideal + ideal/5 + time.Second)
			if got := f.take(); len(got) == 0 || got[len(got)-1] != fmt.Sprint(n) {
				t.Errorf("%d B/s: %q after %v", bytes, got, ideal)
			}
			if sent := e.RangeBytes(); sent > int64(n)*600 {
				t.Errorf("%d B/s: %d bytes", bytes, sent)
			}
		})
	}
}

func TestList_KeepsThePagesThatWereRead(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		fill(e, "/s/", 60_000, 505)
		e.SetLinks(etcdtest.Link{BytesPerSecond: 1_000_000}) // 34 s in all, if nothing breaks
		began := time.Now()
		f := connect(t, e).follow(t, "/s/")
		for range 30 {
			after(10 * time.Second)
			e.Member(0).Break()
		}
		if got := f.take(); len(got) == 0 || got[len(got)-1] != "60000" {
			t.Errorf("%q after five minutes", got)
		}
		if took := f.times[0].Sub(began); took > 70*time.Second {
			t.Errorf("known after %v and %d pages", took, e.Count("Range"))
		}
	})
}

func TestFleetThatListsTogether_IsServedInTime(t *testing.T) {
	const clients, size, speed = 60, 10_000, 5_000_000
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{RangeBytesPerSecond: speed}}, func(t *testing.T, e *etcdtest.Etcd) {
		fill(e, "/s/", size, 100)
		var all []*followed
		for range clients {
			all = append(all, connect(t, e).follow(t, "/s/"))
		}
		bytes := clients * int64(size) * (100 + 8 + 3 + 20)
		ideal := time.Duration(float64(bytes) / speed * float64(time.Second))
		after(2*ideal + 5*time.Second)
		for _, f := range all {
			if len(f.times) != 1 || f.set.Len() != size {
				t.Fatalf("%d sets, the last one of %d, %v", len(f.times), f.set.Len(), f.err)
			}
		}
		if n := e.RangeBytes(); n > bytes*3/2 {
			t.Errorf("%d bytes instead of %d", n, bytes)
		}
		e.Stop()
		after(time.Second)
		e.Start()
		began := time.Now()
		after(2*ideal + 5*time.Second)
		for _, f := range all {
			if f.said("interrupted") != 1 || f.said("resumed") < 1 || f.set.Len() != size {
				t.Fatalf("not back %v after the restart: %q\n%s", time.Since(began), f.take(), strings.Join(f.lines, "\n"))
			}
		}
		if n := e.RangeBytes(); n > 2*bytes*3/2 {
			t.Errorf("%d bytes instead of %d", n, 2*bytes)
		}
	})
}

func TestSmallMessageLimit_IsListedInSmallPages(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		fill(e, "/s/", 3000, 1000)
		c := connect(t, e, func(_ *etcd.Config, o *clientv3.Config) {
			o.MaxCallRecvMsgSize = 100_000
			o.MaxCallSendMsgSize = 50_000
		})
		f := c.follow(t, "/s/")
		after(time.Second)
		f.are(t, "3000")
		pages := e.Count("Range")
		if pages > 100 {
			t.Errorf("%d pages", pages)
		}
		e.Member(0).Break()
		after(2 * time.Second)
		if again := e.Count("Range") - pages; again > 60 {
			t.Errorf("%d pages again", again)
		}
		e.Put("/t/1", strings.Repeat("x", 200_000))
		f = c.follow(t, "/t/")
		after(time.Second)
		f.are(t, "error")
		if !etcd.TooLarge(f.err) {
			t.Error(f.err)
		}
	})
}

func TestCompactionBetweenPages_BeginsAgain(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		fill(e, "/s/", pageMost+10, 10)
		pages, compactions := 0, 2
		e.Set(func(s *etcdtest.Settings) {
			s.Delay = func(_ int, method string, req any) time.Duration {
				if r, ok := req.(*pb.RangeRequest); ok && r.Limit > 0 && r.Revision > 0 {
					if pages++; pages <= compactions {
						e.Put("/s/0", fmt.Sprint(pages))
						_ = e.Compact(e.Revision())
					}
				}
				return 0
			}
		})
		c := connect(t, e)
		f := c.follow(t, "/s/")
		after(5 * time.Second)
		f.are(t, fmt.Sprint(pageMost+11))
		pages, compactions = 0, 2
		if values, err := Values(t.Context(), c.conn, "/s/"); err != nil || len(values) != pageMost+11 {
			t.Errorf("%d values, %v", len(values), err)
		}
		pages, compactions = 0, 100
		if _, err := Values(t.Context(), c.conn, "/s/"); !errors.Is(err, rpctypes.ErrCompacted) || pages != valuesAttempts {
			t.Errorf("%v after %d attempts", err, pages)
		}
	})
}

// No set is of two stores, and nobody hears of a revision that is in none.
func TestStoreReplacedBetweenPages_BeginsAgain(t *testing.T) {
	for name, replace := range map[string]func(e *etcdtest.Etcd){
		"wiped":    func(e *etcdtest.Etcd) { e.Wipe(true); fill(e, "/s/", 50, 10) },
		"overtook": func(e *etcdtest.Etcd) { e.Wipe(false); change(e, 20); fill(e, "/s/", 50, 10) },
		"older":    func(e *etcdtest.Etcd) { e.Restore(e.Revision()-2, true) },
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
				fill(e, "/s/", pageMost+5, 10)
				change(e, 5)
				var once sync.Once
				e.Set(func(s *etcdtest.Settings) {
					s.Delay = func(_ int, method string, req any) time.Duration {
						if r, ok := req.(*pb.RangeRequest); ok && r.Revision > 0 {
							once.Do(func() { replace(e) })
						}
						return 0
					}
				})
				c := connect(t, e)
				f := c.follow(t, "/s/")
				after(10 * time.Second)
				f.are(t, fmt.Sprint(e.CountKeys("/s/")))
			})
		})
	}
}

// change writes a key n times.
func change(e *etcdtest.Etcd, n int) {
	for i := range n {
		e.Put("/s/changed", fmt.Sprint(i))
	}
}

func TestCompactionFasterThanPages_IsOutgrown(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		fill(e, "/s/", 3*pageMost, 10)
		e.Set(func(s *etcdtest.Settings) {
			s.Delay = func(_ int, method string, req any) time.Duration {
				if r, ok := req.(*pb.RangeRequest); ok && r.Revision > 0 {
					e.Put("/other", "")
					_ = e.Compact(e.Revision())
				}
				return 0
			}
		})
		f := connect(t, e).follow(t, "/s/")
		after(10 * time.Second)
		f.are(t, fmt.Sprint(3*pageMost))
	})
}

func TestValues_AreInTheOrderOfTheKeys(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		c := connect(t, e)
		if values, err := Values(t.Context(), c.conn, "/s/"); err != nil || values == nil || len(values) != 0 {
			t.Errorf("%#v, %v", values, err)
		}
		e.PutAll(map[string]string{"/s/2": "a", "/s/1": "b", "/s/3": "a", "/t": "c"})
		if values, err := Values(t.Context(), c.conn, "/s/"); err != nil || !slices.Equal(values, []string{"b", "a", "a"}) {
			t.Errorf("%v, %v", values, err)
		}
		fill(e, "/s/", 2*pageMost, 10)
		if values, err := Values(t.Context(), c.conn, ""); err != nil || len(values) != 2*pageMost+5 {
			t.Errorf("%d values, %v", len(values), err)
		}
		e.Member(0).Freeze()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := Values(ctx, c.conn, "/s/"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		e.Member(0).Thaw()
		e.Stop()
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := Values(ctx, c.conn, "/s/"); etcd.Reason(err) != "connection refused" {
			t.Error(err)
		}
		synctest.Wait()
	})
}
