package etcdv3_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	httptransport "github.com/go-kit/kit/transport/http"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc"
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

	// The endpointer has received the set, and makes the endpoints a moment later.
	for endpoints, _ := endpointer.Endpoints(); len(endpoints) < 2; endpoints, _ = endpointer.Endpoints() {
		time.Sleep(time.Millisecond)
	}
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

// A readiness page asks Err, which answers without asking etcd. The page is ready
// once the service was registered, and stays so: an etcd that is away must not take
// every instance out of a Kubernetes Service.
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

	var started atomic.Bool
	ready := func(w http.ResponseWriter, _ *http.Request) {
		err := registrar.Err()
		if err == nil {
			started.Store(true)
		}
		if !started.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "registration:", err)
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
	// 503 registration: Register was not called yet
	// 200 registration: <nil>
	// 200 registration: deregistered
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

// A CA, a client certificate, and a user with a password. Each of the three
// works without the others.
func ExampleNewClient_tls() {
	etcd := startSecureEtcd()
	defer etcd.stop()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{"https://" + etcd.endpoint}, etcdv3.ClientOptions{
		CACert:   etcd.ca,   // as "/etc/hello/etcd-ca.pem"; the system's CAs if it is empty
		Cert:     etcd.cert, // as "/etc/hello/etcd.pem"
		Key:      etcd.key,  // as "/etc/hello/etcd.key"
		Username: "service",
		Password: "secret", // as os.Getenv("ETCD_PASSWORD")
	})
	if err != nil { // a file that cannot be read, for example
		fmt.Println(err)
		return
	}

	// NewClient did not wait for etcd. A request tells whether etcd takes the
	// certificate and the password.
	instances, err := client.GetEntries("/services/hello/")
	fmt.Println(len(instances), err)

	// Output:
	// 0 <nil>
}

// NewClient returns before etcd is connected, and that is what most services
// want. One that should not start without etcd passes grpc.WithBlock.
func ExampleNewClient_wait() {
	_, err := etcdv3.NewClient(context.Background(), []string{"127.0.0.1:1"}, etcdv3.ClientOptions{
		DialTimeout: 200 * time.Millisecond,
		//lint:ignore SA1019 grpc keeps it through all of 1.x, and NewClient honours it
		DialOptions: []grpc.DialOption{grpc.WithBlock()},
	})
	fmt.Println(err)

	// Output:
	// no endpoint could be reached within DialTimeout (200ms): context deadline exceeded: dial tcp 127.0.0.1:1: connect: connection refused
}

// A program that has a clientv3 client already uses it for discovery, too.
func ExampleNewClientFrom() {
	etcd := startEtcd()
	defer etcd.stop()

	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{etcd.endpoint},
		// They find a silent link before a TTL of 10 s is far over: grpc pings
		// every 10 s at most, and waits 20 s for the answer by default.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cli.Close() // the caller's to close, after ctx has ended

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	service := etcdv3.Service{Key: "/services/hello/10.0.0.1:8080", Value: "http://10.0.0.1:8080"}
	if err := client.Register(service); err != nil {
		fmt.Println(err)
		return
	}
	defer client.Deregister(service)

	resp, err := cli.Get(ctx, service.Key)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", resp.Kvs[0].Value)

	// Output:
	// http://10.0.0.1:8080
}

// A namespace keeps the services of two environments apart in one etcd.
func ExampleNewClientFrom_namespace() {
	etcd := startEtcd()
	defer etcd.stop()

	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.endpoint}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cli.Close()
	whole := cli.KV // sees all of etcd
	cli.KV = namespace.NewKV(cli.KV, "/staging")
	cli.Watcher = namespace.NewWatcher(cli.Watcher, "/staging")
	cli.Lease = namespace.NewLease(cli.Lease, "/staging")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	service := etcdv3.Service{Key: "/services/hello/10.0.0.1:8080", Value: "http://10.0.0.1:8080"}
	if err := client.Register(service); err != nil {
		fmt.Println(err)
		return
	}
	defer client.Deregister(service)

	resp, err := whole.Get(ctx, "/staging/", clientv3.WithPrefix())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", resp.Kvs[0].Key)

	// Output:
	// /staging/services/hello/10.0.0.1:8080
}

// memory is an etcdv3.Client without etcd, for tests of code that registers or
// discovers. It is what an Instancer and a Registrar need, and no more.
type memory struct {
	mu       sync.Mutex // guards values and changed
	values   map[string]string
	changed  chan struct{} // closed, and replaced, at every change
	finished chan struct{} // closed by finish
}

var _ etcdv3.Client = (*memory)(nil)

func newMemory() *memory {
	return &memory{values: map[string]string{}, changed: make(chan struct{}), finished: make(chan struct{})}
}

// finish ends what the end of its context ends for a real client.
func (m *memory) finish() { close(m.finished) }

func (m *memory) Register(s etcdv3.Service) error {
	m.change(func() { m.values[s.Key] = s.Value })
	return nil
}

func (m *memory) Deregister(s etcdv3.Service) error {
	m.change(func() { delete(m.values, s.Key) })
	return nil
}

func (m *memory) change(apply func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	apply()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) GetEntries(prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var values []string
	for _, key := range slices.Sorted(maps.Keys(m.values)) {
		if strings.HasPrefix(key, prefix) {
			values = append(values, m.values[key])
		}
	}
	return values, nil
}

// WatchPrefix signals once when it begins, and then after every change.
func (m *memory) WatchPrefix(_ string, ch chan struct{}) {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		select {
		case ch <- struct{}{}:
		case <-m.finished:
			return
		}
		select {
		case <-changed:
		case <-m.finished:
			return
		}
	}
}

func (m *memory) LeaseID() int64 { return 1 }

// Client is an interface, so that tests do without etcd.
func ExampleClient() {
	client := newMemory()
	defer client.finish()

	instancer, err := etcdv3.NewInstancer(client, "/services/hello/", log.NewNopLogger())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer instancer.Stop()
	events := make(chan sd.Event, 1)
	instancer.Register(events)
	defer instancer.Deregister(events)
	fmt.Println((<-events).Instances)

	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/services/hello/10.0.0.1:8080",
		Value: "http://10.0.0.1:8080",
	}, log.NewNopLogger())
	registrar.Register()
	fmt.Println((<-events).Instances)

	registrar.Deregister()
	fmt.Println((<-events).Instances)

	// Output:
	// []
	// [http://10.0.0.1:8080]
	// []
}
