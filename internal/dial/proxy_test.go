package dial

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// proxyTarget names the server behind the proxy for the process that has one.
const proxyTarget = "DIAL_TEST_PROXY_TARGET"

// TestProxyOfTheEnvironment runs itself in a process of its own: Go and grpc read
// HTTPS_PROXY once.
func TestProxyOfTheEnvironment(t *testing.T) {
	if target := os.Getenv(proxyTarget); target != "" {
		behindProxy(t, target)
		return
	}
	target := server(t)
	proxy := listen(t, "tcp", "127.0.0.1:0")
	asked := make(chan string, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := proxy.Accept()
			if err != nil {
				return
			}
			go tunnel(conn, target, asked)
		}
	}()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyOfTheEnvironment$", "-test.v")
	cmd.Env = append(os.Environ(), proxyTarget+"="+target, "HTTPS_PROXY=http://user:secret@"+proxy.Addr().String(), "NO_PROXY=direct.invalid")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	proxy.Close()
	<-done
	close(asked)
	n := 0
	for host := range asked {
		n++
		if host != "etcd.invalid:2379" {
			t.Errorf("the proxy was asked for %q", host)
		}
	}
	if n < 3 {
		t.Errorf("the proxy was asked %d times", n)
	}
}

// tunnel answers one CONNECT, and connects it to the target, whatever was asked.
func tunnel(conn net.Conn, target string, asked chan<- string) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	asked <- request.Host
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(server, reader)
	io.Copy(conn, server)
}

// behindProxy dials in a process whose environment names a proxy.
func behindProxy(t *testing.T, target string) {
	for _, o := range []Options{{}, {DialOptions: blocking}} {
		answers(t, dialled(t, o, Own{}, "etcd.invalid:2379"))
	}
	// The proxy is not for these.
	answers(t, dialled(t, Options{DialOptions: blocking}, Own{}, "http://"+target))
	if proxied([]member{{address: "direct.invalid:2379"}, {address: "unix:/tmp/x"}, {address: "localhost:2379"}}) {
		t.Error("NO_PROXY, this host or a socket has a proxy")
	}
	// A dialer of the user's, and grpc.WithNoProxy, go past it.
	toTarget := func(ctx context.Context, _ string) (net.Conn, error) { return newRacer().dial(ctx, target) }
	answers(t, dialled(t, Options{DialOptions: []grpc.DialOption{grpc.WithContextDialer(toTarget)}}, Own{}, "other.invalid:2379"))
	cli := dialled(t, Options{DialOptions: []grpc.DialOption{grpc.WithNoProxy()}}, Own{}, "other.invalid:2379")
	if connects(cli, 500*time.Millisecond) {
		t.Error("grpc.WithNoProxy is ignored")
	}
}
