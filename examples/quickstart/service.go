package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/go-kit/kit/endpoint"
	kithttp "github.com/go-kit/kit/transport/http"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

// A short TTL keeps the story short. Services do well with the default, which
// is a heartbeat of 3 s and a TTL of 10 s.
const (
	heartbeat = time.Second
	ttl       = 3 * time.Second
)

// An instance is one go-kit HTTP service that registers itself.
type instance struct {
	name      string
	address   string
	server    *http.Server
	registrar *etcdv3.Registrar
	close     context.CancelFunc // closes its etcd client
}

// answer is what an instance answers to every call.
type answer struct {
	Name string `json:"name"`
}

// startInstance serves on a free port, and registers that under prefix + name.
func startInstance(machines []string, prefix, name string) (*instance, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, err := etcdv3.NewClient(ctx, machines, etcdv3.ClientOptions{})
	if err != nil {
		cancel()
		_ = listener.Close()
		return nil, err
	}
	address := "http://" + listener.Addr().String()
	i := &instance{
		name:    name,
		address: address,
		server:  &http.Server{Handler: handler(name)},
		registrar: etcdv3.NewRegistrar(client, etcdv3.Service{
			Key:   prefix + name,
			Value: address,
			TTL:   etcdv3.NewTTLOption(heartbeat, ttl),
		}, log.NewNopLogger()),
		close: cancel,
	}
	go func() { _ = i.server.Serve(listener) }()
	i.registrar.Register() // once it serves
	return i, nil
}

// handler is the service: go-kit's endpoint and transport.
func handler(name string) http.Handler {
	var whoami endpoint.Endpoint = func(context.Context, any) (any, error) {
		return answer{Name: name}, nil
	}
	return kithttp.NewServer(whoami, kithttp.NopRequestDecoder, kithttp.EncodeJSONResponse)
}

// newCall is the other end of it: an endpoint that calls one instance.
func newCall(address string) (endpoint.Endpoint, error) {
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	decode := func(_ context.Context, response *http.Response) (any, error) {
		var a answer
		err := json.NewDecoder(response.Body).Decode(&a)
		return a, err
	}
	return kithttp.NewClient(request.Method, request.URL, kithttp.EncodeJSONRequest, decode).Endpoint(), nil
}

// stop leaves in the right order: first out of discovery, then no more calls.
func (i *instance) stop() {
	i.registrar.Deregister()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = i.server.Shutdown(ctx)
	i.close()
}
