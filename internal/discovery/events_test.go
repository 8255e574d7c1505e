package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/metrics"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/meter"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"
)

func TestEvents_OneInOneOut(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		fill(e, "/s/", 1000, 20)
		f := connect(t, e).follow(t, "/s/")
		after(time.Second)
		f.are(t, "1000")
		for i := range 200 {
			e.Put(fmt.Sprintf("/s/n%d", i), fmt.Sprint(i))
			after(time.Millisecond)
			f.are(t, fmt.Sprint(1001+i))
		}
	})
}

func TestBurst_IsPublishedInTime(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		c := connect(t, e)
		var all []time.Time
		last := ""
		w := Watch(t.Context(), c.conn, c.hub, "/s/", log.NewNopLogger(), func(set instances.Set) {
			all = append(all, time.Now())
			last = set.Strings()[set.Len()-1]
			time.Sleep(7 * time.Millisecond) // it takes longer than the next event
		}, func(err error) { t.Error(err) })
		defer w.Stop()
		e.Put("/s/1", "0")
		after(time.Second)
		for i := range 23_000 {
			e.Put("/s/1", fmt.Sprintf("%08d", i))
			time.Sleep(time.Second / 23_000)
		}
		after(time.Second)
		if last != "00022999" {
			t.Errorf("the last set is %q", last)
		}
		for i := 2; i < len(all); i++ {
			if gap := all[i].Sub(all[i-1]); gap > publishEvery+20*time.Millisecond {
				t.Errorf("nothing for %v", gap)
			}
		}
		if len(all) < 18 || len(all) > 200 {
			t.Errorf("%d sets in a second", len(all))
		}
	})
}

func TestSlowSubscriber_HoldsUpNoOtherPrefix(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		c := connect(t, e)
		var last atomic.Value
		slow := Watch(t.Context(), c.conn, c.hub, "/s/", log.NewNopLogger(), func(set instances.Set) {
			last.Store(set.Len())
			time.Sleep(time.Minute)
		}, func(err error) { t.Error(err) })
		quick := c.follow(t, "/s/")
		after(time.Second)
		quick.are(t, "")
		for i := range 5000 {
			e.Put(fmt.Sprintf("/s/%d", i%3000), fmt.Sprint(i%3000))
			after(time.Millisecond)
		}
		if got := quick.take(); len(got) != 5000 || got[len(got)-1] != "3000" {
			t.Errorf("%d sets", len(got))
		}
		after(3 * time.Minute)
		if last.Load() != 3000 {
			t.Errorf("the slow one knows %v", last.Load())
		}
		slow.Stop()
	})
}

func TestQuietPrefix_StaysQuietWhileEtcdIsSlow(t *testing.T) {
	for _, link := range []etcdtest.Link{{RTT: 1300 * time.Millisecond}, {RTT: 2500 * time.Millisecond}} {
		for _, members := range []int{1, 3} {
			virtually(t, etcdtest.Config{Members: members}, func(t *testing.T, e *etcdtest.Etcd) {
				e.SetLinks(link)
				e.Put("/s/1", "a")
				f := connect(t, e).follow(t, "/s/")
				after(time.Minute)
				e.Forget()
				after(10 * time.Minute)
				f.are(t, "a")
				if n := e.Count("Range"); n > 120 || e.Count("Watch") > 0 || len(f.lines) > 0 {
					t.Errorf("%v, %d members: %d reads, %d streams, log %q", link, members, n, e.Count("Watch"), f.lines)
				}
			})
		}
	}
}

func TestStalledStore_IsLeftByEveryPrefix(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, e *etcdtest.Etcd) {
			var all []*followed
			for range 6 {
				c := connect(t, e)
				if foreign {
					c = foreignClient(t, e)
				}
				all = append(all, c.follow(t, "/s/"))
			}
			after(20 * time.Second)
			e.Member(0).Stall()
			e.Put("/s/1", "a")
			after(15 * time.Second)
			for i, f := range all {
				if got := f.take(); !slices.Equal(got, []string{"", "a"}) {
					t.Errorf("foreign %v: %d knows %q: %q", foreign, i, got, f.lines)
				}
			}
			after(25 * time.Second)
			e.Put("/s/1", "b")
			after(time.Second)
			e.Member(0).Unstall()
			after(time.Minute)
			for i, f := range all {
				if got := f.take(); !slices.Equal(got, []string{"b"}) {
					t.Errorf("foreign %v: %d then knows %q", foreign, i, got)
				}
			}
		})
	}
}

// foreignClient is on a client that somebody else dialled.
func foreignClient(t *testing.T, e *etcdtest.Etcd) client {
	return open(t, etcd.NewConn(etcd.Config{Timeout: 3 * time.Second}), clientv3.Config{
		Endpoints: e.Endpoints(), Logger: zap.NewNop(), DialOptions: e.DialOptions(),
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
	})
}

func TestOutageBehindAProxy_IsTold(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{Proxy: true}}, func(t *testing.T, e *etcdtest.Etcd) {
		e.Put("/s/1", "a")
		f := connect(t, e).follow(t, "/s/")
		after(time.Minute)
		f.are(t, "a")
		e.Member(0).Freeze()
		after(15 * time.Second)
		f.are(t, "error")
		e.Member(0).Thaw()
		after(5 * time.Second)
		f.are(t, "a")
	})
}

func TestPrefixThatBeginsWhileEtcdIsAway_HearsWhy(t *testing.T) {
	for name, want := range map[string]string{"down": "connection refused", "frozen": ""} {
		virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
			e.Put("/s/1", "a")
			if name == "down" {
				e.Stop()
			} else {
				e.Member(0).Freeze()
			}
			c := connect(t, e)
			var all []*followed
			for range 40 { // more than may list at one time
				all = append(all, c.follow(t, "/s/"))
			}
			after(3 * time.Second) // the request timeout
			for _, f := range all {
				if want == "" {
					f.are(t)
				} else if f.are(t, "error"); etcd.Reason(f.err) != want {
					t.Error(f.err)
				}
			}
			after(12 * time.Second)
			e.Start()
			e.Member(0).Thaw()
			after(5 * time.Second)
			for _, f := range all {
				if got := f.take(); got[len(got)-1] != "a" {
					t.Errorf("%s: %q", name, got)
				}
			}
		})
	}
}

// clientv3's own Watcher cannot live in a bubble: it has a channel of the package.
func TestWrappedClient_IsFollowedThroughItsWatcher(t *testing.T) {
	e := etcdtest.Start(t, etcdtest.Config{})
	cli, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints(), Logger: zap.NewNop(), DialOptions: e.DialOptions()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	cli.KV = namespace.NewKV(cli.KV, "/ns")
	cli.Watcher = namespace.NewWatcher(cli.Watcher, "/ns")
	cli.Lease = namespace.NewLease(cli.Lease, "/ns")
	c := openClient(t, etcd.NewConn(etcd.Config{Timeout: 3 * time.Second}), cli)
	e.Put("/ns/s/1", "a")
	e.Put("/s/1", "other")
	f, g := c.follow(t, "/s/"), c.follow(t, "/g/")
	eventually(t, f, "a")
	eventually(t, g, "")
	for e.Count("WatchProgress") == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if e.Count("Watch") != 1 {
		t.Errorf("%d streams", e.Count("Watch"))
	}
	e.Put("/ns/s/1", "b")
	eventually(t, f, "b")
	e.Stop()
	time.Sleep(time.Second)
	e.Put("/ns/s/1", "c")
	e.Start()
	eventually(t, f, "c")
	for range 20 { // watches that begin, and end
		w := c.hub.Watch(t.Context(), feed.Interest{Key: "/x"})
		w.End()
	}
	if f.err != nil || g.err != nil {
		t.Error(f.err, g.err)
	}
}

// eventually waits until a prefix is known to hold something.
func eventually(t *testing.T, f *followed, want string) {
	t.Helper()
	for range 1000 {
		f.mu.Lock()
		got := strings.Join(f.set.Strings(), " ")
		known := len(f.times) > 0
		f.mu.Unlock()
		if known && got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not %q: %q", want, f.lines)
}

func TestMetrics_SayHowAPrefixIs(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		watched, stale, silent, sets := &gauge{}, &gauge{}, &gauge{}, &gauge{}
		reasons := &counter{}
		m := &meter.Metrics{
			PrefixesWatched: watched, PrefixesStale: stale, Instances: sets, SilentSeconds: silent, Interruptions: reasons,
		}
		are := func(when string, w, s, quiet float64) {
			t.Helper()
			if watched.now() != w || stale.now() != s || silent.now() < quiet-1 || silent.now() > quiet+1 {
				t.Errorf("%s: %v watched, %v stale, silent for %v s", when, watched.now(), stale.now(), silent.now())
			}
		}
		e.Put("/s/1", "a")
		c := connect(t, e, func(c *etcd.Config, _ *clientv3.Config) { c.Metrics = m })
		f := &followed{}
		w := Watch(context.Background(), c.conn, c.hub, "/s/", log.NewNopLogger(), f.update, f.fail)
		after(time.Minute)
		are("quiet", 1, 0, 0)
		e.Stop()
		after(time.Minute)
		are("away", 1, 1, 60)
		e.Start()
		after(5 * time.Second)
		are("back", 1, 0, 0)
		if sets.now() != 1 || sets.label != "prefix /s/" || reasons.n != 1 || reasons.label != "reason connection lost" {
			t.Errorf("%v %q, %+v", sets.now(), sets.label, reasons)
		}
		e.Stop()
		after(time.Minute)
		w.Stop()
		synctest.Wait()
		are("over", 0, 0, 0)
	})
}

type gauge struct {
	mu    sync.Mutex
	value float64
	label string
}

func (g *gauge) change(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do()
}

func (g *gauge) now() (v float64) { g.change(func() { v = g.value }); return v }

func (g *gauge) With(l ...string) metrics.Gauge {
	g.change(func() { g.label = strings.Join(l, " ") })
	return g
}
func (g *gauge) Set(v float64) { g.change(func() { g.value = v }) }
func (g *gauge) Add(v float64) { g.change(func() { g.value += v }) }

type counter struct {
	n     float64
	label string
}

func (c *counter) With(l ...string) metrics.Counter { c.label = strings.Join(l, " "); return c }
func (c *counter) Add(v float64)                    { c.n += v }
