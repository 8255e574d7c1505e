package etcd_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/metrics"
	"github.com/kitsd/etcdv3/internal/dial"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"github.com/kitsd/etcdv3/internal/meter"
	clientv3 "go.etcd.io/etcd/client/v3"
	"sync/atomic"
)

// counter is a metric that counts.
type counter struct{ n atomic.Int64 }

func (c *counter) With(...string) metrics.Counter { return c }
func (c *counter) Add(delta float64)              { c.n.Add(int64(delta)) }

// world is a cluster, and one connection to it.
type world struct {
	*testing.T
	etcd    *etcdtest.Etcd
	conn    *etcd.Conn
	retries *counter
}

// virtually runs a story in a bubble, with a user if the cluster has users.
func virtually(t *testing.T, config etcdtest.Config, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { story(connect(t, etcdtest.Start(t, config), "", "")) })
}

func connect(t *testing.T, e *etcdtest.Etcd, user, password string) *world {
	t.Helper()
	w := &world{T: t, etcd: e, retries: &counter{}}
	w.conn = etcd.NewConn(etcd.Config{
		Timeout: 3 * time.Second, Username: user, Password: password, Metrics: &meter.Metrics{Retries: w.retries},
	})
	cli, err := dial.Dial(t.Context(), e.Endpoints(), dial.Options{DialOptions: e.DialOptions(), Username: user, Password: password},
		dial.Own{Options: w.conn.DialOptions(), Wrap: w.conn.Wrap})
	if err != nil {
		t.Fatal(err)
	}
	w.conn.Open(cli)
	t.Cleanup(func() {
		w.conn.Close()
		_ = cli.Close()
	})
	return w
}

// put writes a key, and returns how long that took.
func (w *world) put(ctx context.Context, key string) (time.Duration, error) {
	began := time.Now()
	_, err := etcd.Ask(ctx, w.conn, etcd.Writing, func(ctx context.Context) (*clientv3.PutResponse, error) {
		return w.conn.KV.Put(ctx, key, "v")
	})
	return time.Since(began), err
}

// within is a context that ends with the test, or after a time.
func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), d)
	w.Cleanup(cancel)
	return ctx
}
