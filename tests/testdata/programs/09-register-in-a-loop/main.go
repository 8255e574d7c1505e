// Register in a loop, to be sure: what people did against the registration
// that is gone for good after an outage.
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
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/09-register-in-a-loop/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
		TTL:   etcdv3.NewTTLOption(time.Second, 3*time.Second),
	}, kitlog.NewNopLogger())
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for range 20 {
		registrar.Register()
		if client.LeaseID() == 0 {
			log.Fatal("no lease")
		}
		<-ticker.C
	}
	registrar.Deregister()
	entries, err := client.GetEntries("/09-register-in-a-loop/")
	if err != nil || len(entries) != 0 {
		log.Fatal(entries, err)
	}
}
