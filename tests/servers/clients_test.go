//go:build servers

package servers

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// short is a heartbeat of 500 ms and a TTL of 3 s, so that nobody waits long.
var short = etcdv3.NewTTLOption(500*time.Millisecond, 3*time.Second)

// connect returns a Client, which ends with the test, and what ends it earlier.
func connect(t testing.TB, options etcdv3.ClientOptions, endpoints ...string) (etcdv3.Client, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c, err := etcdv3.NewClient(ctx, endpoints, options)
	if err != nil {
		t.Fatal(err)
	}
	return c, cancel
}

// register registers a service with a Registrar, and fails if that fails.
func register(t testing.TB, c etcdv3.Client, key, value string, ttl *etcdv3.TTLOption) *etcdv3.Registrar {
	t.Helper()
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: key, Value: value, TTL: ttl}, newLines(t))
	r.Register()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return r
}

// recorder is a subscriber that keeps all events.
type recorder struct {
	mu     sync.Mutex // guards events
	events []sd.Event
}

// discover subscribes to a prefix, until the test ends.
func discover(t testing.TB, c etcdv3.Client, prefix string) *recorder {
	t.Helper()
	s, err := etcdv3.NewInstancer(c, prefix, newLines(t))
	if err != nil {
		t.Fatal(err)
	}
	r, ch, done := &recorder{}, make(chan sd.Event), make(chan struct{})
	go func() {
		defer close(done)
		for e := range ch {
			r.mu.Lock()
			r.events = append(r.events, e)
			r.mu.Unlock()
		}
	}()
	s.Register(ch)
	t.Cleanup(func() {
		s.Deregister(ch)
		close(ch)
		<-done
		s.Stop()
	})
	return r
}

func (r *recorder) all() []sd.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// shows reports whether the last event is exactly the given instances.
func (r *recorder) shows(instances ...string) bool {
	all := r.all()
	if len(all) == 0 {
		return false
	}
	last := all[len(all)-1]
	return last.Err == nil && slices.Equal(last.Instances, instances)
}

// has reports whether an instance is in the last event.
func (r *recorder) has(instance string) bool {
	all := r.all()
	return len(all) > 0 && slices.Contains(all[len(all)-1].Instances, instance)
}

// noErrors fails the test for each event with an error.
func (r *recorder) noErrors(t testing.TB) {
	t.Helper()
	for _, e := range r.all() {
		if e.Err != nil {
			t.Errorf("an event with an error: %v", e.Err)
		}
	}
}

// revision returns the mod revision of a key, or 0 if it is not there or nobody
// answers.
func revision(cli *clientv3.Client, key string) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	resp, err := cli.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return 0
	}
	return resp.Kvs[0].ModRevision
}

// put writes a key, and tries again while a cluster elects a leader.
func put(t testing.TB, cli *clientv3.Client, key, value string) {
	t.Helper()
	eventually(t, 20*time.Second, "etcd takes "+key, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := cli.Put(ctx, key, value)
		return err == nil
	})
}
