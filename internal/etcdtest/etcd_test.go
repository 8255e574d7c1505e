package etcdtest_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// virtually runs a story on a cluster in a bubble.
func virtually(t *testing.T, config etcdtest.Config, story func(t *testing.T, etcd *etcdtest.Etcd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { story(t, etcdtest.Start(t, config)) })
}

// connect returns a client that closes with the test.
func connect(t *testing.T, etcd *etcdtest.Etcd, change ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{
		Endpoints: etcd.Endpoints(), Logger: zap.NewNop(),
		DialOptions: append(etcd.DialOptions(), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 10 * time.Second,
		})),
	}
	for _, c := range change {
		c(&config)
	}
	cli, err := clientv3.New(config)
	must(t, err)
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// connectAll returns a client that has a connection to every member.
func connectAll(t *testing.T, etcd *etcdtest.Etcd) *clientv3.Client {
	t.Helper()
	cli := connect(t, etcd)
	_, err := cli.Get(t.Context(), "a")
	must(t, err)
	synctest.Wait()
	return cli
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// took runs something and returns how long it took, to ten milliseconds.
func took(do func()) time.Duration {
	begin := time.Now()
	do()
	return time.Since(begin).Round(10 * time.Millisecond)
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func sameAll[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestKeysInABubbleAndOutside(t *testing.T) {
	story := func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		put, err := cli.Put(t.Context(), "a", "1")
		must(t, err)
		same(t, "revision", put.Header.Revision, 2)
		got, err := cli.Get(t.Context(), "a")
		must(t, err)
		same(t, "value", string(got.Kvs[0].Value), "1")
		sameAll(t, "values", etcd.Values(""), []string{"1"})
		same(t, "puts", etcd.Count("Put"), 1)
		same(t, "connections", etcd.Connections(), 1)
	}
	t.Run("bubble", func(t *testing.T) { virtually(t, etcdtest.Config{}, story) })
	t.Run("outside", func(t *testing.T) {
		t.Parallel()
		story(t, etcdtest.Start(t, etcdtest.Config{}))
	})
}

func TestLeaseExpiresUnlessItIsRenewed(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		grant, err := cli.Grant(t.Context(), 10)
		must(t, err)
		_, err = cli.Put(t.Context(), "a", "1", clientv3.WithLease(grant.ID))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		renewed, err := cli.KeepAlive(ctx, grant.ID)
		must(t, err)
		go func() {
			for range renewed {
			}
		}()
		time.Sleep(time.Hour)
		sameAll(t, "keys", etcd.Keys(""), []string{"a"})
		cancel()
		time.Sleep(11 * time.Second)
		sameAll(t, "keys", etcd.Keys(""), nil)
		same(t, "leases", len(etcd.Leases()), 0)
	})
}
