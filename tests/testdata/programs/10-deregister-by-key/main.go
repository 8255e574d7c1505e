// Deregister with nothing but the key, through the Client.
package main

import (
	"context"
	"errors"
	"log"
	"os"

	"github.com/go-kit/kit/sd/etcdv3"
)

func main() {
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Register(etcdv3.Service{Key: "/10-deregister-by-key/1"}); !errors.Is(err, etcdv3.ErrNoValue) {
		log.Fatal(err)
	}
	if err := client.Register(etcdv3.Service{Value: "v"}); err != etcdv3.ErrNoKey {
		log.Fatal(err)
	}
	if err := client.Register(etcdv3.Service{Key: "/10-deregister-by-key/1", Value: "v"}); err != nil {
		log.Fatal(err)
	}
	if err := client.Deregister(etcdv3.Service{Key: "/10-deregister-by-key/1"}); err != nil {
		log.Fatal(err)
	}
	entries, err := client.GetEntries("/10-deregister-by-key/")
	if err != nil || len(entries) != 0 {
		log.Fatal(entries, err)
	}
}
