// One client registers and discovers, as in the example of go-kit: it waits
// for the connection, the prefix has no slash at its end, and calls go through
// an endpointer, a balancer and a retry.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	"github.com/go-kit/kit/sd/lb"
	kitlog "github.com/go-kit/log"
	"google.golang.org/grpc"
)

func main() {
	ctx := context.Background()
	client, err := etcdv3.NewClient(ctx, []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{
		CACert:        "",
		Cert:          "",
		Key:           "",
		Username:      "",
		Password:      "",
		DialTimeout:   3 * time.Second,
		DialKeepAlive: 3 * time.Second,
		DialOptions:   []grpc.DialOption{grpc.WithBlock()},
	})
	if err != nil {
		log.Fatal(err)
	}
	logger := kitlog.NewNopLogger()
	instancer, err := etcdv3.NewInstancer(client, "/02-one-client/bar", logger)
	if err != nil {
		log.Fatal(err)
	}
	defer instancer.Stop()

	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/02-one-client/bar/1.2.3.4:8080",
		Value: "http://1.2.3.4:8080",
	}, logger)
	registrar.Register()
	defer registrar.Deregister()

	endpointer := sd.NewEndpointer(instancer, barFactory, logger)
	defer endpointer.Close()
	retry := lb.Retry(100, 3*time.Second, waiting{lb.NewRoundRobin(endpointer)})
	if _, err := retry(ctx, struct{}{}); err != nil {
		log.Fatal(err)
	}
}

func barFactory(string) (endpoint.Endpoint, io.Closer, error) { return endpoint.Nop, nil, nil }

// waiting gives the discovery a moment before the balancer is asked again.
type waiting struct{ lb.Balancer }

func (w waiting) Endpoint() (endpoint.Endpoint, error) {
	e, err := w.Balancer.Endpoint()
	if err != nil {
		time.Sleep(20 * time.Millisecond)
	}
	return e, err
}
