package tests

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/alone"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/tests/v3/framework/integration"
)

// cluster is a number of real etcd members, each behind a bridge.
type cluster struct {
	*integration.Cluster
	bridges []*bridge
	kept    []func() // for each member that is stopped, what gives its port back
}

// newCluster starts members, and ends them with the test.
func newCluster(t testing.TB, size int, configure ...func(*integration.ClusterConfig)) *cluster {
	t.Helper()
	holdTheMachine()
	if size > 1 {
		heavy(t)
	}
	cfg := &integration.ClusterConfig{Size: size, UseTCP: true, UseIP: true}
	for _, f := range configure {
		f(cfg)
	}
	c := &cluster{Cluster: integration.NewCluster(t, cfg), kept: make([]func(), size)}
	t.Cleanup(func() {
		c.Terminate(t)
		for i := range c.Members {
			c.releasePort(i)
		}
	})
	for _, m := range c.Members {
		c.bridges = append(c.bridges, newBridge(t, m.GRPCURL))
	}
	return c
}

// stop stops members, and keeps their ports.
func (c *cluster) stop(t testing.TB, members ...int) {
	t.Helper()
	for _, i := range members {
		c.keepPort(i)
		c.Members[i].Stop(t)
	}
}

// keepPort keeps the port of a member that is about to stop, until it is restarted.
func (c *cluster) keepPort(i int) {
	if c.kept[i] == nil {
		c.kept[i] = alone.KeepPort("127.0.0.1:" + c.Members[i].Port)
	}
}

// releasePort gives the port of a member back.
func (c *cluster) releasePort(i int) {
	if c.kept[i] != nil {
		c.kept[i]()
		c.kept[i] = nil
	}
}

// restart starts members again.
func (c *cluster) restart(t testing.TB, members ...int) {
	t.Helper()
	for _, i := range members {
		if err := c.Members[i].Restart(t); err != nil {
			t.Fatal(err)
		}
		c.releasePort(i)
	}
}

// heavyTests holds a token for each test that runs and keeps a core busy.
var heavyTests = make(chan struct{}, heavyAtOnce)

// isHeavy holds the names of those tests.
var isHeavy sync.Map

// heavy says that a test keeps a core busy, and waits until few others do. Most
// tests wait for timeouts; what they find must not depend on one that does not:
// an etcd that gets no processor for seconds is rightly held to be out of reach.
// Other processes are kept away by holdTheMachine.
//
// A test that says it twice has one token: with two it could wait for another test
// that does the same. For the like reason no test may be heavy that has parallel
// tests below it. Those wait for tests that wait for the token.
func heavy(t testing.TB) {
	t.Helper()
	if _, is := isHeavy.LoadOrStore(t.Name(), true); is {
		return
	}
	heavyTests <- struct{}{}
	t.Cleanup(func() {
		isHeavy.Delete(t.Name())
		<-heavyTests
	})
}

// holdTheMachine waits, before the first member is started, until no other test
// binary has members; and then keeps others away until this one ends.
var holdTheMachine = sync.OnceFunc(func() { alone.Hold() })

// endpoints are the bridges of the given members, all by default.
func (c *cluster) endpoints(members ...int) (endpoints []string) {
	for i, b := range c.bridges {
		if len(members) == 0 || slices.Contains(members, i) {
			endpoints = append(endpoints, b.endpoint())
		}
	}
	return endpoints
}

// connect returns a Client of the package for the given members, all by
// default, and what ends its context.
func (c *cluster) connect(t testing.TB, members ...int) (etcdv3.Client, context.CancelFunc) {
	t.Helper()
	return connect(t, etcdv3.ClientOptions{}, c.endpoints(members...)...)
}

// defaultTimeout is that of requests, as ClientOptions documents it; and
// requestTimeout is the same, or more where etcd itself is slower.
const (
	defaultTimeout = 3 * time.Second
	requestTimeout = patienceFactor * defaultTimeout
)

// connect returns a Client with options, which ends with the test; its bridges
// wait for the end of its connections.
func connect(t testing.TB, options etcdv3.ClientOptions, endpoints ...string) (etcdv3.Client, context.CancelFunc) {
	t.Helper()
	if options.HeaderTimeoutPerRequest == 0 {
		options.HeaderTimeoutPerRequest = requestTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := etcdv3.NewClient(ctx, endpoints, options)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return c, cancel
}

// wrap returns a Client on a clientv3 client, both of which end with the test,
// and what ends its context.
func wrap(t testing.TB, cli *clientv3.Client) (etcdv3.Client, context.CancelFunc) {
	t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	t.Cleanup(leave)
	c, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{HeaderTimeoutPerRequest: requestTimeout})
	if err != nil {
		t.Fatal(err)
	}
	return c, leave
}

// ofAnotherProcess makes what is registered through a clientv3 client another
// owner's than this process, which knows its own keys but none of a namespace.
func ofAnotherProcess(cli *clientv3.Client) *clientv3.Client {
	cli.KV = namespace.NewKV(cli.KV, "")
	return cli
}

// values returns the values under a prefix, as etcd holds them.
func (c *cluster) values(t testing.TB, prefix string) (all []string) {
	t.Helper()
	return values(t, c.Client(0), prefix)
}

func values(t testing.TB, cli *clientv3.Client, prefix string) (all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		all = append(all, string(kv.Value))
	}
	return all
}

// recorder is a subscriber that keeps all events.
type recorder struct {
	ch   chan sd.Event
	done chan struct{}

	mu     sync.Mutex // guards events
	events []sd.Event
}

// record subscribes, until the test ends.
func record(t testing.TB, s sd.Instancer) *recorder {
	t.Helper()
	r := &recorder{ch: make(chan sd.Event), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for e := range r.ch {
			r.mu.Lock()
			r.events = append(r.events, e)
			r.mu.Unlock()
		}
	}()
	s.Register(r.ch)
	eventually(t, time.Second, "the first event", func() bool { return len(r.all()) > 0 })
	t.Cleanup(func() {
		s.Deregister(r.ch)
		close(r.ch)
		<-r.done
	})
	return r
}

func (r *recorder) all() []sd.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *recorder) last() sd.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == 0 {
		return sd.Event{}
	}
	return r.events[len(r.events)-1]
}

// shows reports whether the last event is exactly the given instances.
func (r *recorder) shows(instances ...string) bool {
	last := r.last()
	return last.Err == nil && slices.Equal(last.Instances, instances)
}

// discover returns an Instancer that ends with the test, and a subscriber of it.
func discover(t testing.TB, c etcdv3.Client, prefix string) (*etcdv3.Instancer, *recorder) {
	t.Helper()
	s, err := etcdv3.NewInstancer(c, prefix, log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s, record(t, s)
}
