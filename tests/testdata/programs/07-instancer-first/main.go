// The Instancer comes first, then the program registers itself with the same
// client, and waits until it sees itself.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

func main() {
	client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	instancer, err := etcdv3.NewInstancer(client, "/07-instancer-first", kitlog.NewNopLogger())
	if err != nil {
		log.Fatal(err)
	}
	events := make(chan sd.Event, 10)
	instancer.Register(events)
	time.Sleep(200 * time.Millisecond)

	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/07-instancer-first/10.0.0.1:8080",
		Value: "10.0.0.1:8080",
	}, kitlog.NewNopLogger())
	registrar.Register()
	for _, want := range []int{1, 0} {
		timeout := time.After(5 * time.Second)
		for seen := -1; seen != want; {
			select {
			case event := <-events:
				if seen = len(event.Instances); seen == want && want == 1 {
					registrar.Deregister()
				}
			case <-timeout:
				log.Fatal("not seen: ", want)
			}
		}
	}
}
