package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/instances"
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

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// client is what a prefix is watched with.
type client struct {
	conn *etcd.Conn
	hub  *feed.Hub
}

// connect returns a client of the cluster. It ends with the test.
func connect(t testing.TB, e *etcdtest.Etcd, change ...func(*etcd.Config, *clientv3.Config)) client {
	t.Helper()
	config := etcd.Config{Timeout: 3 * time.Second}
	options := clientv3.Config{Endpoints: e.Endpoints(), Logger: zap.NewNop()}
	for _, c := range change {
		c(&config, &options)
	}
	conn := etcd.NewConn(config)
	options.DialOptions = append(append(options.DialOptions, e.DialOptions()...), grpc.WithConnectParams(grpc.ConnectParams{
		MinConnectTimeout: 6 * time.Second,
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 1500 * time.Millisecond},
	}), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}))
	options.DialOptions = append(options.DialOptions, conn.DialOptions()...)
	return open(t, conn, options)
}

func open(t testing.TB, conn *etcd.Conn, options clientv3.Config) client {
	t.Helper()
	cli, err := clientv3.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return openClient(t, conn, cli)
}

func openClient(t testing.TB, conn *etcd.Conn, cli *clientv3.Client) client {
	conn.Open(cli)
	hub := feed.New(conn)
	t.Cleanup(func() {
		hub.Close()
		conn.Close()
	})
	return client{conn, hub}
}

func withUser(c *etcd.Config, _ *clientv3.Config) { c.Username, c.Password = "u", "p" }

// followed is a prefix that is watched, and what its subscribers heard.
type followed struct {
	mu    sync.Mutex
	all   []string // since the last take
	err   error    // the last
	lines []string // of the log
	set   instances.Set
	times []time.Time
}

// follow watches a prefix until the test ends.
func (c client) follow(t testing.TB, prefix string) *followed {
	f := &followed{}
	w := Watch(context.Background(), c.conn, c.hub, prefix, log.LoggerFunc(f.log), f.update, f.fail)
	t.Cleanup(w.Stop)
	return f
}

func (f *followed) update(set instances.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set = set
	f.times = append(f.times, time.Now())
	if set.Len() > 20 {
		f.all = append(f.all, fmt.Sprint(set.Len()))
		return
	}
	f.all = append(f.all, strings.Join(set.Strings(), " "))
}

func (f *followed) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.all = append(f.all, "error")
}

func (f *followed) log(keyvals ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, fmt.Sprint(keyvals...))
	return nil
}

// said is how many lines of the log hold a text.
func (f *followed) said(text string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range f.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (f *followed) logged() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.lines, "\n")
}

func (f *followed) take() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, f.all = f.all, nil
	return all
}

// are fails unless subscribers heard that since the last call.
func (f *followed) are(t *testing.T, want ...string) {
	t.Helper()
	if got := f.take(); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q\n%s", got, want, f.logged())
	}
}

func TestPrefix_FollowsWhatChanges(t *testing.T) {
	for _, prefix := range []string{"/s/", ""} {
		virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
			e.Put("/s/1", "a")
			f := connect(t, e).follow(t, prefix)
			after(time.Second)
			f.are(t, "a")
			for i, step := range []struct {
				change func()
				want   []string
			}{
				{func() { e.Put("/s/2", "b") }, []string{"a b"}},
				{func() { e.Put("/s/3", "a") }, []string{"a b"}},
				{func() { e.Delete("/s/1") }, []string{"a b"}},
				{func() { e.Delete("/s/3") }, []string{"b"}},
				{func() { e.DeleteAll("/s/") }, []string{""}},
				{func() { e.PutAll(map[string]string{"/s/1": "x", "/s/2": "y"}) }, []string{"x y"}},
			} {
				step.change()
				after(time.Minute)
				if got := f.take(); !slices.Equal(got, step.want) {
					t.Errorf("step %d: %q, want %q", i, got, step.want)
				}
			}
			if e.Count("Range") != 1 || e.Count("Watch") != 1 || len(f.lines) > 0 {
				t.Errorf("%d lists, %d streams in six quiet minutes, log %q", e.Count("Range"), e.Count("Watch"), f.lines)
			}
		})
	}
}

func TestOutage_IsToldAndOver(t *testing.T) {
	for name, fault := range map[string][2]func(*etcdtest.Member){
		"down":    {(*etcdtest.Member).Down, (*etcdtest.Member).Up},
		"silent":  {(*etcdtest.Member).Silence, (*etcdtest.Member).Speak},
		"frozen":  {(*etcdtest.Member).Freeze, (*etcdtest.Member).Thaw},
		"no lead": {(*etcdtest.Member).LoseLeader, (*etcdtest.Member).FindLeader},
	} {
		for _, members := range []int{1, 3} {
			for _, at := range []time.Duration{0, 900 * time.Millisecond, 5 * time.Second, 10900 * time.Millisecond} {
				t.Run(fmt.Sprint(name, members, at), func(t *testing.T) {
					virtually(t, etcdtest.Config{Members: members}, func(t *testing.T, e *etcdtest.Etcd) {
						e.Put("/s/1", "a")
						f := connect(t, e).follow(t, "/s/")
						after(at + time.Millisecond)
						f.are(t, "a")
						for _, m := range e.Members() {
							fault[0](m)
						}
						after(4400 * time.Millisecond)
						f.are(t)
						after(10400 * time.Millisecond)
						f.are(t, "error")
						after(12 * time.Minute)
						if got := f.take(); slices.ContainsFunc(got, func(s string) bool { return s != "error" }) {
							t.Errorf("%q while etcd is away", got)
						}
						if name == "down" && etcd.Reason(f.err) != "connection refused" || name == "no lead" && etcd.Reason(f.err) != "no leader" {
							t.Errorf("told %v", f.err)
						}
						e.Put("/s/2", "b")
						for _, m := range e.Members() {
							fault[1](m)
						}
						after(5 * time.Second)
						if got := f.take(); len(got) == 0 || got[len(got)-1] != "a b" {
							t.Errorf("%q after it", got)
						}
						after(time.Minute)
						f.are(t)
						if f.said("watch interrupted") != 3 || f.said("watch resumed") != 1 || f.said("failed to retrieve entries") == 0 {
							t.Errorf("log:\n%s", f.logged())
						}
					})
				})
			}
		}
	}
}

func TestShortBreak_IsNotTold(t *testing.T) {
	for _, members := range []int{1, 3} {
		for _, at := range []time.Duration{0, 900 * time.Millisecond, 5 * time.Second, 9500 * time.Millisecond} {
			virtually(t, etcdtest.Config{Members: members}, func(t *testing.T, e *etcdtest.Etcd) {
				e.Put("/s/1", "a")
				f := connect(t, e).follow(t, "/s/")
				after(at + time.Millisecond)
				for range 3 {
					for _, m := range e.Members() {
						m.Down()
					}
					after(5 * time.Second)
					for _, m := range e.Members() {
						m.Up()
					}
					after(5 * time.Second)
				}
				f.are(t, "a")
				if f.said("interrupted") != f.said("resumed") || f.said("interrupted") == 0 {
					t.Errorf("log:\n%s", f.logged())
				}
			})
		}
	}
}

func TestRefusal_IsToldAtOnceAndOver(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetUser("root", "r")
		e.SetUser("u", "p", etcdtest.Read("/s/"), etcdtest.Read("/o/"))
		e.EnableAuth()
		e.Put("/s/1", "a")
		e.Put("/o/1", "o")
		c := connect(t, e, withUser)
		f, o := c.follow(t, "/s/"), c.follow(t, "/o/")
		after(time.Minute)
		f.are(t, "a")
		o.are(t, "o")
		e.SetUser("u", "p", etcdtest.Read("/o/"))
		after(time.Second)
		e.Member(0).Break()
		after(3 * time.Second)
		f.are(t, "error")
		if etcd.Reason(f.err) != "permission" {
			t.Error(f.err)
		}
		after(time.Minute)
		f.are(t)
		o.are(t)
		e.Put("/o/1", "p")
		e.SetUser("u", "p", etcdtest.Read("/s/"), etcdtest.Read("/o/"))
		after(6 * time.Second)
		f.are(t, "a")
		o.are(t, "p")
	})
}

func TestOneMemberOfThree_RestartsWithoutAList(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, e *etcdtest.Etcd) {
		e.Put("/s/1", "a")
		c := connect(t, e)
		var all []*followed
		for range 10 {
			all = append(all, c.follow(t, "/s/"))
		}
		after(30 * time.Second)
		e.Forget()
		for i, m := range e.Members() {
			m.Down()
			e.Put("/s/1", fmt.Sprint(i))
			after(5 * time.Second)
			m.Up()
			after(20 * time.Second)
		}
		for _, f := range all {
			f.are(t, "a", "0", "1", "2")
		}
		if n := e.Count("Range"); n > 25 { // reads of a key
			t.Errorf("%d lists", n)
		}
	})
}

func TestStoreStartsOver_IsNoticed(t *testing.T) {
	for _, members := range []int{1, 3} {
		for _, proxy := range []bool{false, true} {
			for i, writes := range []int{0, 1, 200, 0, 1, 200} { // 200: revisions have overtaken ours
				virtually(t, etcdtest.Config{Members: members, Settings: etcdtest.Settings{Proxy: proxy}}, func(t *testing.T, e *etcdtest.Etcd) {
					for i := range 50 {
						e.Put("/s/1", fmt.Sprint("a", i))
					}
					f := connect(t, e).follow(t, "/s/")
					after(time.Minute)
					f.are(t, "a49")
					since := len(f.lines)
					e.Stop()
					after(time.Second)
					e.Wipe(i < 3)
					e.Start()
					want := ""
					for i := range writes {
						want = fmt.Sprint("b", i)
						e.Put("/s/2", want)
					}
					after(30 * time.Second)
					if got := f.take(); len(got) == 0 || got[len(got)-1] != want || slices.Contains(got, "error") {
						t.Errorf("%d members, proxy %v, %d writes: %q, want %q", members, proxy, writes, got, want)
					}
					if len(f.lines) > since+4 { // one more if the loss was noticed late
						t.Errorf("it takes more than one attempt: %q", f.lines)
					}
				})
			}
		}
	}
}

func TestStoreOfBackup_IsNoticed(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, e *etcdtest.Etcd) {
		e.Put("/s/1", "old")
		rev := e.Revision()
		e.Put("/s/1", "new")
		f := connect(t, e).follow(t, "/s/")
		after(time.Minute)
		e.Stop()
		after(time.Second)
		e.Restore(rev, true)
		e.Start()
		after(30 * time.Second)
		f.are(t, "new", "old")
	})
}

func TestCompactedWhileAway_ListsAgain(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 2}, func(t *testing.T, e *etcdtest.Etcd) {
		e.Put("/s/1", "a")
		f := connect(t, e).follow(t, "/s/")
		after(2 * time.Second)
		for _, m := range e.Members() {
			m.Silence()
		}
		for i := range 50 {
			e.Put("/s/1", fmt.Sprint(i))
		}
		e.Put("/s/2", "b")
		_ = e.Compact(e.Revision())
		for _, m := range e.Members() {
			m.Break()
			m.Speak()
		}
		after(5 * time.Second)
		if got := f.take(); got[0] != "a" || got[len(got)-1] != "49 b" || slices.Contains(got, "error") {
			t.Errorf("%q", got)
		}
	})
}

func TestTwentyStreams_AreEnoughForThirtyPrefixes(t *testing.T) {
	virtually(t, etcdtest.Config{MaxStreams: 20}, func(t *testing.T, e *etcdtest.Etcd) {
		c := connect(t, e)
		var all []*followed
		for i := range 30 {
			e.Put(fmt.Sprintf("/%02d/1", i), "a")
			all = append(all, c.follow(t, fmt.Sprintf("/%02d/", i)))
		}
		after(time.Second)
		for i, f := range all {
			e.Put(fmt.Sprintf("/%02d/1", i), "b")
			after(10 * time.Millisecond)
			f.are(t, "a", "b")
		}
		values, err := Values(t.Context(), c.conn, "/0")
		if err != nil || len(values) != 10 {
			t.Errorf("%v, %v", values, err)
		}
	})
}

func TestWrongPassword_IsToldAtOnceAndOver(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetUser("root", "r")
		e.SetUser("u", "another", etcdtest.Read("/s/"))
		e.EnableAuth()
		e.Put("/s/1", "a")
		f := connect(t, e, withUser).follow(t, "/s/")
		after(time.Second)
		f.are(t, "error")
		if etcd.Reason(f.err) != "password" {
			t.Error(f.err)
		}
		after(10 * time.Minute)
		f.are(t)
		if n := e.Count("Authenticate"); n > 20 || f.said("failed to retrieve") != 1 {
			t.Errorf("%d authentications, log %q", n, f.logged())
		}
		e.SetUser("u", "p", etcdtest.Read("/s/"))
		after(70 * time.Second) // the user is asked about once a minute by then
		f.are(t, "a")
		e.ForgetTokens()
		for _, m := range e.Members() {
			m.Break()
			after(20 * time.Second)
		}
		e.Put("/s/1", "b")
		after(time.Second)
		f.are(t, "b")
	})
}

func TestManyClients_ComeBackTogether(t *testing.T) {
	const clients = 200
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetLinks(etcdtest.Link{RTT: time.Millisecond})
		e.Put("/s/1", "a")
		var all []*followed
		for range clients {
			all = append(all, connect(t, e).follow(t, "/s/"))
		}
		after(30 * time.Second)
		e.Forget()
		e.Member(0).Down()
		e.Put("/s/1", "b")
		after(time.Second)
		for _, f := range all {
			f.are(t, "a", "b")
		}
		after(5 * time.Second)
		if streams, reads := e.Count("Watch"), e.Count("Range"); streams > clients/2 || reads > clients {
			t.Errorf("%d streams, %d reads when one of three members goes", streams, reads)
		}
		e.Stop()
		after(5 * time.Second)
		e.Forget()
		e.Put("/s/1", "c")
		e.Start()
		after(5 * time.Second)
		for _, f := range all {
			f.are(t, "c")
		}
		if streams, lists := e.Count("Watch"), e.Count("Range"); streams > clients*3/2 || lists > 3*clients {
			t.Errorf("%d streams, %d reads when all come back", streams, lists)
		}
	})
}
