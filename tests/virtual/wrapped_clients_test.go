package virtual_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"
)

// wrappedLease is a Lease that is not of the kind that clientv3 makes, so that
// each heartbeat is a request of its own.
type wrappedLease struct{ clientv3.Lease }

// dialled returns a clientv3 client that somebody else made.
func dialled(t testing.TB, e *etcdtest.Etcd) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: e.Endpoints(), Logger: zap.NewNop(), DialOptions: e.DialOptions(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return cli
}

// from returns a Client of a clientv3 client.
func (w *world) from(cli *clientv3.Client) (etcdv3.Client, context.CancelFunc) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		cancel()
		after(time.Minute)
		_ = cli.Close()
	})
	return c, cancel
}

func TestClientOfSomebodyElse_LivesAsOneOfOurs(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		virtuallyOn(t, etcdtest.Config{Members: 1}, func(w *world) {
			cli := dialled(w, w.etcd)
			if wrapped {
				cli.Lease = wrappedLease{cli.Lease}
			}
			c, cancel := w.from(cli)
			r, j := registrar(c, service("v"))
			r.Register()
			w.isRegistered(r)
			after(time.Hour)
			w.isRegistered(r)
			w.logs(j, 1, "")
			if n := w.etcd.Count("Renew"); n < 1190 || n > 1260 {
				w.Errorf("wrapped %v: %d heartbeats in an hour", wrapped, n)
			}
			w.etcd.RevokeAll()
			w.until(4*time.Second, "registered again", func() bool { return len(w.etcd.Values("/s/")) == 1 })
			w.etcd.Delete("/s/1")
			w.comesToHold(r, "v")
			w.all((*etcdtest.Member).Down)
			after(time.Minute)
			w.says(r.Err(), map[bool]string{false: "connection refused", true: "there is no connection"}[wrapped]) // which one request does not learn
			w.all((*etcdtest.Member).Up)
			w.until(again, "registered", func() bool { return r.Err() == nil })
			w.comesToHold(r, "v")
			cancel()
			after(requestTimeout)
			w.holds(0)
			if cli.Ctx().Err() != nil {
				w.Error("the clientv3 client was closed")
			}
		})
	}
}

func TestDeregisterOfAWrappedClient_AtEveryPoint(t *testing.T) {
	for _, way := range waysToRegisterAgain[:2] {
		for _, p := range way.points {
			for name, d := range heldFor {
				t.Run(way.name+"/"+p.String()+"/"+name, func(t *testing.T) {
					virtually(t, func(w *world) {
						cli := dialled(w, w.etcd)
						cli.Lease = wrappedLease{cli.Lease}
						c, _ := w.from(cli)
						r, _ := registrar(c, service("v"))
						r.Register()
						after(time.Second)
						reached := w.hold(p, d)
						way.begin(w)
						w.soon(reached, p)
						w.within(requestTimeout, r.Deregister)
						w.hasValues()
						after(11 * time.Second)
						w.holds(0)
						after(neverAnswered + time.Minute)
						w.holds(0)
					})
				})
			}
		}
	}
}

// clientv3's Watcher lets no time pass in a bubble. So this runs in real time.
func TestNamespacedClient_InRealTime(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t, etcdtest.Config{})
	cli := dialled(t, e)
	cli.KV = namespace.NewKV(cli.KV, "ns")
	cli.Watcher = namespace.NewWatcher(cli.Watcher, "ns")
	cli.Lease = namespace.NewLease(cli.Lease, "ns")
	ctx, cancel := context.WithCancel(context.Background())
	c, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not %s", what)
			}
		}
	}
	r, j := registrar(c, timed(500*time.Millisecond, 3*time.Second))
	r.Register()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	s, err := etcdv3.NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	events := subscribed(s)
	last := func(want string) func() bool {
		var all []string
		return func() bool {
			all = append(all, events.take()...)
			return len(all) > 0 && all[len(all)-1] == want
		}
	}
	eventually("seen", last("v"))
	if got := e.Keys("ns"); !slices.Equal(got, []string{"ns/s/1"}) {
		t.Errorf("keys %q", got)
	}
	e.Delete("ns/s/1")
	eventually("gone", last(""))
	eventually("put back", last("v"))
	e.RevokeAll()
	eventually("registered again", last("v"))
	e.Member(0).Break()
	e.Put("ns/s/2", "w")
	eventually("followed after a break", last("v w"))
	e.Put("/s/3", "of no namespace")
	e.Put("ns/s/1", "other")
	eventually("taken", func() bool { return j.count("taken by another owner") == 1 })
	e.Delete("ns/s/1")
	eventually("put back", func() bool { return r.Err() == nil && slices.Equal(e.Values("ns/s/"), []string{"v", "w"}) })
	r.Deregister()
	if got := e.Values("ns"); !slices.Equal(got, []string{"w"}) {
		t.Errorf("%q are left", got)
	}
	s.Stop()
	cancel()
	_ = cli.Close()
}

// counting is a Client that wraps ours.
type counting struct {
	etcdv3.Client
	lists int
}

func (c *counting) GetEntries(p string) ([]string, error) { c.lists++; return c.Client.GetEntries(p) }

// An Instancer keeps the set, or the error, that it knew.
func TestWrappedClientThatEnds_IsAskedNoMore(t *testing.T) {
	for _, away := range []time.Duration{0, time.Second, 30 * time.Second} {
		virtually(t, func(w *world) {
			own, cancel := w.client()
			c := &counting{Client: own}
			s, events, _ := w.polled(c)
			w.Cleanup(s.Stop)
			after(time.Minute)
			if away > 0 {
				w.all((*etcdtest.Member).Down)
			}
			after(away)
			events.take()
			before := s.State().Err
			cancel()
			after(10 * time.Second)
			n := c.lists
			after(time.Hour)
			events.are(w)
			if c.lists > n || s.State().Err != before {
				w.Errorf("away for %v: %d lists in the hour after, %v", away, c.lists-n, s.State().Err)
			}
		})
	}
	virtually(t, func(w *world) {
		own, cancel := w.client()
		c := &counting{Client: own}
		cancel()
		after(time.Second)
		s, events, j := w.polled(c)
		w.Cleanup(s.Stop)
		after(time.Hour)
		events.are(w, "error")
		w.says(s.State().Err, "the client is closed")
		w.logs(j, 1, "")
		if c.lists > 2 {
			w.Errorf("%d lists", c.lists)
		}
	})
}

func TestNamespace_AsksNoMoreThanAnotherClient(t *testing.T) {
	for _, what := range []string{"own", "namespace"} {
		virtually(t, func(w *world) {
			c, _ := w.client()
			if what == "namespace" {
				cli := dialled(w, w.etcd)
				cli.Lease, cli.KV = namespace.NewLease(cli.Lease, "ns"), namespace.NewKV(cli.KV, "ns")
				c, _ = w.from(cli)
			}
			w.all((*etcdtest.Member).LoseLeader)
			r, _ := registrar(c, service("v"))
			r.Register()
			w.etcd.Forget()
			after(time.Minute)
			if n := w.etcd.Count("LeaseGrant"); n > 120 {
				w.Errorf("%s: %d grants in a minute without a leader", what, n)
			}
		})
	}
}

func TestNamespace_KnowsThatTheConnectionIsRefused(t *testing.T) {
	virtually(t, func(w *world) {
		cli := dialled(w, w.etcd)
		cli.Lease, cli.KV = namespace.NewLease(cli.Lease, "ns"), namespace.NewKV(cli.KV, "ns")
		c, _ := w.from(cli)
		w.all((*etcdtest.Member).Down)
		r, _ := registrar(c, service("v"))
		r.Register()
		after(time.Minute)
		w.says(r.Err(), "connection refused")
	})
}

// A wrapper may be a value that cannot be compared.
func TestWrappedKVThatCannotBeCompared(t *testing.T) {
	virtually(t, func(w *world) {
		cli := dialled(w, w.etcd)
		cli.KV = listedKV{cli.KV, []string{"a"}}
		c, _ := w.from(cli)
		w.register(c, service("v"))
	})
}

type listedKV struct {
	clientv3.KV
	names []string
}
