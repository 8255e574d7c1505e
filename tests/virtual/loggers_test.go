package virtual_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
)

// blocking is a logger that does not return from lines with a text until it is
// let on.
type blocking struct {
	text    string
	reached chan struct{} // closed when there is such a line
	on      chan struct{} // closed to let it on
	is      atomic.Bool
}

func newBlocking(text string) *blocking {
	return &blocking{text: text, reached: make(chan struct{}), on: make(chan struct{})}
}

func (l *blocking) Log(keyvals ...any) error {
	if strings.Contains(fmt.Sprint(keyvals...), l.text) {
		if l.is.CompareAndSwap(false, true) {
			close(l.reached)
		}
		<-l.on
	}
	return nil
}

func TestLoggerThatBlocksForAnHour_KeepsNothingFromHealing(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		logger := newBlocking("")
		r := etcdv3.NewRegistrar(c, service("v"), logger)
		w.within(requestTimeout, r.Register)
		w.soon(logger.reached, "line")
		w.isRegistered(r)
		s, err := etcdv3.NewInstancer(c, "/s/", logger)
		if err != nil {
			w.Fatal(err)
		}
		events := subscribed(s)
		began := time.Now()
		for time.Since(began) < time.Hour {
			w.etcd.RevokeAll()
			w.until(4*time.Second, "registered again", func() bool { return len(w.etcd.Values("/s/")) == 1 && r.Err() == nil })
			w.etcd.Member(0).Break()
			after(30 * time.Second)
			w.holds(1, "v")
		}
		if got := events.take(); len(got) < 100 || got[len(got)-1] != "v" {
			w.Errorf("%d events", len(got))
		}
		w.within(requestTimeout, r.Deregister)
		w.within(requestTimeout, s.Stop)
		w.holds(0)
		close(logger.on)
	})
}

func TestRegisterWhileDeregisterLogs_IsWhatErrTells(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		logger := newBlocking("deregister")
		r := etcdv3.NewRegistrar(c, service("v"), logger)
		r.Register()
		deregistering := start(r.Deregister)
		w.soon(logger.reached, "line")
		w.says(r.Err(), "deregistered")
		r.Register()
		close(logger.on)
		<-deregistering
		w.isRegistered(r)
		w.holds(1, "v")
	})
}

func TestLoggerThatCallsTheRegistrar_IsNoDeadlock(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		var r *etcdv3.Registrar
		j := &journal{}
		logger := j.logger()
		r = etcdv3.NewRegistrar(c, service("v"), loggerFunc(func(keyvals ...any) error {
			_ = r.Err()
			return logger.Log(keyvals...)
		}))
		w.within(requestTimeout, r.Register)
		w.etcd.RevokeAll()
		w.comesToHold(r, "v")
		w.logs(j, 1, "registered again")
		w.within(requestTimeout, r.Deregister)
	})
}

type loggerFunc func(keyvals ...any) error

func (f loggerFunc) Log(keyvals ...any) error { return f(keyvals...) }

func TestNilLoggerAndNilClient_DoNotPanic(t *testing.T) {
	apart(t, func(w *world) {
		r := etcdv3.NewRegistrar(nil, service("v"), nil)
		r.Register()
		w.says(r.Err(), "client is nil")
		r.Deregister()
		w.says(r.Err(), "client is nil")
		if _, err := etcdv3.NewInstancer(nil, "/s/", nil); err == nil {
			w.Error("no error")
		}
	})
}
