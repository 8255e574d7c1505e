// One client holds several services. One of them ends before the others.
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
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	var registrars []*etcdv3.Registrar
	for _, transport := range []string{"http", "grpc", "admin"} {
		registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
			Key:   "/05-several-services/" + transport + "/10.0.0.1:8080",
			Value: "10.0.0.1:8080",
			TTL:   etcdv3.NewTTLOption(time.Second, 2*time.Second),
		}, kitlog.NewNopLogger())
		registrar.Register()
		registrars = append(registrars, registrar)
	}
	registrars[0].Deregister()

	time.Sleep(4 * time.Second) // longer than the TTL
	entries, err := client.GetEntries("/05-several-services/")
	if err != nil || len(entries) != 2 {
		log.Fatal(entries, err)
	}
	for _, registrar := range registrars[1:] {
		registrar.Deregister()
	}
}
