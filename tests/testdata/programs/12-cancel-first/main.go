// The context ends before Deregister is called: the order of two defers.
package main

import (
	"context"
	"log"
	"os"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

func serve() {
	ctx, cancel := context.WithCancel(context.Background())
	client, err := etcdv3.NewClient(ctx, []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/12-cancel-first/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
	}, kitlog.NewNopLogger())
	registrar.Register()
	defer registrar.Deregister()
	defer cancel()
}

func main() {
	serve()
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	entries, err := client.GetEntries("/12-cancel-first/")
	if err != nil || len(entries) != 0 {
		log.Fatal(entries, err)
	}
}
