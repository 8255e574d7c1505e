// Types of the program's own on top of the package's.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/sd/etcdv3"
)

type serviceInfo etcdv3.Service

type options struct {
	etcdv3.ClientOptions
	Machines []string
}

func (s *serviceInfo) setTTL(heartbeat, ttl time.Duration) {
	s.TTL = etcdv3.NewTTLOption(heartbeat, ttl)
}

func main() {
	o := options{Machines: []string{os.Getenv("ETCD")}}
	o.DialTimeout = time.Second
	client, err := etcdv3.NewClient(context.Background(), o.Machines, o.ClientOptions)
	if err != nil {
		log.Fatal(err)
	}
	info := serviceInfo{Key: "/15-own-service-type/1", Value: "10.0.0.1:8080"}
	info.setTTL(time.Second, 3*time.Second)
	if err := client.Register(etcdv3.Service(info)); err != nil {
		log.Fatal(err)
	}
	if err := client.Deregister(etcdv3.Service(info)); err != nil {
		log.Fatal(err)
	}
}
