// A hook at exit makes a client of its own to deregister what another one has
// registered.
package main

import (
	"context"
	"log"
	"os"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

var service = etcdv3.Service{Key: "/11-exit-hook/10.0.0.1:8080", Value: "10.0.0.1:8080"}

func registrar() *etcdv3.Registrar {
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	return etcdv3.NewRegistrar(client, service, kitlog.NewNopLogger())
}

func main() {
	registrar().Register()
	registrar().Deregister()

	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	entries, err := client.GetEntries("/11-exit-hook/")
	if err != nil || len(entries) != 0 {
		log.Fatal(entries, err)
	}
}
