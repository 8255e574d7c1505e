// Command register publishes itself until it is told to end.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	kitlog "github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

func main() {
	client, err := etcdv3.NewClient(context.Background(), []string{"127.0.0.1:2379"}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/services/greeter/10.0.0.1:8080", // unique for each instance
		Value: "http://10.0.0.1:8080",            // what callers get
	}, kitlog.NewLogfmtLogger(os.Stderr))

	// docker, systemd and Kubernetes send SIGTERM.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	registrar.Register() // goes on trying if etcd is away
	defer registrar.Deregister()
	<-ctx.Done()
}
