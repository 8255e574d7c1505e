// No TTL, no logger to speak of, and nobody deregisters: what most programs do.
package main

import (
	"context"
	"log"
	"os"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

func main() {
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/01-defaults/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
	}, kitlog.NewNopLogger())
	registrar.Register()

	entries, err := client.GetEntries("/01-defaults/")
	if err != nil || len(entries) != 1 || entries[0] != "10.0.0.1:8080" {
		log.Fatal(entries, err)
	}
}
