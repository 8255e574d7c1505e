// A Registrar held by value.
package main

import (
	"context"
	"log"
	"os"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

type server struct {
	registrar etcdv3.Registrar
	instancer *etcdv3.Instancer
}

func main() {
	client, err := etcdv3.NewClient(context.Background(), []string{"http://" + os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	var s server
	s.registrar = *etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/14-registrar-by-value/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
	}, kitlog.NewNopLogger())
	s.registrar.Register()
	entries, err := client.GetEntries("/14-registrar-by-value/")
	if err != nil || len(entries) != 1 {
		log.Fatal(entries, err)
	}
	s.registrar.Deregister()
	entries, err = client.GetEntries("/14-registrar-by-value/")
	if err != nil || len(entries) != 0 {
		log.Fatal(entries, err)
	}
}
