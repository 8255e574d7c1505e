// One client serves several Instancers, and one of them stops.
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
	channels := map[string]chan sd.Event{}
	var instancers []*etcdv3.Instancer
	for _, service := range []string{"users", "orders", "billing"} {
		instancer, err := etcdv3.NewInstancer(client, "/06-several-instancers/"+service, kitlog.NewNopLogger())
		if err != nil {
			log.Fatal(err)
		}
		instancers = append(instancers, instancer)
		channels[service] = make(chan sd.Event, 10)
		instancer.Register(channels[service])
	}
	instancers[0].Stop()

	time.Sleep(200 * time.Millisecond)
	for service := range channels {
		key := "/06-several-instancers/" + service + "/10.0.0.1:8080"
		if err := client.Register(etcdv3.Service{Key: key, Value: "10.0.0.1:8080"}); err != nil {
			log.Fatal(err)
		}
	}
	timeout := time.After(5 * time.Second)
	for _, service := range []string{"orders", "billing"} {
		for seen := 0; seen == 0; {
			select {
			case event := <-channels[service]:
				seen = len(event.Instances)
			case <-timeout:
				log.Fatal("nobody saw ", service)
			}
		}
	}
}
