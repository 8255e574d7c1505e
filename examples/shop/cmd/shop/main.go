// Shop is the command line of the shop. It finds orders by discovery.
//
//	shop order apple 2
//	shop stock
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/shop/orders"
	"github.com/kitsd/etcdv3/examples/shop/stock"
)

var errUsage = errors.New("say: shop [-etcd host:port,...] order ITEM COUNT, or: shop [-etcd host:port,...] stock")

func main() {
	machines := flag.String("etcd", "127.0.0.1:2379", "etcd's `endpoints`, with commas between them")
	flag.Parse()
	if err := shop(strings.Split(*machines, ","), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "shop:", err)
		os.Exit(1)
	}
}

func shop(machines, args []string) error {
	command, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, machines, etcdv3.ClientOptions{})
	if err != nil {
		return err
	}
	service, err := orders.NewClient(client, log.NewNopLogger())
	if err != nil {
		return err
	}
	defer service.Close()
	return command(ctx, service)
}

func parse(args []string) (command func(context.Context, orders.Service) error, err error) {
	switch {
	case len(args) == 1 && args[0] == "stock":
		return list, nil
	case len(args) == 3 && args[0] == "order":
		count, err := strconv.Atoi(args[2])
		if err != nil {
			return nil, errUsage
		}
		return func(ctx context.Context, service orders.Service) error {
			return order(ctx, service, args[1], count)
		}, nil
	}
	return nil, errUsage
}

func order(ctx context.Context, service orders.Service, item string, count int) error {
	// The ID is chosen here, so that the order is served once even if it has
	// to be sent twice.
	o := stock.Order{ID: rand.Text(), Item: item, Count: count}
	confirmation, err := service.Place(ctx, o)
	switch {
	case err != nil:
		return err
	case confirmation.Refused != "":
		return errors.New(confirmation.Refused)
	}
	fmt.Printf("order %s: %d of %s, placed with %s, served by %s, %d left\n",
		o.ID, count, item, confirmation.PlacedWith, confirmation.By, confirmation.Left)
	return nil
}

func list(ctx context.Context, service orders.Service) error {
	counts, err := service.Stock(ctx)
	if err != nil {
		return err
	}
	for _, item := range slices.Sorted(maps.Keys(counts)) {
		fmt.Printf("%8d  %s\n", counts[item], item)
	}
	return nil
}
