package tests

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest/certs"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

// deadEndpoint returns an address on which nothing listens.
func deadEndpoint(t testing.TB) string {
	t.Helper()
	u := freeURL(t)
	return u.Host
}

func TestEveryRequest_IsBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.silence()
	for _, options := range []etcdv3.ClientOptions{
		{HeaderTimeoutPerRequest: 500 * time.Millisecond},
		{HeaderTimeoutPerRequest: 500 * time.Millisecond, DialTimeout: 3, DialKeepAlive: 3}, // nanoseconds by mistake
		{HeaderTimeoutPerRequest: 500 * time.Millisecond, DialTimeout: -time.Second, DialKeepAlive: -1},
	} {
		c, leave := connect(t, options, n.endpoint())
		for name, call := range map[string]func() error{
			"GetEntries": func() error { _, err := c.GetEntries("/s/"); return err },
			"Register":   func() error { return c.Register(etcdv3.Service{Key: "/s/1", Value: "v"}) },
			"Deregister": func() error { return c.Deregister(etcdv3.Service{Key: "/s/2"}) },
			"guarded": func() error {
				return c.Deregister(etcdv3.Service{Key: "/s/2", DeleteOptions: &etcdv3.DeleteOptions{PrevIndex: 1}})
			},
			"recursive": func() error {
				return c.Deregister(etcdv3.Service{Key: "/s/2", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}})
			},
			"NewInstancer": func() error {
				s, err := etcdv3.NewInstancer(c, "/s/", nil)
				if err != nil {
					return err
				}
				defer s.Stop()
				return s.State().Err
			},
		} {
			began := time.Now()
			if err := call(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			within(t, 21, 1200*time.Millisecond, time.Since(began))
		}
		leave()
	}
}

func TestNanoseconds_Work(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := connect(t, etcdv3.ClientOptions{DialTimeout: 3, DialKeepAlive: 3}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: etcdv3.NewTTLOption(3, 10)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "seen", func() bool { return events.shows("v") })
	never(t, 4*time.Second, "the key went away", func() bool { return len(etcd.values(t, "/s/")) != 1 })
	holds(t, 21)
}

func TestNewClient_DoesNotWaitForEtcd(t *testing.T) {
	t.Parallel()
	for _, options := range []etcdv3.ClientOptions{{}, {Username: "u", Password: "p"}, {DialOptions: []grpc.DialOption{grpc.WithUserAgent("x")}}} {
		began := time.Now()
		connect(t, options, deadEndpoint(t))
		within(t, 22, time.Second, time.Since(began))
	}
}

func TestNewClientWithBlock_WaitsForAnEndpoint(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	//lint:ignore SA1019 it is what upstream's users pass
	options := etcdv3.ClientOptions{DialOptions: []grpc.DialOption{grpc.WithBlock()}, DialTimeout: time.Second}
	silent := newBridge(t, "http://"+deadEndpoint(t))
	began := time.Now()
	if c, err := etcdv3.NewClient(t.Context(), []string{deadEndpoint(t), silent.endpoint()}, options); err == nil || c != nil || !strings.Contains(err.Error(), "DialTimeout") {
		t.Errorf("no endpoint: %v, %v", c, err)
	}
	within(t, 22, 2*time.Second, time.Since(began))
	c, _ := connect(t, options, append([]string{deadEndpoint(t)}, etcd.endpoints()...)...)
	if _, err := c.GetEntries("/s/"); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := certs.New(t)
	cert, key := ca.Issue("server")
	n := newNode(t, func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca.File, ClientCertAuth: true}
	})
	mine, mineKey := ca.Issue("client")
	for _, endpoint := range []string{n.endpoint(), "https://" + n.endpoint()} {
		c, _ := connect(t, etcdv3.ClientOptions{CACert: ca.File, Cert: mine, Key: mineKey}, endpoint)
		if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v"}); err != nil {
			t.Error(err)
		}
		// A CA alone is TLS too; this member wants a certificate as well.
		c, _ = connect(t, etcdv3.ClientOptions{CACert: ca.File, HeaderTimeoutPerRequest: time.Second}, endpoint)
		if _, err := c.GetEntries("/s/"); err == nil {
			t.Error("the member took a client without a certificate")
		}
		stranger := certs.New(t)
		c, _ = connect(t, etcdv3.ClientOptions{CACert: stranger.File, Cert: mine, Key: mineKey, HeaderTimeoutPerRequest: time.Second}, endpoint)
		if _, err := c.GetEntries("/s/"); err == nil {
			t.Error("a server of a strange authority was trusted")
		}
	}
	holds(t, 23)
}

func TestTLS_RotatedFilesAreUsedAtTheNextHandshake(t *testing.T) {
	t.Parallel()
	old, fresh := certs.New(t), certs.New(t)
	dir := t.TempDir()
	install := func(a *certs.Authority, name string) {
		cert, key := a.Issue(name)
		for from, to := range map[string]string{a.File: "ca.crt", cert: name + ".crt", key: name + ".key"} {
			data, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, to), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	install(old, "server")
	install(old, "client")
	n := newNode(t, func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: in("server.crt"), KeyFile: in("server.key"), TrustedCAFile: in("ca.crt"), ClientCertAuth: true}
	})
	c, _ := connect(t, etcdv3.ClientOptions{CACert: in("ca.crt"), Cert: in("client.crt"), Key: in("client.key")}, n.endpoint())
	if err := c.Register(etcdv3.Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	n.stop()
	install(fresh, "server")
	install(fresh, "client")
	n.start()
	eventually(t, 8*time.Second, "the rotated files are used", func() bool {
		got, err := c.GetEntries("/s/")
		return err == nil && len(got) == 1
	})
	holds(t, 23)
}

func TestBadOptions_AreAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	ca := certs.New(t)
	cert, key := ca.Issue("client")
	empty, noPEM := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "no.pem")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(noPEM, []byte("secret-content"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ok := []string{"127.0.0.1:2379"}
	for name, test := range map[string]struct {
		machines []string
		options  etcdv3.ClientOptions
		names    string // what the error has to name
	}{
		"no endpoint":          {nil, etcdv3.ClientOptions{}, "machines"},
		"endpoints in one":     {[]string{"127.0.0.1:2379,127.0.0.1:2380"}, etcdv3.ClientOptions{}, "strings.Split"},
		"blank endpoint":       {[]string{" "}, etcdv3.ClientOptions{}, "machines"},
		"name alone":           {ok, etcdv3.ClientOptions{Username: "u"}, "Password"},
		"password alone":       {ok, etcdv3.ClientOptions{Password: "secret"}, "Username"},
		"no port":              {[]string{"localhost"}, etcdv3.ClientOptions{}, "machines[0]"},
		"no host":              {[]string{"http://"}, etcdv3.ClientOptions{}, "machines[0]"},
		"bad port":             {[]string{"localhost:etcd"}, etcdv3.ClientOptions{}, "machines[0]"},
		"port out of range":    {[]string{"localhost:70000"}, etcdv3.ClientOptions{}, "machines[0]"},
		"colons":               {[]string{"::1:2379:1"}, etcdv3.ClientOptions{}, "machines[0]"},
		"scheme":               {[]string{"ftp://localhost:2379"}, etcdv3.ClientOptions{}, "ftp"},
		"spaces":               {[]string{"http://local host:2379"}, etcdv3.ClientOptions{}, "machines[0]"},
		"unix without path":    {[]string{"unix://"}, etcdv3.ClientOptions{}, "machines[0]"},
		"user in the endpoint": {[]string{"http://user:secret@localhost:2379"}, etcdv3.ClientOptions{}, "Username"},
		"cert without key":     {ok, etcdv3.ClientOptions{Cert: cert}, "Cert and Key"},
		"key without cert":     {ok, etcdv3.ClientOptions{Key: key}, "Cert and Key"},
		"half with CA":         {ok, etcdv3.ClientOptions{CACert: ca.File, Cert: cert}, "Cert and Key"},
		"no such CA":           {ok, etcdv3.ClientOptions{CACert: "/does/not/exist"}, "CACert"},
		"empty CA":             {ok, etcdv3.ClientOptions{CACert: empty}, "CACert"},
		"CA of no PEM":         {ok, etcdv3.ClientOptions{CACert: noPEM}, "CACert"},
		"cert of no PEM":       {ok, etcdv3.ClientOptions{Cert: noPEM, Key: noPEM}, "Cert and Key"},
		"pair of two":          {ok, etcdv3.ClientOptions{Cert: cert, Key: filepath.Join(ca.Dir, "ca.key")}, "Cert and Key"},
		"TLS with http":        {[]string{"https://a:1", "http://b:1"}, etcdv3.ClientOptions{CACert: ca.File}, "http"},
		"http first":           {[]string{"http://b:1", "https://a:1"}, etcdv3.ClientOptions{}, "http"},
	} {
		c, err := etcdv3.NewClient(t.Context(), test.machines, test.options)
		if err == nil || c != nil || !strings.Contains(err.Error(), test.names) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v; the error has to name %q", name, c, err, test.names)
		}
	}
	for _, good := range []string{"localhost:2379", "http://localhost:2379/", " 10.0.0.1:2379 ", "[::1]:2379", "http://[::1]:2379", ":2379", "unix:///tmp/x", "https://etcd.example:2379"} {
		connect(t, etcdv3.ClientOptions{}, good)
	}
	holds(t, 23)
}

func TestTLS_IsNeverPlaintext(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	first := make(chan byte, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 1)
				if _, err := conn.Read(b); err == nil {
					first <- b[0]
				}
			}()
		}
	}()
	ca := certs.New(t)
	addr := listener.Addr().String()
	for _, test := range []struct {
		machines []string
		options  etcdv3.ClientOptions
	}{
		{[]string{addr}, etcdv3.ClientOptions{CACert: ca.File}},
		{[]string{"https://" + addr}, etcdv3.ClientOptions{}},
		{[]string{addr, "https://" + addr}, etcdv3.ClientOptions{}},
	} {
		test.options.HeaderTimeoutPerRequest = 300 * time.Millisecond
		c, leave := connect(t, test.options, test.machines...)
		_, _ = c.GetEntries("/s/")
		if b := <-first; b != 0x16 { // a TLS handshake record
			t.Errorf("%v: the first byte is %#x", test.machines, b)
		}
		leave()
		for len(first) > 0 {
			<-first
		}
	}
	holds(t, 23)
}
