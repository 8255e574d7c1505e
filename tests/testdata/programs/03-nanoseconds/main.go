// Durations without a unit: 3 ns where 3 s were meant.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

func main() {
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{
		DialTimeout:   3,
		DialKeepAlive: 3,
	})
	if err != nil {
		log.Fatal(err)
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/03-nanoseconds/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
		TTL:   etcdv3.NewTTLOption(3, 10),
	}, kitlog.NewNopLogger())
	registrar.Register()
	defer registrar.Deregister()

	time.Sleep(3 * time.Second) // longer than the TTL that this comes to
	entries, err := client.GetEntries("/03-nanoseconds/")
	if err != nil || len(entries) != 1 {
		log.Fatal(entries, err)
	}
}
