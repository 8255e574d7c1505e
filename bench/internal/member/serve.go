package member

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// environment is the variable that makes a program a member instead of itself.
const environment = "ETCDV3_BENCH_MEMBER"

// txnOps is how many keys one transaction may write: populations are written
// in transactions of that size.
const txnOps = 1000

// config is what a member's process is told.
type config struct {
	Name    string
	Dir     string
	Client  string // the URL that it serves
	Peer    string
	Control string // the address of its control server
	Initial string // the initial cluster
	NoFsync bool
}

// ServeIfAsked makes this process a member, and does not return, if Start has
// begun it. Call it first in main, or in TestMain.
func ServeIfAsked() {
	said := os.Getenv(environment)
	if said == "" {
		return
	}
	if err := serve(said); err != nil {
		fmt.Fprintln(os.Stderr, "member:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs a member until standard input ends, which it does with the
// process that began this one.
func serve(said string) error {
	var c config
	if err := json.Unmarshal([]byte(said), &c); err != nil {
		return err
	}
	cfg, err := c.embedded()
	if err != nil {
		return err
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return err
	case <-time.After(time.Minute):
		return fmt.Errorf("not ready after a minute")
	}
	listener, err := net.Listen("tcp", c.Control)
	if err != nil {
		return err
	}
	direct := v3client.New(etcd.Server)
	control := &http.Server{Handler: newControl(direct)}
	go control.Serve(listener)
	defer control.Close()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// embedded is the configuration of the server: etcd's defaults, but for what a
// benchmark needs.
func (c config) embedded() (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name = c.Name
	cfg.Dir = c.Dir
	cfg.LogLevel = "fatal"
	cfg.LogOutputs = []string{"stderr"}
	cfg.UnsafeNoFsync = c.NoFsync
	cfg.MaxTxnOps = txnOps
	cfg.QuotaBackendBytes = 4 << 30
	cfg.BcryptCost = 4 // the least: not bcrypt is measured, but how often it is needed
	cfg.InitialCluster = c.Initial
	client, err := url.Parse(c.Client)
	if err != nil {
		return nil, err
	}
	peer, err := url.Parse(c.Peer)
	if err != nil {
		return nil, err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	return cfg, cfg.Validate()
}
