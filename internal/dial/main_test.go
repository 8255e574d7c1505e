package dial

import (
	"context"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen returns a listener that the test's end closes.
func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve runs a gRPC server that knows no method. It calls seen for each request.
func serve(t testing.TB, l net.Listener, seen func(ctx context.Context), options ...grpc.ServerOption) {
	t.Helper()
	s := grpc.NewServer(append(options, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if seen != nil {
			seen(stream.Context())
		}
		return status.Error(codes.Unimplemented, "reached")
	}))...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
}

// server runs such a server on 127.0.0.1, and returns its address.
func server(t testing.TB, options ...grpc.ServerOption) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, nil, options...)
	return l.Addr().String()
}

// deadEndpoint returns an address on which nothing listens.
func deadEndpoint(t testing.TB) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	l.Close()
	return l.Addr().String()
}

// dialled is Dial for options that have to work.
func dialled(t testing.TB, o Options, own Own, machines ...string) *clientv3.Client {
	t.Helper()
	return dialledThrough(t, o, own, newRacer(), machines...)
}

func dialledThrough(t testing.TB, o Options, own Own, through racer, machines ...string) *clientv3.Client {
	t.Helper()
	cli, err := dialThrough(t.Context(), machines, o, own, through)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cli.Close() })
	return cli
}

// connects reports whether a connection of the client stands within a time.
func connects(cli *clientv3.Client, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(cli.Ctx(), within)
	defer cancel()
	conn := cli.ActiveConnection()
	conn.Connect()
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return true
		}
		if !conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// answers fails unless a server answers the client.
func answers(t testing.TB, cli *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := cli.Get(ctx, "k"); status.Code(err) != codes.Unimplemented {
		t.Errorf("the server did not answer: %v", err)
	}
}
