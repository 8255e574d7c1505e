package tests

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/alone"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// node is one member with a port and a directory of its own, which can come
// back with another store. Clients reach it through a bridge.
type node struct {
	*bridge
	t      testing.TB
	config *embed.Config
	etcd   *embed.Etcd
}

// newNode starts a member, and ends it with the test.
func newNode(t testing.TB, configure ...func(*embed.Config)) *node {
	t.Helper()
	holdTheMachine()
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(t.TempDir(), "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	client, peer := freeURL(t), freeURL(t)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = true
	cfg.BcryptCost = 4 // the least that there is
	for _, f := range configure {
		f(cfg)
	}
	n := &node{t: t, config: cfg}
	n.start()
	t.Cleanup(func() { n.stop() })
	n.bridge = newBridge(t, cfg.ListenClientUrls[0].String())
	return n
}

// freeURL returns an address that nobody else listens at before the test's end.
func freeURL(t testing.TB) url.URL {
	t.Helper()
	return url.URL{Scheme: "http", Host: alone.Port(t)}
}

// start starts the member, and waits until it serves.
func (n *node) start() {
	n.t.Helper()
	cfg := *n.config
	var err error
	if n.etcd, err = embed.StartEtcd(&cfg); err != nil {
		n.t.Fatal(err)
	}
	select {
	case <-n.etcd.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		n.t.Fatal("the member does not get ready")
	}
}

func (n *node) stop() {
	if n.etcd != nil {
		n.etcd.Close()
		n.etcd = nil
	}
}

// wipe removes the store of a member that is stopped.
func (n *node) wipe() {
	n.t.Helper()
	if err := os.RemoveAll(n.config.Dir); err != nil {
		n.t.Fatal(err)
	}
}

// backUp copies the store of a member that is stopped, and returns what puts
// the copy back.
func (n *node) backUp() (restore func()) {
	n.t.Helper()
	saved := filepath.Join(n.t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(n.config.Dir)); err != nil {
		n.t.Fatal(err)
	}
	return func() {
		n.wipe()
		if err := os.CopyFS(n.config.Dir, os.DirFS(saved)); err != nil {
			n.t.Fatal(err)
		}
	}
}

// admin returns a plain clientv3 client that does not pass the bridge.
func (n *node) admin() *clientv3.Client {
	n.t.Helper()
	return plain(n.t, n.config.ListenClientUrls[0].String())
}

// plain returns a clientv3 client that ends with the test.
func plain(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	return cli
}
