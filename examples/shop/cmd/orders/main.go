// Orders is one instance of the service that takes orders.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/shop/internal/node"
	"github.com/kitsd/etcdv3/examples/shop/orders"
	"github.com/oklog/run"
)

func main() {
	options := node.Flags()
	address := flag.String("http", "127.0.0.1:0", "`host:port` to serve HTTP on; 0 is a free port")
	flag.Parse()
	if err := serve(options, *address); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

func serve(options *node.Options, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	name := listener.Addr().String()
	logger := log.With(log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)),
		"ts", log.DefaultTimestampUTC, "service", "orders", "http", name)

	// One client registers this service, and discovers the other.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, options.Machines(), etcdv3.ClientOptions{})
	if err != nil {
		return err
	}
	desk, err := orders.NewDesk(client, name, logger)
	if err != nil {
		return err
	}
	defer desk.Close()

	registrar := options.Registrar(client, orders.Prefix, name, logger)
	handler := orders.Handler(desk)
	handler.Handle("GET /ready", node.Ready(registrar))

	var g run.Group
	options.AddRegistration(&g, registrar)
	node.AddHTTP(&g, listener, handler)
	return node.Run(&g, logger)
}
