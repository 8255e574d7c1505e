// Package node is what all services of the shop have in common: how they
// register, say that they are ready, serve, and end.
package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/oklog/run"
	"google.golang.org/grpc"
)

// Options are the flags that all services have.
type Options struct {
	etcd  string
	ttl   time.Duration
	drain time.Duration
}

// Flags declares them. They are set once flag.Parse was called.
func Flags() *Options {
	o := &Options{}
	flag.StringVar(&o.etcd, "etcd", "127.0.0.1:2379", "etcd's `endpoints`, with commas between them")
	flag.DurationVar(&o.ttl, "ttl", 10*time.Second, "how long a registration outlives its process")
	flag.DurationVar(&o.drain, "drain", time.Second, "how long to go on serving after having left etcd")
	return o
}

// Machines are etcd's endpoints.
func (o *Options) Machines() []string { return strings.Split(o.etcd, ",") }

// Registrar registers an address, which makes the key unique.
func (o *Options) Registrar(client etcdv3.Client, prefix, address string, logger log.Logger) *etcdv3.Registrar {
	return etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   prefix + address,
		Value: address,
		TTL:   etcdv3.NewTTLOption(o.ttl/3, o.ttl),
	}, logger)
}

// AddRegistration registers, and deregisters before all actors that are added
// after this one end: run.Group interrupts in the order of Add. So nobody is
// sent to a server that has stopped.
func (o *Options) AddRegistration(g *run.Group, registrars ...*etcdv3.Registrar) {
	registered, left := make(chan struct{}), make(chan struct{})
	g.Add(func() error {
		for _, r := range registrars {
			r.Register() // if etcd is away, it goes on trying in the background
		}
		close(registered)
		<-left
		return nil
	}, func(error) {
		<-registered
		for _, r := range registrars {
			r.Deregister()
		}
		time.Sleep(o.drain) // callers have calls under way, and learn in a moment
		close(left)
	})
}

// Ready answers 200 once everything was registered, and says what is not now. It
// stays at 200: an etcd that is away must take no instance out.
func Ready(registrars ...*etcdv3.Registrar) http.Handler {
	var started atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var reasons error
		for _, r := range registrars {
			reasons = errors.Join(reasons, r.Err())
		}
		if reasons == nil {
			started.Store(true)
		}
		if !started.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "registration:", reasons)
	})
}

// shutdownTimeout bounds the wait for calls that are under way.
const shutdownTimeout = 5 * time.Second

// AddHTTP serves a handler.
func AddHTTP(g *run.Group, listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: shutdownTimeout}
	g.Add(func() error { return server.Serve(listener) }, func(error) {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		_ = server.Shutdown(ctx)
	})
}

// AddGRPC serves a gRPC server.
func AddGRPC(g *run.Group, listener net.Listener, server *grpc.Server) {
	g.Add(func() error { return server.Serve(listener) }, func(error) {
		hurry := time.AfterFunc(shutdownTimeout, server.Stop)
		defer hurry.Stop()
		server.GracefulStop()
	})
}

// Run runs all actors until one ends, or a signal asks to end.
func Run(g *run.Group, logger log.Logger) error {
	g.Add(run.SignalHandler(context.Background(), os.Interrupt, syscall.SIGTERM))
	err := g.Run()
	logger.Log("msg", "ended", "reason", err)
	if errors.Is(err, run.ErrSignal) {
		return nil
	}
	return err
}
