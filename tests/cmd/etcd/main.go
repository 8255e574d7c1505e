// Etcd is one etcd member in a process of its own, for tests and examples whose
// module must not require etcd's server. It prints the address that it serves
// clients at, and ends when its standard input does, or with a signal.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

// readyTimeout bounds the wait for a leader.
const readyTimeout = 30 * time.Second

func run() error {
	config, cleanUp, err := configure()
	if err != nil {
		return err
	}
	defer cleanUp()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()

	member, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer member.Close()
	select {
	case <-member.Server.ReadyNotify():
	case err := <-member.Err():
		return err
	case <-time.After(readyTimeout):
		return errors.New("it does not get ready")
	case <-ended:
		return nil
	}
	fmt.Println(member.Clients[0].Addr())
	select {
	case err := <-member.Err():
		return err
	case <-signals:
	case <-ended:
	}
	return nil
}

// configure makes the configuration of a member from the flags.
func configure() (config *embed.Config, cleanUp func(), err error) {
	config = embed.NewConfig()
	tls := &config.ClientTLSInfo
	flag.StringVar(&config.Dir, "dir", "", "the `directory` of the store; one that is removed at the end if it is empty")
	flag.StringVar(&config.Name, "name", config.Name, "the `name` of the member")
	flag.StringVar(&config.InitialCluster, "initial-cluster", "", "the `members`, as name=url,...; this one alone if it is empty")
	flag.StringVar(&tls.TrustedCAFile, "ca", "", "the `file` of the CA that signs what clients have to show")
	flag.StringVar(&tls.CertFile, "cert", "", "the `file` of the certificate: turns on TLS for clients")
	flag.StringVar(&tls.KeyFile, "key", "", "the `file` of the certificate's key")
	flag.StringVar(&config.AuthToken, "auth-token", config.AuthToken, "the `kind` of token for users: simple, or jwt,...")
	flag.UintVar(&config.AuthTokenTTL, "auth-token-ttl", config.AuthTokenTTL, "how many `seconds` a simple token is good for")
	clients := flag.String("listen", "127.0.0.1:0", "`host:port` for clients")
	peers := flag.String("peer", "127.0.0.1:0", "`host:port` for other members")
	fsync := flag.Bool("fsync", false, "wait for the disk at every write")
	flag.Parse()

	scheme := "http"
	if tls.CertFile != "" {
		scheme = "https"
	}
	tls.ClientCertAuth = tls.TrustedCAFile != ""
	config.ListenClientUrls = []url.URL{{Scheme: scheme, Host: *clients}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: *peers}}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	if config.InitialCluster == "" {
		config.InitialCluster = config.InitialClusterFromName(config.Name)
		config.TickMs, config.ElectionMs = 10, 100 // it elects itself at once
	}
	config.UnsafeNoFsync = !*fsync
	config.BcryptCost = 4 // the least that there is
	config.LogLevel, config.LogOutputs = "fatal", []string{os.DevNull}
	cleanUp = func() {}
	if config.Dir == "" {
		dir, err := os.MkdirTemp("", "etcd")
		if err != nil {
			return nil, nil, err
		}
		config.Dir = filepath.Join(dir, "data")
		cleanUp = func() { _ = os.RemoveAll(dir) }
	}
	return config, cleanUp, nil
}
