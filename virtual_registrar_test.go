package etcdv3

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/sd"
)

// virtualClient is a Client that is not one of this package: its methods do
// what the test says.
type virtualClient struct {
	mu      sync.Mutex // guards all below
	err     error      // of every call
	values  []string
	calls   map[string]int
	stuck   chan struct{} // GetEntries waits for it, if there is one
	signals chan struct{} // makes WatchPrefix signal
	end     chan struct{} // ends WatchPrefix
	closes  bool          // its channel, at the end
}

func newVirtualClient(values ...string) *virtualClient {
	return &virtualClient{values: values, calls: map[string]int{}, signals: make(chan struct{}), end: make(chan struct{})}
}

func (c *virtualClient) called(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[name]++
	return c.err
}

func (c *virtualClient) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[name]
}

// becomes changes the values, and what every call returns.
func (c *virtualClient) becomes(err error, values ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.values = err, values
}

func (c *virtualClient) Register(Service) error   { return c.called("register") }
func (c *virtualClient) Deregister(Service) error { return c.called("deregister") }
func (c *virtualClient) LeaseID() int64           { return 7 }

func (c *virtualClient) GetEntries(string) ([]string, error) {
	err := c.called("list")
	c.mu.Lock()
	stuck, values := c.stuck, c.values
	c.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	return values, err
}

func (c *virtualClient) WatchPrefix(_ string, ch chan struct{}) {
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

var errVirtual = errors.New("the double has no etcd")

func TestVirtual_Registrar_TriesUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient()
		c.becomes(errVirtual)
		j := &journal{}
		r := NewRegistrar(c, Service{Key: "/s/1", Value: "v", TTL: fast}, j.logger())
		if r.Err() == nil {
			t.Error("Err is nil before Register")
		}
		r.Register()
		after(time.Hour)
		if n := c.count("register"); n < 1800 || n > 5500 {
			t.Errorf("%d attempts in an hour", n)
		}
		if n := j.count("the double has no etcd"); n != 1 || !errors.Is(r.Err(), errVirtual) {
			t.Errorf("%d lines in an hour, Err: %v", n, r.Err())
		}
		c.becomes(errors.New("another failure"))
		after(time.Minute)
		if j.count("another failure") != 1 {
			t.Errorf("%s", j)
		}
		c.becomes(nil)
		after(backoffMax)
		tries := c.count("register")
		after(time.Hour)
		if r.Err() != nil || j.count("action=register lease=7") != 1 || c.count("register") != tries {
			t.Errorf("%v\n%s", r.Err(), j)
		}
		r.Deregister()
		if r.Err() == nil || j.count("action=deregister") != 1 {
			t.Errorf("%v\n%s", r.Err(), j)
		}
	})
}

func TestVirtual_Registrar_StopsOnDeregister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient()
		c.becomes(errVirtual)
		j := &journal{}
		r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, j.logger())
		copied := *r
		r.Register()
		after(time.Minute)
		copied.Deregister()
		tries := c.count("register")
		c.becomes(nil)
		after(time.Hour)
		if c.count("register") != tries || r.Err() == nil {
			t.Errorf("%d attempts after Deregister", c.count("register")-tries)
		}
		r.Deregister()
		r.Register()
		if r.Err() != nil || copied.Err() != nil {
			t.Error(r.Err(), copied.Err())
		}
	})
}

func TestVirtual_Registrar_GivesUpWhatCannotSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{ErrNoKey, ErrNoValue, errClosed} {
			c := newVirtualClient()
			c.becomes(err)
			r := NewRegistrar(c, Service{}, nil)
			r.Register()
			after(time.Hour)
			if c.count("register") != 1 || !errors.Is(r.Err(), err) {
				t.Errorf("%d attempts, Err: %v", c.count("register"), r.Err())
			}
		}
	})
}

// polled returns an Instancer over a double, with a subscriber.
func polled(t *testing.T, c *virtualClient) (*Instancer, *virtualEvents, *journal) {
	t.Helper()
	j := &journal{}
	s, err := NewInstancer(c, "/s/", j.logger())
	if err != nil {
		t.Fatal(err)
	}
	return s, subscribed(s), j
}

func TestVirtual_ForeignClient_FailsAndRecoversWithoutASignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient("b", "a", "b")
		s, events, j := polled(t, c)
		events.are(t, "a b")
		after(time.Hour)
		if c.count("list") != 1 {
			t.Errorf("%d lists without a signal", c.count("list"))
		}
		c.becomes(errVirtual)
		c.signals <- struct{}{}
		after(time.Hour)
		events.are(t, "error")
		if n := j.count("failed to retrieve"); n != 1 {
			t.Errorf("%d lines in an hour", n)
		}
		c.becomes(nil, "c")
		after(backoffMax)
		events.are(t, "c")
		close(c.end)
		s.Stop()
	})
}

func TestVirtual_ForeignClient_ThatFailsAtFirst_Recovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient()
		c.becomes(errVirtual)
		s, events, _ := polled(t, c)
		events.are(t, "error")
		c.becomes(nil, "a")
		after(time.Second)
		events.are(t, "a")
		s.Stop()
		s.Stop()
		close(c.end)
	})
}

func TestVirtual_ForeignClient_ThatClosesItsChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient("a")
		c.closes = true
		s, events, _ := polled(t, c)
		close(c.end)
		after(time.Hour)
		events.are(t, "a")
		if c.count("list") != 1 {
			t.Errorf("%d lists after the end", c.count("list"))
		}
		s.Stop()
	})
}

func TestVirtual_ForeignClient_ThatHangs_DoesNotHoldStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVirtualClient("a")
		s, events, _ := polled(t, c)
		events.are(t, "a")
		stuck := make(chan struct{})
		c.mu.Lock()
		c.stuck = stuck
		c.mu.Unlock()
		for range 5 { // taken, although nobody lists
			c.signals <- struct{}{}
			after(time.Second)
		}
		began := time.Now()
		s.Stop()
		if took := time.Since(began); took > foreignTimeout {
			t.Errorf("Stop took %v", took)
		}
		c.becomes(nil, "b")
		close(stuck)
		after(time.Minute)
		events.are(t)
		if n := c.count("list"); n > 3 { // one more may have begun before Stop was seen
			t.Errorf("%d lists for signals that came while one hung, and Stop", n)
		}
		close(c.end)
	})
}

var _ sd.Registrar = (*Registrar)(nil)
