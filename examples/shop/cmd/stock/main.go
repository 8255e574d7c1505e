// Stock is one instance of the service that knows what is on the shelves.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/shop/internal/node"
	"github.com/kitsd/etcdv3/examples/shop/stock"
	"github.com/oklog/run"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

func main() {
	options := node.Flags()
	httpAddress := flag.String("http", "127.0.0.1:0", "`host:port` to serve HTTP on; 0 is a free port")
	grpcAddress := flag.String("grpc", "127.0.0.1:0", "`host:port` to serve gRPC on; 0 is a free port")
	goods := flag.String("goods", "apple=100,pear=50", "what to put on shelves that do not exist yet")
	flag.Parse()
	if err := serve(options, *httpAddress, *grpcAddress, *goods); err != nil {
		fmt.Fprintln(os.Stderr, "stock:", err)
		os.Exit(1)
	}
}

func serve(options *node.Options, httpAddress, grpcAddress, goods string) error {
	httpListener, err := net.Listen("tcp", httpAddress)
	if err != nil {
		return err
	}
	defer func() { _ = httpListener.Close() }()
	grpcListener, err := net.Listen("tcp", grpcAddress)
	if err != nil {
		return err
	}
	defer func() { _ = grpcListener.Close() }()
	logger := log.With(log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr)),
		"ts", log.DefaultTimestampUTC, "service", "stock", "http", httpListener.Addr(), "grpc", grpcListener.Addr())

	// The shelves are in etcd too, so there is a clientv3 client already:
	// discovery uses the same one.
	cli, err := connect(options.Machines())
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		return err
	}
	shelves := stock.NewShelves(cli, grpcListener.Addr().String())
	if err := fill(ctx, shelves, goods); err != nil {
		return err
	}

	byHTTP := options.Registrar(client, stock.HTTPPrefix, httpListener.Addr().String(), log.With(logger, "transport", "http"))
	byGRPC := options.Registrar(client, stock.GRPCPrefix, grpcListener.Addr().String(), log.With(logger, "transport", "grpc"))
	handler := stock.Handler(shelves)
	handler.Handle("GET /ready", node.Ready(byHTTP, byGRPC))
	server := grpc.NewServer()
	stock.RegisterGRPC(server, shelves)

	var g run.Group
	options.AddRegistration(&g, byHTTP, byGRPC)
	node.AddHTTP(&g, httpListener, handler)
	node.AddGRPC(&g, grpcListener, server)
	return node.Run(&g, logger)
}

// connect returns a client that notices a silent link before a TTL is over.
func connect(machines []string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:            machines,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
	})
}

// fillTimeout bounds the wait for etcd at the start.
const fillTimeout = 5 * time.Second

func fill(ctx context.Context, shelves *stock.Shelves, goods string) error {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	for _, pair := range strings.Split(goods, ",") {
		item, number, _ := strings.Cut(pair, "=")
		count, err := strconv.Atoi(number)
		if err != nil || item == "" {
			return fmt.Errorf("-goods: %q is not item=count", pair)
		}
		if err := shelves.Fill(ctx, item, count); err != nil {
			return fmt.Errorf("fill the shelves: %w", err)
		}
	}
	return nil
}
