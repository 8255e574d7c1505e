package etcdv3_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	httptransport "github.com/go-kit/kit/transport/http"
	"github.com/go-kit/log"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"

	"github.com/kitsd/etcdv3"
)

// A service registers when it can be called, and deregisters before it stops
// to serve.
func Example_registration() {
	etcd := startEtcd()
	defer etcd.stop()
	logger := log.NewLogfmtLogger(os.Stderr)

	stopped, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// The client's own context ends last: the client is needed to deregister.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{etcd.endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		logger.Log("err", err)
		return
	}

	// Listen first: calls arrive as soon as the service is registered.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		logger.Log("err", err)
		return
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(listener)

	instance := listener.Addr().String() // where others reach this process
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/services/hello/" + instance, // unique, and under the service's prefix
		Value: "http://" + instance,          // what callers of the service receive
		TTL:   etcdv3.NewTTLOption(3*time.Second, 10*time.Second),
	}, logger)
	registrar.Register()
	fmt.Println("registered:", registrar.Err() == nil)

	stop() // in a real service the signal does it
	<-stopped.Done()

	// Leave first, and then finish the calls that are under way.
	registrar.Deregister()
	fmt.Println("registered:", registrar.Err() == nil)
	grace, cancelGrace := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancelGrace()
	if err := server.Shutdown(grace); err != nil {
		logger.Log("err", err)
	}

	// Output:
	// registered: true
	// registered: false
}

// A caller finds the instances of a service, and spreads its calls over them.
func Example_discovery() {
	etcd := startEtcd()
	defer etcd.stop()
	logger := log.NewLogfmtLogger(os.Stderr)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{etcd.endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		logger.Log("err", err)
		return
	}

	// Two instances of the service "hello" stand in for other processes.
	for _, name := range []string{"first", "second"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode(name)
		}))
		defer server.Close()
		service := etcdv3.Service{Key: "/services/hello/" + name, Value: server.URL}
		if err := client.Register(service); err != nil {
			logger.Log("err", err)
			return
		}
		defer client.Deregister(service)
	}

	// The prefix ends in a slash, so that it does not match "/services/hello2/".
	instancer, err := etcdv3.NewInstancer(client, "/services/hello/", logger)
	if err != nil {
		logger.Log("err", err)
		return
	}
	defer instancer.Stop()

	// The factory makes an endpoint of each instance, which is a Value as it
	// was registered.
	decode := func(_ context.Context, resp *http.Response) (any, error) {
		var name string
		err := json.NewDecoder(resp.Body).Decode(&name)
		return name, err
	}
	factory := func(instance string) (endpoint.Endpoint, io.Closer, error) {
		target, err := url.Parse(instance)
		if err != nil {
			return nil, nil, err
		}
		return httptransport.NewClient(http.MethodGet, target, httptransport.EncodeJSONRequest, decode).Endpoint(), nil, nil
	}
	endpointer := sd.NewEndpointer(instancer, factory, logger)
	defer endpointer.Close()
	hello := lb.Retry(3, time.Second, lb.NewRoundRobin(endpointer))

	answers := map[string]int{}
	for range 10 {
		name, err := hello(ctx, struct{}{})
		if err != nil {
			logger.Log("err", err)
			return
		}
		answers[name.(string)]++
	}
	fmt.Println(answers)

	// Output:
	// map[first:5 second:5]
}

// A readiness probe asks Err, which answers without asking etcd.
func ExampleRegistrar_Err() {
	etcd := startEtcd()
	defer etcd.stop()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{etcd.endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/services/hello/10.0.0.1:8080",
		Value: "http://10.0.0.1:8080",
	}, log.NewNopLogger())

	ready := func(w http.ResponseWriter, _ *http.Request) {
		if err := registrar.Err(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "registered")
	}
	probe := func() {
		w := httptest.NewRecorder()
		ready(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
		fmt.Print(w.Code, " ", w.Body)
	}

	probe()
	registrar.Register()
	probe()
	registrar.Deregister()
	probe()

	// Output:
	// 503 Register was not called yet
	// 200 registered
	// 503 deregistered
}

// A guarded Deregister deletes a key only if it is as the options say.
func ExampleDeleteOptions() {
	etcd := startEtcd()
	defer etcd.stop()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{etcd.endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	const key = "/services/hello/10.0.0.1:8080"
	if err := client.Register(etcdv3.Service{Key: key, Value: "http://10.0.0.1:8080"}); err != nil {
		fmt.Println(err)
		return
	}

	err = client.Deregister(etcdv3.Service{Key: key, DeleteOptions: &etcdv3.DeleteOptions{PrevValue: "another"}})
	fmt.Println(errors.Is(err, etcdv3.ErrCompareFailed))
	err = client.Deregister(etcdv3.Service{Key: key, DeleteOptions: &etcdv3.DeleteOptions{PrevValue: "http://10.0.0.1:8080"}})
	fmt.Println(err)

	// Output:
	// true
	// <nil>
}

// OpenTelemetry's stats handler for grpc traces and measures every request.
func ExampleClientOptions_tracing() {
	etcd := startEtcd()
	defer etcd.stop()

	// A service has its own provider, with an exporter; this one remembers.
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{etcd.endpoint}, etcdv3.ClientOptions{
		DialOptions: []grpc.DialOption{
			grpc.WithStatsHandler(otelgrpc.NewClientHandler(
				otelgrpc.WithTracerProvider(provider),
				// and, for metrics, otelgrpc.WithMeterProvider
			)),
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := client.GetEntries("/services/hello/"); err != nil {
		fmt.Println(err)
		return
	}
	for _, span := range spans.Ended() {
		fmt.Println(span.Name())
	}

	// Output:
	// etcdserverpb.KV/Range
}
