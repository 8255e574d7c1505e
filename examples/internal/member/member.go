// Package member starts an etcd for the tests of the examples.
package member

import (
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/kitsd/etcdv3/internal/alone"
	"go.etcd.io/etcd/server/v3/embed"
)

// holdTheMachine keeps other test binaries away until this one ends.
var holdTheMachine = sync.OnceFunc(func() { alone.Hold() })

// Member is an etcd in this process.
type Member struct {
	Endpoint string
	Stop     func() // may be called twice
}

// Start starts a member, and ends it with the test.
func Start(t testing.TB, configure ...func(*embed.Config)) Member {
	t.Helper()
	holdTheMachine()
	client, peer := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}, []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config := embed.NewConfig()
	config.Dir = t.TempDir()
	config.ListenClientUrls, config.AdvertiseClientUrls = client, client
	config.ListenPeerUrls, config.AdvertisePeerUrls = peer, peer
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel, config.LogOutputs = "fatal", []string{os.DevNull}
	config.UnsafeNoFsync = true
	config.TickMs, config.ElectionMs = 10, 100 // it elects itself at once
	config.BcryptCost = 4
	for _, f := range configure {
		f(config)
	}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(fmt.Errorf("start etcd: %w", err))
	}
	stop := sync.OnceFunc(etcd.Close)
	t.Cleanup(stop)
	<-etcd.Server.ReadyNotify()
	return Member{etcd.Clients[0].Addr().String(), stop}
}
