package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// An etcd is one real member, in a child process so that it can go away as a
// machine does, in a directory and on ports of its own that it comes back with.
type etcd struct {
	dir     string
	client  string // host:port for clients
	peer    string // host:port for other members, of which there are none
	process *child // nil while it is away
}

// newEtcd chooses directory and ports.
func newEtcd() (*etcd, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "quickstart-etcd-")
	if err != nil {
		return nil, err
	}
	return &etcd{dir: dir, client: ports[0], peer: ports[1]}, nil
}

// freePorts returns addresses that nobody listens on.
func freePorts(n int) (addresses []string, err error) {
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }() // when all are chosen, so that they differ
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

// start returns when etcd serves.
func (e *etcd) start(ctx context.Context) (err error) {
	e.process, _, err = startChild(ctx, "etcd", e.dir, e.client, e.peer)
	return err
}

// goAway ends etcd as a power failure would.
func (e *etcd) goAway() {
	if e.process != nil {
		e.process.kill()
		e.process = nil
	}
}

// remove leaves nothing behind.
func (e *etcd) remove() {
	e.goAway()
	_ = os.RemoveAll(e.dir)
}

// etcdChild is what the child process does: directory and addresses are given.
func etcdChild(args []string, ready func(string), ended <-chan struct{}) error {
	client, peer := url.URL{Scheme: "http", Host: args[1]}, url.URL{Scheme: "http", Host: args[2]}
	config := embed.NewConfig()
	config.Dir = args[0]
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "error"
	member, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", config.Dir, err)
	}
	select {
	case <-member.Server.ReadyNotify():
		ready("serving")
	case <-time.After(readyTimeout):
		return errors.New("etcd does not become ready")
	}
	select {
	case err = <-member.Err():
		return err
	case <-ended: // nobody needs what is in it any more
		return nil
	}
}
