package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest/certs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// withTLS returns the options of a gRPC server that has a certificate of an
// authority. It may ask its clients for one of the same.
func withTLS(t *testing.T, a *certs.Authority, asksClients bool) []grpc.ServerOption {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.Issue("server"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if asksClients {
		pem, err := os.ReadFile(a.File)
		if err != nil {
			t.Fatal(err)
		}
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(pem)
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(config))}
}

func TestTLS(t *testing.T) {
	ca := certs.New(t)
	address := server(t, withTLS(t, ca, true)...)
	mine, mineKey := ca.Issue("client")
	for _, endpoint := range []string{address, "https://" + address} {
		answers(t, dialled(t, Options{CACert: ca.File, Cert: mine, Key: mineKey, DialOptions: blocking}, Own{}, endpoint))
		// A CA alone is TLS too; this server wants a certificate as well.
		if connects(dialled(t, Options{CACert: ca.File}, Own{}, endpoint), 500*time.Millisecond) {
			t.Error("the server took a client without a certificate")
		}
		stranger := certs.New(t)
		if connects(dialled(t, Options{CACert: stranger.File, Cert: mine, Key: mineKey}, Own{}, endpoint), 500*time.Millisecond) {
			t.Error("a server of a strange authority was trusted")
		}
		_, err := Dial(t.Context(), []string{endpoint}, Options{CACert: stranger.File, DialOptions: blocking, DialTimeout: time.Second}, Own{})
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("the reason is not told: %v", err)
		}
	}
}

func TestTLS_RotatedFilesAreUsedAtTheNextHandshake(t *testing.T) {
	old, fresh := certs.New(t), certs.New(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	install := func(a *certs.Authority) {
		cert, key := a.Issue("client")
		for from, to := range map[string]string{a.File: "ca.crt", cert: "client.crt", key: "client.key"} {
			data, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(in(to), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	install(old)
	before, after := server(t, withTLS(t, old, true)...), server(t, withTLS(t, fresh, true)...)
	cli := dialled(t, Options{CACert: in("ca.crt"), Cert: in("client.crt"), Key: in("client.key")}, Own{}, before)
	answers(t, cli)
	for _, damage := range []func() error{
		func() error { return os.Remove(in("client.key")) },
		func() error { install(fresh); return nil },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		cli.SetEndpoints(after)
	}
	answers(t, cli)
}

func TestTLS_IsNeverPlaintext(t *testing.T) {
	listener := listen(t, "tcp", "127.0.0.1:0")
	first := make(chan byte, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1)
			if _, err := conn.Read(b); err == nil {
				first <- b[0]
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	ca := certs.New(t)
	address := listener.Addr().String()
	for _, test := range []struct {
		machines []string
		options  Options
	}{
		{[]string{address}, Options{CACert: ca.File}},
		{[]string{"https://" + address}, Options{}},
		{[]string{address, "https://" + address}, Options{}},
	} {
		cli := dialled(t, test.options, Own{}, test.machines...)
		connects(cli, 200*time.Millisecond)
		if b := <-first; b != 0x16 { // a TLS handshake record
			t.Errorf("%v: the first byte is %#x", test.machines, b)
		}
		cli.Close()
		for len(first) > 0 {
			<-first
		}
	}
}

// spied is a connection that counts the bytes that arrive, and keeps the first
// byte that is sent.
type spied struct {
	net.Conn
	read  *atomic.Int64
	first *atomic.Int32
}

func (s spied) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.read.Add(int64(n))
	return n, err
}

func (s spied) Write(b []byte) (int, error) {
	if len(b) > 0 {
		s.first.CompareAndSwap(-1, int32(b[0]))
	}
	return s.Conn.Write(b)
}

func TestWrap_SeesEachConnectionAsItIsOnTheWire(t *testing.T) {
	ca := certs.New(t)
	secure := server(t, withTLS(t, ca, false)...)
	plain := server(t)
	for _, test := range []struct {
		endpoint, address string
		options           Options
		first             int32
	}{
		{plain, plain, Options{}, 'P'}, // PRI * HTTP/2.0
		{"http://" + plain, plain, Options{DialOptions: blocking}, 'P'},
		{secure, secure, Options{CACert: ca.File}, 0x16},
		{"https://" + secure, secure, Options{CACert: ca.File, DialOptions: blocking}, 0x16},
	} {
		var wrapped, read atomic.Int64
		var first atomic.Int32
		first.Store(-1)
		own := Own{Wrap: func(handshake context.Context, conn net.Conn) net.Conn {
			wrapped.Add(1)
			if handshake == nil || conn.RemoteAddr().String() != test.address {
				t.Errorf("the connection to %s has the address %s", test.endpoint, conn.RemoteAddr())
			}
			return spied{conn, &read, &first}
		}}
		cli := dialled(t, test.options, own, test.endpoint)
		answers(t, cli)
		if wrapped.Load() != 1 || read.Load() == 0 || first.Load() != test.first {
			t.Errorf("%s: wrapped %d times, %d bytes came, the first sent is %#x", test.endpoint, wrapped.Load(), read.Load(), first.Load())
		}
		before := read.Load()
		answers(t, cli)
		if read.Load() == before {
			t.Errorf("%s: bytes came that were not counted", test.endpoint)
		}
	}
}

func TestTransport_SaysWhatItIs(t *testing.T) {
	ca := certs.New(t)
	for want, o := range map[string]Options{"insecure": {}, "tls": {CACert: ca.File}} {
		plain, err := transportCredentials([]member{{}}, o)
		if err != nil {
			t.Fatal(err)
		}
		var failed obstacle
		all := wrapping{noting{plain, &failed}, func(_ context.Context, conn net.Conn) net.Conn { return conn }}
		for _, c := range []credentials.TransportCredentials{plain, all, all.Clone()} {
			if got := c.Info().SecurityProtocol; got != want {
				t.Errorf("%T says %q, want %q", c, got, want)
			}
		}
		if c, ok := all.Clone().(wrapping); !ok || c.wrap == nil {
			t.Error("a clone wraps nothing")
		}
	}
}

func TestConnectionThatBringsNothing_IsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, speaks := range []bool{false, true} {
			here, there := net.Pipe()
			began := time.Now()
			plain := wrapping{insecure.NewCredentials(), guarded}
			conn, _, err := plain.ClientHandshake(t.Context(), "etcd:2379", here)
			if err != nil {
				t.Fatal(err)
			}
			closed := make(chan time.Duration, 1)
			go func() {
				if speaks {
					_, _ = there.Write([]byte("x"))
				}
				_, _ = there.Read(make([]byte, 1))
				closed <- time.Since(began)
			}()
			if n, _ := conn.Read(make([]byte, 1)); (n == 1) != speaks {
				t.Errorf("read %d bytes", n)
			}
			time.Sleep(time.Minute)
			if speaks {
				_ = conn.Close()
			}
			if at := <-closed; speaks != (at == time.Minute) || !speaks && at != firstByte {
				t.Errorf("closed after %v", at)
			}
		}
	})
}
