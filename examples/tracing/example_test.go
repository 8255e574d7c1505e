// Package tracing shows how requests to etcd are traced.
package tracing

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/kitsd/etcdv3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
)

// OpenTelemetry's stats handler for grpc traces and measures every request. The
// streams of heartbeats and of watches do not end while the client lives, and so
// their spans would never be exported: they are left out.
func Example() {
	endpoint, stop, err := startEtcd()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	// A service has its own provider, with an exporter; this one remembers.
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{endpoint}, etcdv3.ClientOptions{
		DialOptions: []grpc.DialOption{
			grpc.WithStatsHandler(otelgrpc.NewClientHandler(
				otelgrpc.WithTracerProvider(provider),
				otelgrpc.WithFilter(filters.None(
					filters.MethodName("LeaseKeepAlive"),
					filters.MethodName("Watch"),
				)),
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

	// A registered service has a stream of heartbeats, and a watched prefix one of
	// watches: neither has begun a span.
	instancer, err := etcdv3.NewInstancer(client, "/services/hello/", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer instancer.Stop()
	if err := client.Register(etcdv3.Service{Key: "/services/hello/1", Value: "10.0.0.1:8080"}); err != nil {
		fmt.Println(err)
		return
	}
	for _, span := range spans.Started() {
		if strings.HasSuffix(span.Name(), "/LeaseKeepAlive") || strings.HasSuffix(span.Name(), "/Watch") {
			fmt.Println(span.Name(), "would never be exported")
		}
	}

	// Output:
	// etcdserverpb.KV/Range
}

// startEtcd starts a member in this process; stop ends and removes it.
func startEtcd() (endpoint string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		return "", nil, err
	}
	anyPort := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config := embed.NewConfig()
	config.Dir = dir
	config.ListenClientUrls, config.AdvertiseClientUrls = anyPort, anyPort
	config.ListenPeerUrls, config.AdvertisePeerUrls = anyPort, anyPort
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel, config.LogOutputs = "fatal", []string{os.DevNull}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return "", nil, err
	}
	<-etcd.Server.ReadyNotify()
	return etcd.Clients[0].Addr().String(), func() {
		etcd.Close()
		_ = os.RemoveAll(dir)
	}, nil
}
