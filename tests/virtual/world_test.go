package virtual_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	// requestTimeout is the default of ClientOptions.HeaderTimeoutPerRequest.
	requestTimeout = 3 * time.Second

	// again is how long after etcd answers all is as it should be.
	again = 5 * time.Second
)

// world is a test with a cluster, in a bubble.
type world struct {
	*testing.T
	etcd *etcdtest.Etcd
	more func() // registers once more, see waysToRegisterAgain
}

// virtually runs a story in virtual time on a cluster of one member, and waits
// until all that it started has ended.
func virtually(t *testing.T, story func(w *world)) {
	t.Helper()
	virtuallyOn(t, etcdtest.Config{}, story)
}

// virtuallyOn runs a story in virtual time on a cluster of some kind.
func virtuallyOn(t *testing.T, config etcdtest.Config, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, etcd: etcdtest.Start(t, config)}
		t.Cleanup(func() { after(time.Minute) }) // clients close before their etcd
		story(w)
	})
}

// after waits until all that is to happen within a time has happened.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// client returns a Client of the cluster, and what ends its context. That ends
// with the test at the latest.
func (w *world) client(change ...func(*etcdv3.ClientOptions)) (etcdv3.Client, context.CancelFunc) {
	w.Helper()
	options := etcdv3.ClientOptions{DialOptions: w.etcd.DialOptions()}
	for _, c := range change {
		c(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.Cleanup(cancel)
	c, err := etcdv3.NewClient(ctx, w.etcd.Endpoints(), options)
	if err != nil {
		w.Fatal(err)
	}
	return c, cancel
}

// asUser has a client authenticate.
func asUser(name, password string) func(*etcdv3.ClientOptions) {
	return func(o *etcdv3.ClientOptions) { o.Username, o.Password = name, password }
}

// service is "/s/1", with a value, a heartbeat of 3 s and a TTL of 10 s.
func service(value string) etcdv3.Service { return etcdv3.Service{Key: "/s/1", Value: value} }

// registrar returns a Registrar for a service, and its log.
func registrar(c etcdv3.Client, s etcdv3.Service) (*etcdv3.Registrar, *journal) {
	j := &journal{}
	return etcdv3.NewRegistrar(c, s, j.logger()), j
}

// registered returns a Client that has registered service("v") by a Registrar.
func (w *world) registered(change ...func(*etcdv3.ClientOptions)) (etcdv3.Client, *etcdv3.Registrar, *journal) {
	w.Helper()
	c, _ := w.client(change...)
	r, j := registrar(c, service("v"))
	r.Register()
	if err := r.Err(); err != nil {
		w.Fatal(err)
	}
	return c, r, j
}

// register registers a service, which has to succeed.
func (w *world) register(c etcdv3.Client, s etcdv3.Service) {
	w.Helper()
	if err := c.Register(s); err != nil {
		w.Fatal(err)
	}
}

// holds fails unless etcd holds exactly these values under "/s/", and as many
// leases.
func (w *world) holds(leases int, values ...string) {
	w.Helper()
	w.hasValues(values...)
	if got := w.etcd.Leases(); len(got) != leases {
		w.Errorf("etcd holds the leases %v, want %d", got, leases)
	}
}

func (w *world) hasValues(values ...string) {
	w.Helper()
	if got := w.etcd.Values("/s/"); !slices.Equal(got, values) {
		w.Errorf("etcd holds %q, want %q", got, values)
	}
}

// comesToHold waits for some heartbeats. It fails unless etcd then holds the one
// value under one lease, and the Registrar says so.
func (w *world) comesToHold(r *etcdv3.Registrar, value string) {
	w.Helper()
	after(10 * time.Second)
	w.holds(1, value)
	w.isRegistered(r)
}

func (w *world) isRegistered(r *etcdv3.Registrar) {
	w.Helper()
	if err := r.Err(); err != nil {
		w.Errorf("Err: %v", err)
	}
}

// says fails unless an error holds a text.
func (w *world) says(err error, text string) {
	w.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		w.Errorf("got %v, want %q", err, text)
	}
}

// within fails unless something takes no longer than a time.
func (w *world) within(most time.Duration, do func()) {
	w.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > most {
		w.Errorf("took %v, want %v at most", took, most)
	}
}

// until waits until a condition holds, and fails if that takes longer than a time.
func (w *world) until(most time.Duration, what string, is func() bool) (took time.Duration) {
	w.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > most {
			w.Fatalf("not %s within %v", what, most)
		}
		after(10 * time.Millisecond)
	}
	return time.Since(began)
}

// wasNeverDeleted fails if a key was ever deleted.
func (w *world) wasNeverDeleted(key string) {
	w.Helper()
	for _, kv := range w.etcd.History(key) {
		if kv.Version == 0 {
			w.Errorf("%s was deleted: %+v", key, w.etcd.History(key))
			return
		}
	}
}

// writes is how many requests came that can change what is registered.
func (w *world) writes() int {
	return w.etcd.Count("Txn") + w.etcd.Count("Put") + w.etcd.Count("LeaseGrant")
}

// hook is what settings of a cluster are made of.
type hook[T any] = func(member int, method string, req any) T

// only is a hook that has a value for some methods, and none for the others.
func only[T any](value T, methods ...string) hook[T] {
	return func(_ int, method string, _ any) (none T) {
		if slices.Contains(methods, method) {
			return value
		}
		return none
	}
}

// refuses has some methods answered with an error, and no others, from now on.
func (w *world) refuses(err error, methods ...string) {
	w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = only(err, methods...) })
}

// delays holds up some methods, and no others, from now on. They are carried out
// after that.
func (w *world) delays(d time.Duration, methods ...string) {
	w.etcd.Set(func(s *etcdtest.Settings) { s.Delay = only(d, methods...) })
}

// delaysAnswers holds up the answers of some methods.
func (w *world) delaysAnswers(d time.Duration, methods ...string) {
	w.etcd.Set(func(s *etcdtest.Settings) { s.DelayAnswer = only(d, methods...) })
}

// heals has all requests carried out and answered at once, from now on.
func (w *world) heals() {
	w.etcd.Set(func(s *etcdtest.Settings) { *s = etcdtest.Settings{} })
}

// at does something once, when a request of a method arrives.
func (w *world) at(method string, do func()) {
	var once sync.Once
	w.etcd.Set(func(s *etcdtest.Settings) {
		s.Refuse = func(_ int, m string, _ any) error {
			if m == method {
				once.Do(do)
			}
			return nil
		}
	})
}

// point is where a request can be held up.
type point struct {
	method   string
	answered bool // after it was carried out
}

func (p point) String() string {
	if p.answered {
		return p.method + " answered"
	}
	return p.method
}

// hold holds up the next request at a point for a time, and returns what is
// closed when there is one.
func (w *world) hold(p point, d time.Duration) <-chan struct{} {
	reached := make(chan struct{})
	var once sync.Once
	wait := func(_ int, method string, _ any) (wait time.Duration) {
		if method == p.method {
			once.Do(func() {
				close(reached)
				wait = d
			})
		}
		return wait
	}
	w.etcd.Set(func(s *etcdtest.Settings) {
		if p.answered {
			s.DelayAnswer = wait
		} else {
			s.Delay = wait
		}
	})
	return reached
}

// soon waits until a channel is closed, or fails.
func (w *world) soon(reached <-chan struct{}, what any) {
	w.Helper()
	select {
	case <-reached:
	case <-time.After(20 * time.Second):
		w.Fatalf("there is no %v", what)
	}
}

// start starts something, and returns what is closed when that has returned.
func start(do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	return done
}

// way is how a member stops answering, and answers again.
type way struct {
	name       string
	away, back func(*etcdtest.Member)
}

var waysToBeAway = []way{
	{"down", (*etcdtest.Member).Down, (*etcdtest.Member).Up},
	{"silent", (*etcdtest.Member).Silence, (*etcdtest.Member).Speak},
	{"frozen", (*etcdtest.Member).Freeze, (*etcdtest.Member).Thaw},
}

// all does the same to all members.
func (w *world) all(do func(*etcdtest.Member)) {
	for _, m := range w.etcd.Members() {
		do(m)
	}
}

var errUnavailable = status.Error(codes.Unavailable, "refused by the test")

// journal is a logger that can be read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) logger() log.Logger {
	return log.With(log.NewLogfmtLogger(j), "at", log.Valuer(func() any { return time.Now().Format("15:04:05.000") }))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// count is how many lines hold all texts.
func (j *journal) count(texts ...string) (n int) {
	for line := range strings.Lines(j.String()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// logs fails unless exactly n lines hold a text.
func (w *world) logs(j *journal, n int, texts ...string) {
	w.Helper()
	synctest.Wait()
	if got := j.count(texts...); got != n {
		w.Fatalf("%d lines hold %q, want %d:\n%s", got, texts, n, j)
	}
}

// events are those of a subscriber with room for all.
type events struct{ ch chan sd.Event }

func subscribed(s sd.Instancer) *events {
	e := &events{make(chan sd.Event, 10_000)}
	s.Register(e.ch)
	return e
}

// take returns the events since the last call, as text.
func (e *events) take() (all []string) {
	for len(e.ch) > 0 {
		if event := <-e.ch; event.Err != nil {
			all = append(all, "error")
		} else {
			all = append(all, strings.Join(event.Instances, " "))
		}
	}
	return all
}

// are fails unless the events since the last call are those.
func (e *events) are(t testing.TB, want ...string) {
	t.Helper()
	if got := e.take(); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// followed returns an Instancer for "/s/", with a subscriber. It stops with the
// test.
func (w *world) followed(c etcdv3.Client) (*events, *journal) {
	w.Helper()
	j := &journal{}
	s, err := etcdv3.NewInstancer(c, "/s/", j.logger())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(s.Stop)
	return subscribed(s), j
}

// waits are the times between moments.
func waits(all []time.Time) (waits []time.Duration) {
	for i := 1; i < len(all); i++ {
		waits = append(waits, all[i].Sub(all[i-1]))
	}
	return waits
}

// since are the moments after one.
func since(all []time.Time, moment time.Time) []time.Time {
	return slices.DeleteFunc(slices.Clone(all), func(at time.Time) bool { return !at.After(moment) })
}

// key is the i-th of many.
func key(i int) string { return fmt.Sprintf("/s/%04d", i) }

// plain returns a connection of somebody else to the cluster.
func (w *world) plain() *grpc.ClientConn {
	w.Helper()
	conn, err := grpc.NewClient("passthrough:///"+w.etcd.Endpoints()[0], w.etcd.Dialer(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close() })
	return conn
}
