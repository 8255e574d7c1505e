package lease_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/metrics"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"github.com/kitsd/etcdv3/internal/lease"
	"github.com/kitsd/etcdv3/internal/meter"
)

// world is a cluster, and a client with a keeper of its leases.
type world struct {
	*testing.T
	etcd   *etcdtest.Etcd
	conn   *etcd.Conn
	cli    *clientv3.Client
	keeper *lease.Keeper

	missed *counter // heartbeats unanswered
	sent   *counter // beats
	opened *counter // streams
}

// counter counts.
type counter struct{ n atomic.Int64 }

func (c *counter) With(...string) metrics.Counter { return c }
func (c *counter) Add(n float64)                  { c.n.Add(int64(n)) }
func (c *counter) Value() int                     { return int(c.n.Load()) }

// setting is how a world is made. The zero value is a client of our own.
type setting struct {
	etcdtest.Config
	user    string
	foreign bool                       // the client was not dialled by us
	wrap    func(cli *clientv3.Client) // changes it before it is used
}

// virtually runs a story in a bubble.
func virtually(t *testing.T, s setting, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := etcdtest.Start(t, s.Config)
		if s.user != "" {
			e.SetUser(s.user, "secret", etcdtest.ReadWrite(""))
			e.EnableAuth()
		}
		story(connect(t, e, s))
	})
}

// connect returns another client of a cluster. It closes with the test.
func connect(t *testing.T, e *etcdtest.Etcd, s setting) *world {
	w := &world{T: t, etcd: e, missed: &counter{}, sent: &counter{}, opened: &counter{}}
	password := ""
	if s.user != "" {
		password = "secret"
	}
	w.conn = etcd.NewConn(etcd.Config{
		Timeout: 3 * time.Second, Metrics: &meter.Metrics{HeartbeatsUnanswered: w.missed}, Username: s.user, Password: password,
	})
	config := clientv3.Config{
		Endpoints: e.Endpoints(), Logger: zap.NewNop(),
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: append(e.DialOptions(), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 1500 * time.Millisecond},
			MinConnectTimeout: 20 * time.Second, // a link may be long
		})),
	}
	config.DialOptions = append(config.DialOptions, grpc.WithChainStreamInterceptor(w.watch))
	if s.foreign { // clientv3 authenticates, at each stream
		config.Username, config.Password = s.user, password
	} else {
		config.DialOptions = append(config.DialOptions, w.conn.DialOptions()...)
	}
	var err error
	if w.cli, err = clientv3.New(config); err != nil {
		t.Fatal(err)
	}
	if s.wrap != nil {
		s.wrap(w.cli)
	}
	w.conn.Open(w.cli)
	w.keeper = lease.New(w.conn)
	t.Cleanup(w.close)
	return w
}

// watch sees to it that no lease is asked for twice on a stream.
func (w *world) watch(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	w.opened.Add(1)
	stream, err := open(ctx, desc, cc, method, opts...)
	return &watched{ClientStream: stream, world: w, waiting: map[int64]bool{}}, err
}

type watched struct {
	grpc.ClientStream
	world   *world
	mu      sync.Mutex // guards waiting
	waiting map[int64]bool
}

func (s *watched) SendMsg(m any) error {
	if beat, ok := m.(*pb.LeaseKeepAliveRequest); ok {
		s.mu.Lock()
		if s.waiting[beat.ID] {
			s.world.Errorf("lease %d is asked for again while it waits", beat.ID)
		}
		s.waiting[beat.ID] = true
		s.mu.Unlock()
		s.world.sent.Add(1)
	}
	return s.ClientStream.SendMsg(m)
}

func (s *watched) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if answer, ok := m.(*pb.LeaseKeepAliveResponse); ok && err == nil {
		s.mu.Lock()
		delete(s.waiting, answer.ID)
		s.mu.Unlock()
	}
	return err
}

func (w *world) close() {
	w.keeper.Close()
	w.conn.Close()
	_ = w.cli.Close()
}

// kept is a lease, and what its owner has heard of it.
type kept struct {
	*lease.Lease
	w     *world
	mu    sync.Mutex // guards heard
	heard []heard
}

type heard struct {
	lease.Beat
	at time.Time
}

// grant takes a lease, and hears its news until it is lost or the test ends.
func (w *world) grant(ttl int64, every time.Duration) *kept {
	w.Helper()
	l, err := w.keeper.Grant(w.Context(), ttl, every)
	if err != nil {
		w.Fatal(err)
	}
	k := &kept{Lease: l, w: w}
	ctx, cancel := context.WithCancel(context.Background())
	w.Cleanup(cancel)
	go func() {
		for {
			select {
			case b := <-l.News:
				k.mu.Lock()
				k.heard = append(k.heard, heard{b, time.Now()})
				k.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return k
}

// grants takes many leases, as many at a time as a client may.
func (w *world) grants(n int, ttl int64, every time.Duration) []*kept {
	w.Helper()
	all := make([]*kept, n)
	var group sync.WaitGroup
	for i := range all {
		group.Go(func() {
			leave, err := w.conn.Writes.Enter(w.Context())
			if err != nil {
				w.Error(err)
				return
			}
			defer leave()
			all[i] = w.grant(ttl, every)
		})
	}
	group.Wait()
	return all
}

// news returns what was heard, and forgets it.
func (k *kept) news() []heard {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.heard
	k.heard = nil
	return all
}

// said are the news in words, without times.
func (k *kept) said() (all []string) {
	for _, h := range k.news() {
		all = append(all, inWords(h.Beat))
	}
	return all
}

func inWords(b lease.Beat) string {
	text := ""
	for _, word := range []struct {
		is   bool
		text string
	}{{b.Lost, "lost "}, {b.Silent, "silent "}, {b.Resumed, "resumed "}} {
		if word.is {
			text += word.text
		}
	}
	if b.Err != nil {
		return text + b.Err.Error()
	}
	if text == "" {
		return "well"
	}
	return text[:len(text)-1]
}

// lost is how many leases of some are not there any more.
func (w *world) lost(all []*kept) (n int) {
	alive := map[int64]bool{}
	for _, l := range w.etcd.Leases() {
		alive[l.ID] = true
	}
	for _, k := range all {
		if !alive[int64(k.ID)] {
			n++
		}
	}
	return n
}

// untroubled fails if an owner has heard anything but a return.
func (w *world) untroubled(all []*kept) {
	w.Helper()
	if n := w.lost(all); n > 0 {
		w.Errorf("%d of %d leases are lost", n, len(all))
	}
	told := 0
	for _, k := range all {
		for _, h := range k.news() {
			if h.Lost || h.Silent || h.Err != nil {
				if told++; told < 4 {
					w.Errorf("a lease was told: %s", inWords(h.Beat))
				}
			}
		}
	}
}

// after waits in virtual time.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) same(what string, got, want any) {
	w.Helper()
	if g, s := fmt.Sprint(got), fmt.Sprint(want); g != s {
		w.Errorf("%s: %s, want %s", what, g, s)
	}
}

// within fails if a number is not between two.
func (w *world) within(what string, got, least, most int) {
	w.Helper()
	if got < least || got > most {
		w.Errorf("%s: %d, want %d to %d", what, got, least, most)
	}
}

// delay has each renewal take some time of its stream.
func (w *world) delay(d time.Duration) {
	w.etcd.Set(func(s *etcdtest.Settings) { s.RenewTime = d })
}
