package etcdv3_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

// TestMainPath is what every program does: one client registers and discovers,
// and calls go round the instances.
func TestMainPath(t *testing.T) {
	etcd := startEtcd()
	defer etcd.stop()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := etcdv3.NewClient(ctx, []string{etcd.endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var registered, deregistered atomic.Int64
	logger := log.LoggerFunc(func(keyvals ...any) error {
		for i := 0; i+1 < len(keyvals); i += 2 {
			switch {
			case keyvals[i] == "err":
				t.Errorf("logged: %v", keyvals)
			case keyvals[i] == "action" && keyvals[i+1] == "register":
				registered.Add(1)
			case keyvals[i] == "action" && keyvals[i+1] == "deregister":
				deregistered.Add(1)
			}
		}
		return nil
	})
	registrars := map[string]*etcdv3.Registrar{}
	for _, instance := range []string{"a", "b", "c"} {
		registrars[instance] = etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/services/foo/" + instance, Value: instance}, logger)
		registrars[instance].Register()
	}
	instancer, err := etcdv3.NewInstancer(c, "/services/foo/", log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer instancer.Stop()
	factory := func(instance string) (endpoint.Endpoint, io.Closer, error) {
		return func(context.Context, any) (any, error) { return instance, nil }, nil, nil
	}
	endpointer := sd.NewEndpointer(instancer, factory, log.NewNopLogger())
	defer endpointer.Close()
	call := lb.Retry(3, time.Second, lb.NewRoundRobin(endpointer))
	answers := func() (all string) {
		seen := map[string]bool{}
		for range 6 {
			answer, err := call(t.Context(), nil)
			if err != nil {
				return err.Error()
			}
			seen[answer.(string)] = true
		}
		for _, instance := range []string{"a", "b", "c"} {
			if seen[instance] {
				all += instance
			}
		}
		return all
	}
	eventually(t, "calls go to all", func() bool { return answers() == "abc" })
	copied := *registrars["b"] // a copy is the same registration
	copied.Deregister()
	eventually(t, "calls go to the others", func() bool { return answers() == "ac" })
	if err := registrars["b"].Err(); err == nil || err.Error() != "deregistered" {
		t.Errorf("Err of what is deregistered: %v", err)
	}
	registrars["b"].Register()
	eventually(t, "calls go to all again", func() bool { return answers() == "abc" })
	for _, r := range registrars {
		r.Deregister()
	}
	eventually(t, "there is nobody to call", func() bool { return strings.Contains(answers(), lb.ErrNoEndpoints.Error()) })
	if registered.Load() != 4 || deregistered.Load() != 4 {
		t.Errorf("logged: registered %d times, deregistered %d times", registered.Load(), deregistered.Load())
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for began := time.Now(); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("not within 10 s:", what)
		}
	}
}
