// A duration that is multiplied by time.Second twice, and overflows to a
// negative one.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

type config struct {
	heartbeat time.Duration
	ttl       time.Duration
	timeout   time.Duration
}

func main() {
	c := config{heartbeat: 3 * time.Second, ttl: 10 * time.Second, timeout: 10 * time.Second}
	if c.ttl*time.Second >= 0 {
		log.Fatal("this is to be negative")
	}
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{
		DialTimeout:   c.timeout * time.Second,
		DialKeepAlive: c.timeout * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	err = client.Register(etcdv3.Service{
		Key:   "/04-overflow/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
		TTL:   etcdv3.NewTTLOption(c.heartbeat, c.ttl*time.Second),
	})
	if err != nil {
		log.Fatal(err)
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/04-overflow/10.0.0.2:8080",
		Value: "10.0.0.2:8080",
		TTL:   etcdv3.NewTTLOption(c.heartbeat*time.Second, c.ttl*time.Second),
	}, kitlog.NewNopLogger())
	registrar.Register()

	entries, err := client.GetEntries("/04-overflow/")
	if err != nil || len(entries) != 2 {
		log.Fatal(entries, err)
	}
}
