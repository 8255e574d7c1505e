package fleet

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// slowness is how etcd, or the way to it, is slow.
type slowness struct {
	answer time.Duration // until each answer
	link   etcdtest.Link
}

// String is the slowness's name in tests.
func (s slowness) String() string {
	if s.answer > 0 {
		return fmt.Sprintf("each answer after %v", s.answer)
	}
	if s.link.RTT > 0 {
		return fmt.Sprintf("round trips of %v", s.link.RTT)
	}
	return fmt.Sprintf("%d kB a second", s.link.BytesPerSecond/1000)
}

// slow makes etcd so.
func (s slowness) slow(w *world) {
	w.etcd.SetLinks(s.link)
	w.etcd.Set(func(settings *etcdtest.Settings) {
		settings.Delay = func(int, string, any) time.Duration { return s.answer }
	})
}

func everySlowness() (all []slowness) {
	for _, answer := range []time.Duration{100, 500, 1000, 1600, 2200, 2900} {
		all = append(all, slowness{answer: answer * time.Millisecond})
	}
	for _, rtt := range []time.Duration{100, 500, 1300, 1700, 2500} {
		all = append(all, slowness{link: etcdtest.Link{RTT: rtt * time.Millisecond}})
	}
	for _, kB := range []int{50, 200, 500, 2000} {
		all = append(all, slowness{link: etcdtest.Link{BytesPerSecond: kB * 1000}})
	}
	return all
}

// upstream is a bare client, which asks what go-kit's sd/etcdv3 asks. That one
// itself cannot run in a bubble: its Watch lets no time pass, and it never closes
// its connections.
func upstream(w *world) *clientv3.Client {
	w.Helper()
	cli, err := clientv3.New(clientv3.Config{
		Context: w.ctx, Endpoints: w.etcd.Endpoints(), DialOptions: w.etcd.DialOptions(),
		DialTimeout: 3 * time.Second, DialKeepAliveTime: 3 * time.Second,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = cli.Close() })
	return cli
}

// registerAsUpstream is upstream's Client.Register, but for the heartbeats.
func registerAsUpstream(w *world, key string) error {
	cli := upstream(w)
	defer cli.Close()
	lease, err := cli.Grant(w.ctx, 10)
	if err == nil {
		_, err = cli.Put(w.ctx, key, "v", clientv3.WithLease(lease.ID))
	}
	return err
}

// took runs something, and returns how long it took.
func took(w *world, do func() error) time.Duration {
	w.Helper()
	began := time.Now()
	if err := do(); err != nil {
		w.Error(err)
	}
	return time.Since(began)
}

// registered waits until a registrar says so.
func (w *world) registered(r *etcdv3.Registrar) error {
	for range 60_000 {
		if r.Err() == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("not registered after ten minutes: %w", r.Err())
}

// knows waits until an Instancer has sent a set of a size, and leaves it then.
func (w *world) knows(prefix string, size int) error {
	s, err := etcdv3.NewInstancer(w.client(w.ctx), prefix, nil)
	if err != nil {
		return err
	}
	defer s.Stop()
	events := make(chan sd.Event)
	got := make(chan int, 1)
	ctx, done := context.WithTimeout(w.ctx, 10*time.Minute)
	defer done()
	go func() {
		defer s.Deregister(events)
		for {
			select {
			case event := <-events:
				if event.Err == nil && len(event.Instances) == size {
					got <- size
					<-ctx.Done()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	s.Register(events)
	select {
	case <-got:
		return nil
	case <-ctx.Done():
		return errors.New("the set is not known after ten minutes")
	}
}

func TestSlowEtcd_IsNoSlowerThanForUpstream(t *testing.T) {
	for _, members := range []int{1, 3} {
		for _, s := range everySlowness() {
			t.Run(fmt.Sprintf("%v, %d endpoints", s, members), func(t *testing.T) {
				virtually(t, etcdtest.Config{Members: members}, func(w *world) {
					fillValues(w, "/s/", 6000, 505)
					s.slow(w)
					theirs := took(w, func() error { return registerAsUpstream(w, "/upstream") })
					r := etcdv3.NewRegistrar(w.client(w.ctx), etcdv3.Service{Key: "/ours", Value: "v"}, nil)
					ours := took(w, func() error {
						r.Register()
						return w.registered(r)
					})
					w.noSlower("registered", ours, theirs)
					cli := upstream(w)
					theirs = took(w, func() error {
						_, err := cli.Get(w.ctx, "/s/", clientv3.WithPrefix())
						return err
					})
					_ = cli.Close()
					ours = took(w, func() error { return w.knows("/s/", 6000) })
					w.noSlower("set known", ours, theirs)
					time.Sleep(time.Minute)
					if n := len(w.etcd.History("/ours")); n != 1 || r.Err() != nil {
						w.Errorf("the key has %d versions, %v", n, r.Err())
					}
				})
			})
		}
	}
}

// noSlower fails if we need more than one and a half times what upstream needs.
func (w *world) noSlower(what string, ours, theirs time.Duration) {
	w.Helper()
	w.Logf("%s after %v, upstream after %v", what, ours, theirs)
	if ours > theirs*3/2 {
		w.Errorf("%s after %v, upstream after %v", what, ours, theirs)
	}
}

// fillValues puts so many values of a size under a prefix.
func fillValues(w *world, prefix string, n, size int) {
	values := make(map[string]string, n)
	for i := range n {
		values[fmt.Sprintf("%s%05d", prefix, i)] = fmt.Sprintf("%0*d", size, i)
	}
	w.etcd.PutAll(values)
}
