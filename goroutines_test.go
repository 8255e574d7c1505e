package etcdv3_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"google.golang.org/grpc"
)

// TestGoroutines_AreThoseOfTheDocuments counts the goroutines of a client as its
// program adds to it, and takes away. doc.go and docs/architecture.md quote the
// numbers.
func TestGoroutines_AreThoseOfTheDocuments(t *testing.T) {
	for _, c := range []struct{ members, more int }{{members: 1}, {members: 3, more: 1}} {
		synctest.Test(t, func(t *testing.T) {
			etcd := etcdtest.Start(t, etcdtest.Config{Members: c.members})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			client, err := etcdv3.NewClient(ctx, etcd.Endpoints(), etcdv3.ClientOptions{DialOptions: []grpc.DialOption{etcd.Dialer()}})
			must(err)
			owns(t, "a client that is idle", 3+c.more)

			instancer, err := etcdv3.NewInstancer(client, "/services/", nil)
			must(err)
			owns(t, "with an Instancer", 3+c.more+2)
			events := make(chan sd.Event, 10)
			instancer.Register(events)
			owns(t, "with its subscriber", 3+c.more+3)

			first := etcdv3.NewRegistrar(client, etcdv3.Service{Key: "/services/1", Value: "1"}, nil)
			first.Register()
			owns(t, "with a service", 3+c.more+6)
			second := etcdv3.NewRegistrar(client, etcdv3.Service{Key: "/services/2", Value: "2"}, nil)
			second.Register()
			owns(t, "with a second service", 3+c.more+7)

			instancer.Stop()
			owns(t, "with two services alone", 3+c.more+5)
			first.Deregister()
			second.Deregister()
			owns(t, "after both were deregistered", 3+c.more+2)
			cancel()
			owns(t, "after its context has ended", 0)
		})
	}
}

// owns fails unless the package has so many goroutines, once nothing is under way.
func owns(t *testing.T, what string, want int) {
	t.Helper()
	time.Sleep(time.Minute)
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	got := strings.Count(string(stacks), "created by github.com/kitsd/etcdv3/internal/worker.Start ")
	if got != want {
		t.Errorf("%s: %d goroutines, want %d", what, got, want)
	}
}
