// Every exported name, in every place where a program can put it.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
	"google.golang.org/grpc"
)

var (
	_ sd.Registrar = (*etcdv3.Registrar)(nil)
	_ sd.Instancer = (*etcdv3.Instancer)(nil)
	_ error        = etcdv3.ErrNoKey
	_ error        = etcdv3.ErrNoValue

	newClient    func(context.Context, []string, etcdv3.ClientOptions) (etcdv3.Client, error) = etcdv3.NewClient
	newRegistrar func(etcdv3.Client, etcdv3.Service, kitlog.Logger) *etcdv3.Registrar         = etcdv3.NewRegistrar
	newInstancer func(etcdv3.Client, string, kitlog.Logger) (*etcdv3.Instancer, error)        = etcdv3.NewInstancer
	newTTLOption func(time.Duration, time.Duration) *etcdv3.TTLOption                         = etcdv3.NewTTLOption
)

func main() {
	client, err := newClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{
		Cert: "", Key: "", CACert: "",
		DialTimeout: time.Second, DialKeepAlive: time.Second,
		DialOptions: []grpc.DialOption{grpc.WithUserAgent("18-names")},
		Username:    "", Password: "",
	})
	if err != nil {
		log.Fatal(err)
	}
	var registrar sd.Registrar = newRegistrar(client, etcdv3.Service{
		Key: "/18-names/1", Value: "v", TTL: newTTLOption(time.Second, 3*time.Second),
	}, kitlog.NewNopLogger())
	registrar.Register()
	defer registrar.Deregister()
	var instancer sd.Instancer
	if instancer, err = newInstancer(client, "/18-names/", kitlog.NewNopLogger()); err != nil {
		log.Fatal(err)
	}
	defer instancer.Stop()
	events := make(chan sd.Event, 1)
	instancer.Register(events)
	instancer.Deregister(events)
	signals := make(chan struct{})
	go client.WatchPrefix("/18-names/", signals)
	<-signals
}
