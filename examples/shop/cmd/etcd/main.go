// Etcd is an etcd for those who have none installed: one member, which forgets
// everything when it ends.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	address := flag.String("listen", "127.0.0.1:2379", "`host:port` for clients")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *address); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address string) error {
	dir, err := os.MkdirTemp("", "shop-etcd-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	client := []url.URL{{Scheme: "http", Host: address}}
	peer := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}} // there are no others
	config := embed.NewConfig()
	config.Dir = dir
	config.ListenClientUrls, config.AdvertiseClientUrls = client, client
	config.ListenPeerUrls, config.AdvertisePeerUrls = peer, peer
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "error"
	member, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	select {
	case <-member.Server.ReadyNotify():
		fmt.Println("etcd serves at", address)
	case err := <-member.Err():
		return err
	}
	select {
	case err = <-member.Err():
		return err
	case <-ctx.Done(): // what it holds is not needed any more
		return nil
	}
}
