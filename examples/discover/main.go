// Command discover calls the instances that are registered, one after the other.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	kitlog "github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{"127.0.0.1:2379"}, etcdv3.ClientOptions{})
	if err != nil {
		return err
	}
	logger := kitlog.NewLogfmtLogger(os.Stderr)
	instancer, err := etcdv3.NewInstancer(client, "/services/greeter/", logger) // mind the slash at the end
	if err != nil {
		return err
	}
	defer instancer.Stop()
	endpointer := sd.NewEndpointer(instancer, greeter, logger)
	defer endpointer.Close()
	greet := lb.Retry(3, time.Second, lb.NewRoundRobin(endpointer))

	for range 10 {
		fmt.Println(greet(ctx, "hello"))
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// greeter makes the endpoint of one instance; yours makes a client of it.
func greeter(instance string) (endpoint.Endpoint, io.Closer, error) {
	return func(_ context.Context, request any) (any, error) {
		return fmt.Sprintf("%v, %s", request, instance), nil
	}, nil, nil
}
