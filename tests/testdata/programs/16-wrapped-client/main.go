// A wrapper of the Client that counts what goes through it.
package main

import (
	"context"
	"log"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

type counting struct {
	etcdv3.Client
	registered, listed atomic.Int64
}

func (c *counting) Register(s etcdv3.Service) error {
	c.registered.Add(1)
	return c.Client.Register(s)
}

func (c *counting) GetEntries(prefix string) ([]string, error) {
	c.listed.Add(1)
	return c.Client.GetEntries(prefix)
}

func main() {
	inner, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	client := &counting{Client: inner}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/16-wrapped-client/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
		TTL:   etcdv3.NewTTLOption(time.Second, 3*time.Second),
	}, kitlog.NewNopLogger())
	registrar.Register()
	instancer, err := etcdv3.NewInstancer(client, "/16-wrapped-client/", kitlog.NewNopLogger())
	if err != nil {
		log.Fatal(err)
	}
	events := make(chan sd.Event, 10)
	instancer.Register(events)
	if event := <-events; len(event.Instances) != 1 {
		log.Fatal(event)
	}
	registrar.Deregister()
	timeout := time.After(5 * time.Second)
	for left := 1; left != 0; {
		select {
		case event := <-events:
			left = len(event.Instances)
		case <-timeout:
			log.Fatal("not seen")
		}
	}
	if client.registered.Load() != 1 || client.listed.Load() < 2 {
		log.Fatal(client.registered.Load(), client.listed.Load())
	}
}
