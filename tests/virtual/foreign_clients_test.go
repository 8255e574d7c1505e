package virtual_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
)

// foreignTimeout is how long a Registrar or an Instancer waits for a Client that
// is not one of the package, whose methods nothing can cancel.
const foreignTimeout = 3 * time.Second

// double is a Client that is not one of the package: its methods do what the test
// says.
type double struct {
	mu      sync.Mutex // guards all below
	err     error      // of every call
	values  []string
	calls   map[string]int
	stuck   chan struct{} // GetEntries waits for it, if there is one
	signals chan struct{} // makes WatchPrefix signal
	end     chan struct{} // ends WatchPrefix
	closes  bool          // its channel, at the end
}

var (
	_ etcdv3.Client = (*double)(nil)
	_ sd.Registrar  = (*etcdv3.Registrar)(nil)
	_ sd.Instancer  = (*etcdv3.Instancer)(nil)
)

func newDouble(values ...string) *double {
	return &double{values: values, calls: map[string]int{}, signals: make(chan struct{}), end: make(chan struct{})}
}

func (c *double) called(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[name]++
	return c.err
}

func (c *double) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[name]
}

// becomes changes the values, and what every call returns.
func (c *double) becomes(err error, values ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.values = err, values
}

func (c *double) Register(etcdv3.Service) error   { return c.called("register") }
func (c *double) Deregister(etcdv3.Service) error { return c.called("deregister") }
func (c *double) LeaseID() int64                  { return 7 }

func (c *double) GetEntries(string) ([]string, error) {
	err := c.called("list")
	c.mu.Lock()
	stuck, values := c.stuck, c.values
	c.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	return values, err
}

func (c *double) WatchPrefix(_ string, ch chan struct{}) {
	for {
		select {
		case <-c.signals:
			ch <- struct{}{}
		case <-c.end:
			if c.closes {
				close(ch)
			}
			return
		}
	}
}

var errOfDouble = errors.New("the double has no etcd")

// apart runs a story in virtual time without a cluster.
func apart(t *testing.T, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { story(&world{T: t}) })
}

// polled returns an Instancer over a double, with a subscriber.
func (w *world) polled(c etcdv3.Client) (*etcdv3.Instancer, *events, *journal) {
	w.Helper()
	j := &journal{}
	s, err := etcdv3.NewInstancer(c, "/s/", j.logger())
	if err != nil {
		w.Fatal(err)
	}
	return s, subscribed(s), j
}

func TestRegistrarOverAForeignClient_TriesUntilItSucceeds(t *testing.T) {
	apart(t, func(w *world) {
		c := newDouble()
		c.becomes(errOfDouble)
		r, j := registrar(c, timed(time.Second, 4*time.Second))
		w.says(r.Err(), "Register was not called yet")
		r.Register()
		after(time.Hour)
		if n := c.count("register"); n < 1800 || n > 5500 {
			w.Errorf("%d attempts in an hour", n)
		}
		w.logs(j, 7, "the double has no etcd") // and after 1, 11, ... 51 minutes
		if !errors.Is(r.Err(), errOfDouble) {
			w.Error(r.Err())
		}
		c.becomes(errors.New("another failure"))
		after(5 * time.Second)
		w.logs(j, 1, "another failure")
		after(time.Minute) // the trouble began an hour and a minute ago
		w.logs(j, 2, "another failure")
		c.becomes(nil)
		after(2 * time.Second)
		tries := c.count("register")
		after(time.Hour)
		w.isRegistered(r)
		w.logs(j, 1, "action=register", "lease=7")
		if n := c.count("register"); n != tries {
			w.Errorf("%d attempts after it succeeded", n-tries)
		}
		r.Deregister()
		w.says(r.Err(), "deregistered")
		w.logs(j, 1, "action=deregister")
	})
}

func TestRegistrarOverAForeignClient_StopsOnDeregister(t *testing.T) {
	apart(t, func(w *world) {
		c := newDouble()
		c.becomes(errOfDouble)
		r, _ := registrar(c, service("v"))
		copied := *r
		r.Register()
		after(time.Minute)
		copied.Deregister()
		tries := c.count("register")
		c.becomes(nil)
		after(time.Hour)
		if n := c.count("register"); n != tries {
			w.Errorf("%d attempts after Deregister", n-tries)
		}
		w.says(r.Err(), "deregistered")
		r.Deregister()
		r.Register()
		w.isRegistered(r)
		w.isRegistered(&copied)
	})
}

func TestRegistrarOverAForeignClient_GivesUpWhatCannotSucceed(t *testing.T) {
	virtually(t, func(w *world) {
		ended, cancel := w.client()
		cancel()
		after(time.Second)
		for _, err := range []error{etcdv3.ErrNoKey, etcdv3.ErrNoValue, ended.Register(service("v"))} {
			c := newDouble()
			c.becomes(err)
			r, j := registrar(c, etcdv3.Service{})
			r.Register()
			after(time.Hour)
			if n := c.count("register"); n != 1 || !errors.Is(r.Err(), err) {
				w.Errorf("%d attempts, Err: %v", n, r.Err())
			}
			w.logs(j, 1, "")
		}
	})
}

// The Client of the package is foreign, too, once it is wrapped.
func TestDeregisterDuringAForeignRegister_LeavesNothing(t *testing.T) {
	for _, p := range []point{{"LeaseGrant", false}, {"LeaseGrant", true}, {"Txn", false}, {"Txn", true}} {
		virtually(t, func(w *world) {
			c, _ := w.client()
			r, _ := registrar(struct{ etcdv3.Client }{c}, service("v"))
			reached := w.hold(p, time.Second)
			registering := start(r.Register)
			w.soon(reached, p)
			w.within(2*requestTimeout, r.Deregister)
			<-registering
			after(time.Minute)
			w.holds(0)
			w.says(r.Err(), "deregistered")
		})
	}
}

func TestInstancerOverAForeignClient_FailsAndRecoversWithoutASignal(t *testing.T) {
	apart(t, func(w *world) {
		c := newDouble("b", "a", "b")
		s, events, j := w.polled(c)
		events.are(w, "a b")
		after(time.Hour)
		if n := c.count("list"); n != 1 {
			w.Errorf("%d lists without a signal", n)
		}
		c.becomes(errOfDouble)
		c.signals <- struct{}{}
		after(time.Hour)
		events.are(w, "error")
		w.logs(j, 1, "failed to retrieve")
		c.becomes(nil, "c")
		after(2 * time.Second)
		events.are(w, "c")
		close(c.end)
		s.Stop()
	})
}

func TestInstancerOverAForeignClient_ThatFailsAtFirst_Recovers(t *testing.T) {
	apart(t, func(w *world) {
		c := newDouble()
		c.becomes(errOfDouble)
		s, events, _ := w.polled(c)
		events.are(w, "error")
		c.becomes(nil, "a")
		after(time.Second)
		events.are(w, "a")
		s.Stop()
		s.Stop()
		close(c.end)
	})
}

func TestInstancerOverAForeignClient_ThatClosesItsChannel(t *testing.T) {
	apart(t, func(w *world) {
		c := newDouble("a")
		c.closes = true
		s, events, _ := w.polled(c)
		close(c.end)
		after(time.Hour)
		events.are(w, "a")
		if n := c.count("list"); n != 1 {
			w.Errorf("%d lists after the end", n)
		}
		s.Stop()
	})
}

func TestInstancerOverAForeignClient_ThatHangs_IsStopped(t *testing.T) {
	apart(t, func(w *world) {
		c := newDouble("a")
		s, events, _ := w.polled(c)
		events.are(w, "a")
		stuck := make(chan struct{})
		c.mu.Lock()
		c.stuck = stuck
		c.mu.Unlock()
		for range 5 { // taken, although nobody lists
			c.signals <- struct{}{}
			after(time.Second)
		}
		w.within(foreignTimeout, s.Stop)
		c.becomes(nil, "b")
		close(stuck)
		after(time.Minute)
		events.are(w)
		if n := c.count("list"); n > 3 { // one more may have begun before Stop was seen
			w.Errorf("%d lists for signals that came while one hung, and Stop", n)
		}
		close(c.end)
	})
}

// deaf is a Client whose WatchPrefix hands its channel on and returns.
type deaf struct {
	*double
	signal chan chan struct{}
}

func (c deaf) WatchPrefix(_ string, ch chan struct{}) { c.signal <- ch }

func TestInstancerOverAForeignClient_ThatReturnsFromWatchPrefix_IsStillHeard(t *testing.T) {
	apart(t, func(w *world) {
		c := deaf{newDouble("a"), make(chan chan struct{}, 1)}
		s, events, _ := w.polled(c)
		ch := <-c.signal
		after(time.Minute)
		c.becomes(nil, "a", "b")
		ch <- struct{}{}
		after(time.Second)
		events.are(w, "a", "a b")
		s.Stop()
	})
}

func TestInstancerOverAWrappedClient_ThatIsClosed_LeavesTheSet(t *testing.T) {
	virtually(t, func(w *world) {
		w.etcd.Put("/s/1", "a")
		own, cancel := w.client()
		s, events, _ := w.polled(struct{ etcdv3.Client }{own})
		after(time.Second)
		w.etcd.Put("/s/1", "b")
		after(time.Second)
		events.are(w, "a", "b")
		cancel()
		after(time.Second)
		w.etcd.Put("/s/1", "c")
		after(time.Hour)
		events.are(w)
		s.Stop()
	})
}

func TestInstancerOverAForeignClient_ThatIsClosed_LeavesTheSet(t *testing.T) {
	virtually(t, func(w *world) {
		ended, cancel := w.client()
		cancel()
		after(time.Second)
		c := newDouble("a")
		s, events, _ := w.polled(c)
		c.becomes(ended.Register(service("v")))
		c.signals <- struct{}{}
		after(time.Hour)
		events.are(w, "a")
		if n := c.count("list"); n != 2 {
			w.Errorf("%d lists", n)
		}
		s.Stop()
		close(c.end)
	})
}

func TestInstancerOverAWrappedClient_FollowsThroughAnOutage(t *testing.T) {
	for _, way := range waysToBeAway {
		virtually(t, func(w *world) {
			w.etcd.Put("/s/1", "a")
			own, _ := w.client()
			s, events, _ := w.polled(struct{ etcdv3.Client }{own})
			w.Cleanup(s.Stop)
			after(time.Minute)
			w.all(way.away)
			after(20 * time.Second) // 15 s, and the request that tells
			if got := events.take(); len(got) < 2 || slices.ContainsFunc(got[1:], func(event string) bool { return event != "error" }) {
				w.Errorf("%s: events %q", way.name, got)
			}
			w.etcd.Put("/s/2", "b")
			w.all(way.back)
			after(2 * again)
			events.are(w, "a b")
		})
	}
}
