package bench

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	upstream "github.com/go-kit/kit/sd/etcdv3"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// discovery is one way to know what stands under a prefix.
type discovery interface {
	name() string
	// connect returns what follows prefixes, on one connected client that
	// ends with the benchmark.
	connect(tb testing.TB, endpoints ...string) (follow func(prefix string) followed)
}

var discoveries = []discovery{bareDiscovery{}, thisDiscovery{}, upstreamDiscovery{}}

// followed is a prefix that is being followed.
type followed interface {
	subscribe(tb testing.TB) subscription
	stop()
}

// subscription is one subscriber of a followed prefix.
type subscription interface {
	// next waits for the next event, the state at first, and returns the set.
	next() view
	forget() // drops the last event
	end()
}

// view is a set of instances as a subscriber has it.
type view interface {
	has(key, value string) bool
	len() int
}

// await takes events until a key has a value, and returns how many that were.
func await(s subscription, key, value string) (events int) {
	for {
		events++
		if s.next().has(key, value) {
			return events
		}
	}
}

// subscribers start n subscribers that have seen the whole set.
func subscribers(tb testing.TB, f followed, n, size int) (all []subscription) {
	tb.Helper()
	for range n {
		s := f.subscribe(tb)
		for s.next().len() != size {
		}
		all = append(all, s)
	}
	return all
}

const connectTimeout = 10 * time.Second

// bareDiscovery is clientv3 by hand: list, watch, and a map.
type bareDiscovery struct{}

func (bareDiscovery) name() string { return "bare" }

func (bareDiscovery) connect(tb testing.TB, endpoints ...string) func(string) followed {
	cli := bareClient(tb, endpoints...)
	return func(prefix string) followed { return &bareFollowed{cli: cli, prefix: prefix} }
}

// bareClient is a clientv3 client that is connected.
func bareClient(tb testing.TB, endpoints ...string) *clientv3.Client {
	tb.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: connectTimeout, DialKeepAliveTime: 3 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cli.Close() })
	if _, err := cli.Get(context.Background(), "/nothing"); err != nil {
		tb.Fatal(err)
	}
	return cli
}

// bareFollowed has one watch for each subscriber: there is nothing in clientv3
// that several could share.
type bareFollowed struct {
	cli    *clientv3.Client
	prefix string
}

func (f *bareFollowed) stop() {}

func (f *bareFollowed) subscribe(tb testing.TB) subscription {
	ctx, cancel := context.WithCancel(context.Background())
	s := &bareSubscription{values: map[string]string{}, changed: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := s.run(clientv3.WithRequireLeader(ctx), f.cli, f.prefix); err != nil && ctx.Err() == nil {
			tb.Error(err)
		}
	}()
	return s
}

type bareSubscription struct {
	mu      sync.Mutex
	values  map[string]string
	changed chan struct{}
	cancel  context.CancelFunc
	done    chan struct{}
}

func (s *bareSubscription) run(ctx context.Context, cli *clientv3.Client, prefix string) error {
	all, err := cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	s.mu.Lock()
	for _, kv := range all.Kvs {
		s.values[string(kv.Key)] = string(kv.Value)
	}
	s.mu.Unlock()
	s.changed <- struct{}{}
	for resp := range cli.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(all.Header.Revision+1)) {
		if err := resp.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		for _, event := range resp.Events {
			if event.Type == clientv3.EventTypeDelete {
				delete(s.values, string(event.Kv.Key))
			} else {
				s.values[string(event.Kv.Key)] = string(event.Kv.Value)
			}
		}
		s.mu.Unlock()
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	return nil
}

func (s *bareSubscription) next() view {
	<-s.changed
	return s
}

func (s *bareSubscription) forget() {}

func (s *bareSubscription) end() {
	s.cancel()
	<-s.done
}

func (s *bareSubscription) has(key, value string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key] == value
}

func (s *bareSubscription) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

// upstreamDiscovery is go-kit's own package.
type upstreamDiscovery struct{}

func (upstreamDiscovery) name() string { return "upstream" }

func (upstreamDiscovery) connect(tb testing.TB, endpoints ...string) func(string) followed {
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel) // which ends the watches, not the connection: nothing does
	c, err := upstream.NewClient(ctx, endpoints, upstream.ClientOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.GetEntries("/nothing"); err != nil {
		tb.Fatal(err)
	}
	return func(prefix string) followed {
		s, err := upstream.NewInstancer(c, prefix, log.NewNopLogger())
		if err != nil {
			tb.Fatal(err)
		}
		return kitFollowed{s}
	}
}

// thisDiscovery is the package that is measured.
type thisDiscovery struct{}

func (thisDiscovery) name() string { return "this" }

func (thisDiscovery) connect(tb testing.TB, endpoints ...string) func(string) followed {
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	c, err := etcdv3.NewClient(ctx, endpoints, etcdv3.ClientOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.GetEntries("/nothing"); err != nil {
		tb.Fatal(err)
	}
	return func(prefix string) followed {
		s, err := etcdv3.NewInstancer(c, prefix, log.NewNopLogger())
		if err != nil {
			tb.Fatal(err)
		}
		return kitFollowed{s}
	}
}

// kitFollowed is an Instancer, whoever's.
type kitFollowed struct{ instancer sd.Instancer }

func (f kitFollowed) stop() { f.instancer.Stop() }

func (f kitFollowed) subscribe(testing.TB) subscription {
	s := &kitSubscription{instancer: f.instancer, ch: make(chan sd.Event, 1)}
	f.instancer.Register(s.ch)
	return s
}

type kitSubscription struct {
	instancer sd.Instancer
	ch        chan sd.Event
	last      sd.Event // kept, as an Endpointer does
}

func (s *kitSubscription) next() view {
	s.last = <-s.ch
	return instances(s.last.Instances)
}

func (s *kitSubscription) forget() { s.last = sd.Event{} }

// end takes what may still be sent: upstream's Instancer sends with its lock
// held, and so would block for ever.
func (s *kitSubscription) end() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.instancer.Deregister(s.ch)
	}()
	for {
		select {
		case <-s.ch:
		case <-done:
			return
		}
	}
}

// instances are what an sd.Event holds: sorted values.
type instances []string

func (all instances) has(_, value string) bool {
	_, found := slices.BinarySearch(all, value)
	return found
}

func (all instances) len() int { return len(all) }
