package etcdv3

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	"github.com/go-kit/log"
)

// TestMainPath is what every program does: one client registers and discovers,
// and calls go round the instances.
func TestMainPath(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	journal := &journal{}
	registrars := map[string]*Registrar{}
	for _, instance := range []string{"a", "b", "c"} {
		registrars[instance] = NewRegistrar(c, Service{Key: "/services/foo/" + instance, Value: instance}, journal.logger())
		registrars[instance].Register()
	}
	instancer, err := NewInstancer(c, "/services/foo/", log.NewNopLogger())
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
	eventually(t, time.Second, "calls go to all", func() bool { return answers() == "abc" })
	copied := *registrars["b"] // a copy is the same registration
	copied.Deregister()
	eventually(t, time.Second, "calls go to the others", func() bool { return answers() == "ac" })
	if err := registrars["b"].Err(); !errors.Is(err, errDeregistered) {
		t.Error(err)
	}
	registrars["b"].Register()
	eventually(t, time.Second, "calls go to all again", func() bool { return answers() == "abc" })
	for _, r := range registrars {
		r.Deregister()
	}
	eventually(t, time.Second, "there is nobody to call", func() bool { return strings.Contains(answers(), lb.ErrNoEndpoints.Error()) })
	if n := journal.count("action=register"); n != 4 || journal.count("action=deregister") != 4 {
		t.Errorf("log:\n%s", journal)
	}
}
