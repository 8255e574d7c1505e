// The value is JSON, which the factory takes apart.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	"github.com/go-kit/kit/sd/lb"
	kitlog "github.com/go-kit/log"
)

type node struct {
	Address string            `json:"address"`
	Weight  int               `json:"weight"`
	Tags    map[string]string `json:"tags"`
}

func main() {
	machines := strings.Split(os.Getenv("ETCD"), ",")
	client, err := etcdv3.NewClient(context.Background(), machines, etcdv3.ClientOptions{})
	if err != nil {
		log.Fatal(err)
	}
	value, err := json.Marshal(node{Address: "10.0.0.1:8080", Weight: 3, Tags: map[string]string{"zone": "a"}})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Register(etcdv3.Service{Key: "/13-json-values/1", Value: string(value)}); err != nil {
		log.Fatal(err)
	}
	instancer, err := etcdv3.NewInstancer(client, "/13-json-values/", kitlog.NewNopLogger())
	if err != nil {
		log.Fatal(err)
	}
	var seen node
	factory := func(instance string) (endpoint.Endpoint, io.Closer, error) {
		if err := json.Unmarshal([]byte(instance), &seen); err != nil {
			return nil, nil, err
		}
		return endpoint.Nop, nil, nil
	}
	endpointer := sd.NewEndpointer(instancer, factory, kitlog.NewNopLogger(), sd.InvalidateOnError(time.Second))
	balancer := lb.NewRandom(endpointer, 1)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := balancer.Endpoint(); err == nil {
			break
		} else if time.Since(began) > 5*time.Second {
			log.Fatal(err)
		}
	}
	if seen.Address != "10.0.0.1:8080" || seen.Tags["zone"] != "a" {
		log.Fatal(seen)
	}
}
