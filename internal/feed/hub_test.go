package feed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// virtually runs a story on a cluster in a bubble.
func virtually(t *testing.T, config etcdtest.Config, story func(t *testing.T, e *etcdtest.Etcd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { story(t, etcdtest.Start(t, config)) })
}

// connect returns a Hub on a client of the cluster. Both end with the test.
func connect(t *testing.T, e *etcdtest.Etcd, change ...func(*etcd.Config, *clientv3.Config)) *Hub {
	t.Helper()
	config := etcd.Config{Timeout: 3 * time.Second}
	client := clientv3.Config{Endpoints: e.Endpoints(), Logger: zap.NewNop()}
	for _, c := range change {
		c(&config, &client)
	}
	conn := etcd.NewConn(config)
	client.DialOptions = append(append(client.DialOptions, e.DialOptions()...), grpc.WithConnectParams(grpc.ConnectParams{
		MinConnectTimeout: 6 * time.Second, Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 1500 * time.Millisecond},
	}), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}))
	client.DialOptions = append(client.DialOptions, conn.DialOptions()...)
	return open(t, conn, client)
}

// foreign returns a Hub on a client that somebody else dialled.
func foreign(t *testing.T, e *etcdtest.Etcd, change ...func(*clientv3.Config)) *Hub {
	t.Helper()
	client := clientv3.Config{
		Endpoints: e.Endpoints(), Logger: zap.NewNop(), DialOptions: e.DialOptions(),
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
	}
	for _, c := range change {
		c(&client)
	}
	return open(t, etcd.NewConn(etcd.Config{Timeout: 3 * time.Second}), client)
}

func open(t *testing.T, conn *etcd.Conn, client clientv3.Config) *Hub {
	t.Helper()
	cli, err := clientv3.New(client)
	if err != nil {
		t.Fatal(err)
	}
	conn.Open(cli)
	hub := New(conn)
	t.Cleanup(func() {
		hub.Close()
		conn.Close()
		_ = cli.Close()
	})
	return hub
}

func prefixed(prefix string, from int64) Interest {
	return Interest{Key: prefix, End: clientv3.GetPrefixRangeEnd(prefix), From: from}
}

// follower is an owner that watches again whenever history goes on, and keeps
// what it hears.
type follower struct {
	all    []string
	keys   map[string]string
	last   Batch
	errs   []error
	stood  int
	silent int
}

// follow follows a range until the test ends. Read it after synctest.Wait alone.
func follow(t *testing.T, hub *Hub, in Interest) *follower {
	f := &follower{keys: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		for f.once(ctx, hub, &in) && ctx.Err() == nil {
		}
	}()
	return f
}

// once follows one watch, and reports whether to watch again.
func (f *follower) once(ctx context.Context, hub *Hub, in *Interest) bool {
	w := hub.Watch(ctx, *in)
	defer w.End()
	stood := false
	for {
		select {
		case <-w.News():
		case <-ctx.Done():
			return false
		}
		b := w.Take()
		for _, event := range b.Events {
			f.all = append(f.all, fmt.Sprint(string(event.Kv.Key), "=", string(event.Kv.Value)))
			f.keys[string(event.Kv.Key)] = string(event.Kv.Value)
			if event.Kv.ModRevision <= in.From {
				f.errs = append(f.errs, fmt.Errorf("revision %d comes twice", event.Kv.ModRevision))
			}
		}
		if n := len(b.Events); n > 0 {
			in.From = b.Events[n-1].Kv.ModRevision
		}
		if b.Stands && !stood {
			stood = true
			f.stood++
		}
		if b.Silent && !f.last.Silent {
			f.silent++
		}
		f.last = b
		if b.Err != nil {
			f.errs = append(f.errs, b.Err)
			return b.Resumable
		}
	}
}

func (f *follower) heard() string { return strings.Join(f.all, " ") }

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWatches_ShareOneStream(t *testing.T) {
	virtually(t, etcdtest.Config{MaxStreams: 20}, func(t *testing.T, e *etcdtest.Etcd) {
		hub := connect(t, e)
		var all []*follower
		for i := range 25 {
			all = append(all, follow(t, hub, prefixed(fmt.Sprintf("/p%02d/", i), e.Revision())))
			all = append(all, follow(t, hub, Interest{Key: fmt.Sprintf("/k%02d", i), From: e.Revision()}))
		}
		after(time.Second)
		for i := range 25 {
			e.Put(fmt.Sprintf("/p%02d/a", i), "1")
			e.Put(fmt.Sprintf("/k%02d", i), "2")
			e.Delete(fmt.Sprintf("/k%02d", i))
		}
		after(time.Second)
		for i := range 25 {
			if got, want := all[2*i].heard(), fmt.Sprintf("/p%02d/a=1", i); got != want {
				t.Errorf("prefix %d: %q", i, got)
			}
			if got, want := all[2*i+1].heard(), fmt.Sprintf("/k%02d=2 /k%02d=", i, i); got != want {
				t.Errorf("key %d: %q", i, got)
			}
		}
		if n := e.Count("Watch"); n != 1 {
			t.Errorf("%d streams", n)
		}
		after(time.Minute)
		if n := e.Count("WatchProgress"); n < 6 || n > 8 {
			t.Errorf("%d signs of life were asked for in a minute", n)
		}
		if n := e.Count("Range"); n != 0 {
			t.Errorf("%d reads with one endpoint", n)
		}
	})
}

func TestStream_EndsWithTheLastWatch(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		hub := connect(t, e)
		for range 3 {
			a := hub.Watch(t.Context(), prefixed("/a/", 1))
			ctx, cancel := context.WithCancel(t.Context())
			b := hub.Watch(ctx, prefixed("/b/", 1))
			after(time.Second)
			a.End()
			a.End()
			after(time.Second)
			e.Put("/a/1", "1")
			rev := e.Put("/b/1", "1")
			after(time.Second)
			if got := a.Take(); len(got.Events) != 0 {
				t.Errorf("a watch that has ended brings %v", got)
			}
			if got := b.Take(); len(got.Events) == 0 || got.Events[len(got.Events)-1].Kv.ModRevision != rev {
				t.Errorf("the other one brings %v", got)
			}
			cancel()
			after(time.Second)
			if hub.stream != nil {
				t.Error("the stream is still there")
			}
		}
		if n := e.Count("Watch"); n != 3 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestThreeHundredKeys_StandAfterOneRoundTrip(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetLinks(etcdtest.Link{RTT: 100 * time.Millisecond})
		hub := connect(t, e)
		first := hub.Watch(t.Context(), Interest{Key: "/first", From: 1})
		<-first.News()
		began := time.Now()
		var all []*Watch
		for i := range 300 {
			all = append(all, hub.Watch(t.Context(), Interest{Key: fmt.Sprintf("/services/%03d", i), From: 1}))
		}
		for _, w := range all {
			<-w.News()
			if b := w.Take(); !b.Stands || b.Err != nil {
				t.Fatal(b)
			}
		}
		if took := time.Since(began); took > 110*time.Millisecond {
			t.Errorf("they took %v", took)
		}
	})
}

func TestSlowOwner_HoldsUpNobodyAndGrowsNoQueue(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		hub := connect(t, e)
		slow := hub.Watch(t.Context(), prefixed("/s/", 1))
		quick := follow(t, hub, prefixed("/s/", 1))
		after(time.Second)
		for i := range 50_000 {
			e.Put(fmt.Sprintf("/s/%d", i%100), fmt.Sprint(i))
			if i%50 == 0 {
				after(time.Millisecond)
			}
		}
		after(time.Second)
		if len(quick.all) != 50_000 {
			t.Errorf("the quick one heard of %d changes", len(quick.all))
		}
		b := slow.Take()
		if len(b.Events) > mostPending {
			t.Errorf("%d events wait", len(b.Events))
		}
		keys := map[string]string{}
		if !slices.IsSortedFunc(b.Events, func(a, b *mvccpb.Event) int { return int(a.Kv.ModRevision - b.Kv.ModRevision) }) {
			t.Error("they are not in order")
		}
		for _, event := range b.Events {
			keys[string(event.Kv.Key)] = string(event.Kv.Value)
		}
		for i := 49_900; i < 50_000; i++ {
			if got := keys[fmt.Sprintf("/s/%d", i%100)]; got != fmt.Sprint(i) {
				t.Fatalf("key %d is %q", i%100, got)
			}
		}
	})
}

func TestBrokenStream_IsTold(t *testing.T) {
	for _, members := range []int{1, 3} {
		virtually(t, etcdtest.Config{Members: members}, func(t *testing.T, e *etcdtest.Etcd) {
			hub := connect(t, e)
			f := follow(t, hub, prefixed("/s/", 1))
			after(5 * time.Second)
			for i := range e.Members() {
				if e.Member(i).Connections() > 0 {
					e.Member(i).Break()
				}
				if members > 1 {
					after(20 * time.Second)
				}
			}
			e.Put("/s/1", "a")
			after(5 * time.Second)
			if members == 1 {
				if len(f.errs) != 1 || f.last.Resumable {
					t.Errorf("%v, resumable %v", f.errs, f.last.Resumable)
				}
			} else if f.heard() != "/s/1=a" || f.silent != 0 {
				t.Errorf("%v: %v", f.heard(), f.errs)
			}
		})
	}
}

func TestPrefixThatIsRefused_LeavesTheOthersAlone(t *testing.T) {
	for _, proxy := range []bool{false, true} {
		virtually(t, etcdtest.Config{Settings: etcdtest.Settings{Proxy: proxy}}, func(t *testing.T, e *etcdtest.Etcd) {
			e.SetUser("root", "r")
			e.SetUser("u", "p", etcdtest.Read("/a/"), etcdtest.Read("/c/"))
			e.EnableAuth()
			hub := connect(t, e, func(c *etcd.Config, _ *clientv3.Config) { c.Username, c.Password = "u", "p" })
			a, b := follow(t, hub, prefixed("/a/", 1)), follow(t, hub, prefixed("/b/", 1))
			c := follow(t, hub, prefixed("/c/", 1))
			after(10 * time.Second)
			e.Put("/a/1", "1")
			e.Put("/b/1", "1")
			e.Put("/c/1", "1")
			after(time.Minute)
			if a.heard() != "/a/1=1" || c.heard() != "/c/1=1" || b.heard() != "" {
				t.Errorf("proxy %v: %v, %v, %v", proxy, a.heard(), b.heard(), c.heard())
			}
			if len(b.errs) == 0 || etcd.Reason(b.errs[len(b.errs)-1]) != "permission" || b.last.Resumable {
				t.Errorf("proxy %v: %v", proxy, b.errs)
			}
			for _, f := range []*follower{a, c} {
				for _, err := range f.errs {
					if etcd.Reason(err) == "permission" {
						t.Errorf("proxy %v: another one hears %v", proxy, err)
					}
				}
			}
			streams := e.Count("Watch")
			if !proxy && streams != 1 {
				t.Errorf("%d streams", streams)
			}
			d := follow(t, hub, prefixed("/a/", e.Revision()))
			after(time.Minute)
			e.Put("/a/2", "2")
			after(time.Second)
			if d.heard() != "/a/2=2" || e.Count("Watch") > streams+1 {
				t.Errorf("proxy %v: %v, %d streams more", proxy, d.heard(), e.Count("Watch")-streams)
			}
		})
	}
}

func TestTokenThatExpires_IsReplaced(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetUser("root", "r")
		e.SetUser("u", "p", etcdtest.Read("/"))
		e.EnableAuth()
		hub := connect(t, e, func(c *etcd.Config, _ *clientv3.Config) { c.Username, c.Password = "u", "p" })
		a := follow(t, hub, prefixed("/a/", 1))
		after(time.Minute)
		for range 3 {
			e.ForgetTokens()
			b := follow(t, hub, prefixed("/b/", e.Revision()))
			after(5 * time.Second)
			e.Put("/a/1", "1")
			e.Put("/b/1", "1")
			after(time.Second)
			if b.heard() != "/b/1=1" {
				t.Errorf("%q %v", b.heard(), b.errs)
			}
		}
		if a.heard() != "/a/1=1 /a/1=1 /a/1=1" || e.Count("Authenticate") != 4 {
			t.Errorf("%q, %d authentications", a.heard(), e.Count("Authenticate"))
		}
	})
}

func TestThreeHundredKeys_StandAgainAfterABreak(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetLinks(etcdtest.Link{RTT: 100 * time.Millisecond})
		hub := connect(t, e)
		var all []*follower
		for i := range 300 {
			all = append(all, follow(t, hub, Interest{Key: fmt.Sprintf("/services/%03d", i), From: e.Revision()}))
		}
		after(5 * time.Second)
		serving(t, e).Break()
		e.Put("/services/299", "missed")
		after(900 * time.Millisecond)
		for i, f := range all {
			if f.stood != 2 || len(f.errs) != 1 {
				t.Fatalf("%d stood %d times: %v", i, f.stood, f.errs)
			}
		}
		if got := all[299].heard(); got != "/services/299=missed" {
			t.Errorf("the last one heard %q", got)
		}
	})
}

func TestClosedHub_LeavesNothing(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		hub := connect(t, e)
		for _, fault := range []func(){func() {}, e.Member(0).Freeze} {
			fault()
			w := hub.Watch(t.Context(), prefixed("/s/", 1))
			after(time.Second)
			w.End()
		}
		w := hub.Watch(t.Context(), prefixed("/s/", 1))
		after(time.Second)
		began := time.Now()
		hub.Close()
		if time.Since(began) > 0 {
			t.Errorf("it took %v", time.Since(began))
		}
		late := hub.Watch(t.Context(), prefixed("/s/", 1))
		late.End()
		w.End()
	})
}
