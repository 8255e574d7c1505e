// Command service is an HTTP service that registers, and drains when it is told
// to end.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	kitlog "github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

const (
	heartbeat = 3 * time.Second
	ttl       = 10 * time.Second
	request   = 3 * time.Second  // to etcd, which bounds Deregister
	drain     = 5 * time.Second  // for callers that hear late of the Deregister
	shutdown  = 10 * time.Second // for requests that are being served
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	address := net.JoinHostPort(os.Getenv("POD_IP"), os.Getenv("PORT"))
	client, err := etcdv3.NewClient(context.Background(), strings.Split(os.Getenv("ETCD_ENDPOINTS"), ","),
		etcdv3.ClientOptions{HeaderTimeoutPerRequest: request})
	if err != nil {
		return err
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/services/hello/" + address,
		Value: address,
		TTL:   etcdv3.NewTTLOption(heartbeat, ttl),
	}, kitlog.NewLogfmtLogger(os.Stderr))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	http.HandleFunc("/readyz", readiness(registrar))
	server := &http.Server{Addr: ":" + os.Getenv("PORT")}
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()

	registrar.Register()
	select {
	case err := <-served:
		registrar.Deregister()
		return err
	case <-ctx.Done():
	}
	stop() // a second signal ends the process at once
	registrar.Deregister()
	time.Sleep(drain)
	ctx, cancel := context.WithTimeout(context.Background(), shutdown)
	defer cancel()
	return server.Shutdown(ctx)
}

// readiness is ready once the service has been registered, and stays so: what
// became of the registration is told, and takes nobody out.
func readiness(registrar *etcdv3.Registrar) http.HandlerFunc {
	var started atomic.Bool
	return func(w http.ResponseWriter, _ *http.Request) {
		err := registrar.Err()
		if err == nil {
			started.Store(true)
		}
		if !started.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "registration:", err)
	}
}
