package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
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
	for _, options := range []ClientOptions{
		{HeaderTimeoutPerRequest: 500 * time.Millisecond},
		{HeaderTimeoutPerRequest: 500 * time.Millisecond, DialTimeout: 3, DialKeepAlive: 3}, // nanoseconds by mistake
		{HeaderTimeoutPerRequest: 500 * time.Millisecond, DialTimeout: -time.Second, DialKeepAlive: -1},
	} {
		c, leave := connect(t, options, n.endpoint())
		for name, call := range map[string]func() error{
			"GetEntries": func() error { _, err := c.GetEntries("/s/"); return err },
			"Register":   func() error { return c.Register(Service{Key: "/s/1", Value: "v"}) },
			"Deregister": func() error { return c.Deregister(Service{Key: "/s/2"}) },
			"guarded":    func() error { return c.Deregister(Service{Key: "/s/2", DeleteOptions: &DeleteOptions{PrevIndex: 1}}) },
			"recursive": func() error {
				return c.Deregister(Service{Key: "/s/2", DeleteOptions: &DeleteOptions{Recursive: true}})
			},
			"NewInstancer": func() error {
				s, err := NewInstancer(c, "/s/", nil)
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
			within(t, 21, 700*time.Millisecond, time.Since(began))
		}
		leave()
	}
}

func TestNanoseconds_Work(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := connect(t, ClientOptions{DialTimeout: 3, DialKeepAlive: 3}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: NewTTLOption(3, 10)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "seen", func() bool { return events.shows("v") })
	never(t, 4*time.Second, "the key went away", func() bool { return len(etcd.values(t, "/s/")) != 1 })
	holds(t, 21)
}

func TestNewClient_DoesNotWaitForEtcd(t *testing.T) {
	t.Parallel()
	for _, options := range []ClientOptions{{}, {Username: "u", Password: "p"}, {DialOptions: []grpc.DialOption{grpc.WithUserAgent("x")}}} {
		began := time.Now()
		connect(t, options, deadEndpoint(t))
		within(t, 22, 500*time.Millisecond, time.Since(began))
	}
}

func TestNewClientWithBlock_WaitsForAnEndpoint(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	//lint:ignore SA1019 it is what upstream's users pass
	options := ClientOptions{DialOptions: []grpc.DialOption{grpc.WithBlock()}, DialTimeout: time.Second}
	silent := newBridge(t, "http://"+deadEndpoint(t))
	began := time.Now()
	if c, err := NewClient(t.Context(), []string{deadEndpoint(t), silent.endpoint()}, options); err == nil || c != nil || !strings.Contains(err.Error(), "DialTimeout") {
		t.Errorf("no endpoint: %v, %v", c, err)
	}
	within(t, 22, 1500*time.Millisecond, time.Since(began))
	c, _ := connect(t, options, append([]string{deadEndpoint(t)}, etcd.endpoints()...)...)
	if _, err := c.GetEntries("/s/"); err != nil {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.issue("server")
	n := newNode(t, func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca.file, ClientCertAuth: true}
	})
	mine, mineKey := ca.issue("client")
	for _, endpoint := range []string{n.endpoint(), "https://" + n.endpoint()} {
		c, _ := connect(t, ClientOptions{CACert: ca.file, Cert: mine, Key: mineKey}, endpoint)
		if err := c.Register(Service{Key: "/s/1", Value: "v"}); err != nil {
			t.Error(err)
		}
		// A CA alone is TLS too; this member wants a certificate as well.
		c, _ = connect(t, ClientOptions{CACert: ca.file, HeaderTimeoutPerRequest: time.Second}, endpoint)
		if _, err := c.GetEntries("/s/"); err == nil {
			t.Error("the member took a client without a certificate")
		}
		stranger := newAuthority(t)
		c, _ = connect(t, ClientOptions{CACert: stranger.file, Cert: mine, Key: mineKey, HeaderTimeoutPerRequest: time.Second}, endpoint)
		if _, err := c.GetEntries("/s/"); err == nil {
			t.Error("a server of a strange authority was trusted")
		}
	}
	holds(t, 23)
}

func TestTLS_RotatedFilesAreUsedAtTheNextHandshake(t *testing.T) {
	t.Parallel()
	old, fresh := newAuthority(t), newAuthority(t)
	certs := t.TempDir()
	install := func(a *authority, name string) {
		cert, key := a.issue(name)
		for from, to := range map[string]string{a.file: "ca.crt", cert: name + ".crt", key: name + ".key"} {
			data, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(filepath.Join(certs, to), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	in := func(name string) string { return filepath.Join(certs, name) }
	install(old, "server")
	install(old, "client")
	n := newNode(t, func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: in("server.crt"), KeyFile: in("server.key"), TrustedCAFile: in("ca.crt"), ClientCertAuth: true}
	})
	c, _ := connect(t, ClientOptions{CACert: in("ca.crt"), Cert: in("client.crt"), Key: in("client.key")}, n.endpoint())
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
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
	ca := newAuthority(t)
	cert, key := ca.issue("client")
	empty, noPEM := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "no.pem")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(noPEM, []byte("secret-content"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ok := []string{"127.0.0.1:2379"}
	for name, test := range map[string]struct {
		machines []string
		options  ClientOptions
		names    string // what the error has to name
	}{
		"no endpoint":          {nil, ClientOptions{}, "machines"},
		"empty endpoint":       {[]string{"127.0.0.1:2379", ""}, ClientOptions{}, "machines[1]"},
		"blank endpoint":       {[]string{" "}, ClientOptions{}, "machines[0]"},
		"no port":              {[]string{"localhost"}, ClientOptions{}, "machines[0]"},
		"no host":              {[]string{"http://"}, ClientOptions{}, "machines[0]"},
		"bad port":             {[]string{"localhost:etcd"}, ClientOptions{}, "machines[0]"},
		"port out of range":    {[]string{"localhost:70000"}, ClientOptions{}, "machines[0]"},
		"colons":               {[]string{"::1:2379:1"}, ClientOptions{}, "machines[0]"},
		"scheme":               {[]string{"ftp://localhost:2379"}, ClientOptions{}, "ftp"},
		"spaces":               {[]string{"http://local host:2379"}, ClientOptions{}, "machines[0]"},
		"unix without path":    {[]string{"unix://"}, ClientOptions{}, "machines[0]"},
		"user in the endpoint": {[]string{"http://user:secret@localhost:2379"}, ClientOptions{}, "Username"},
		"cert without key":     {ok, ClientOptions{Cert: cert}, "Cert and Key"},
		"key without cert":     {ok, ClientOptions{Key: key}, "Cert and Key"},
		"half with CA":         {ok, ClientOptions{CACert: ca.file, Cert: cert}, "Cert and Key"},
		"no such CA":           {ok, ClientOptions{CACert: "/does/not/exist"}, "CACert"},
		"empty CA":             {ok, ClientOptions{CACert: empty}, "CACert"},
		"CA of no PEM":         {ok, ClientOptions{CACert: noPEM}, "CACert"},
		"cert of no PEM":       {ok, ClientOptions{Cert: noPEM, Key: noPEM}, "Cert and Key"},
		"pair of two":          {ok, ClientOptions{Cert: cert, Key: filepath.Join(ca.dir, "ca.key")}, "Cert and Key"},
		"TLS with http":        {[]string{"https://a:1", "http://b:1"}, ClientOptions{CACert: ca.file}, "http"},
		"http first":           {[]string{"http://b:1", "https://a:1"}, ClientOptions{}, "http"},
	} {
		c, err := NewClient(t.Context(), test.machines, test.options)
		if err == nil || c != nil || !strings.Contains(err.Error(), test.names) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v; the error has to name %q", name, c, err, test.names)
		}
	}
	for _, good := range []string{"localhost:2379", "http://localhost:2379/", " 10.0.0.1:2379 ", "[::1]:2379", "http://[::1]:2379", ":2379", "unix:///tmp/x", "https://etcd.example:2379"} {
		connect(t, ClientOptions{}, good)
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
	ca := newAuthority(t)
	addr := listener.Addr().String()
	for _, test := range []struct {
		machines []string
		options  ClientOptions
	}{
		{[]string{addr}, ClientOptions{CACert: ca.file}},
		{[]string{"https://" + addr}, ClientOptions{}},
		{[]string{addr, "https://" + addr}, ClientOptions{}},
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

func TestUserAndPassword_SurviveTokenExpiryAndRestarts(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(cfg *embed.Config) { cfg.AuthTokenTTL = 2; cfg.BcryptCost = 4 })
	admin := n.admin()
	enableAuth(t, admin, "svc", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	journal := &journal{}
	counter, auths := &beatCounter{}, &authCounter{}
	c, _ := connect(t, ClientOptions{
		Username: "svc", Password: "svc-pass", DialOptions: []grpc.DialOption{counter.option(), auths.option()},
	}, n.endpoint())
	r := NewRegistrar(c, Service{Key: "/s/1", Value: "a", TTL: NewTTLOption(500*time.Millisecond, 4*time.Second)}, journal.logger())
	r.Register()
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	s, err := NewInstancer(c, "/s/", journal.logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	events := record(t, s)
	time.Sleep(5 * time.Second) // the first token has expired
	counter.mu.Lock()
	beats := len(counter.beats[c.LeaseID()])
	counter.mu.Unlock()
	if n := auths.count(); beats < 8 || n > 5 {
		t.Errorf("%d authentications for %d heartbeats", n, beats)
	}
	late := NewRegistrar(c, Service{Key: "/s/2", Value: "b", TTL: fast}, journal.logger())
	late.Register()
	eventually(t, 3*time.Second, "a registration after the token expired", func() bool { return events.shows("a", "b") })
	if second, err := NewInstancer(c, "/s/", journal.logger()); err != nil || second.State().Err != nil {
		t.Error("an Instancer after the token expired", err, second.State().Err)
	} else {
		second.Stop()
	}
	n.stop()
	n.start()
	if err := c.Register(Service{Key: "/s/3", Value: "c"}); err != nil {
		t.Error("after a restart:", err)
	}
	eventually(t, 5*time.Second, "discovery after a restart", func() bool { return events.shows("a", "b", "c") })
	wrong, _ := connect(t, ClientOptions{Username: "svc", Password: "a-wrong-pass", HeaderTimeoutPerRequest: 2 * time.Second}, n.endpoint())
	_, err = wrong.GetEntries("/s/")
	if !errors.Is(err, rpctypes.ErrAuthFailed) || !strings.Contains(err.Error(), "ClientOptions.Username") {
		t.Errorf("a wrong password: %v", err)
	}
	holds(t, 24)
	for _, secret := range []string{"svc-pass", "a-wrong-pass"} {
		if strings.Contains(journal.String(), secret) || strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("a password was logged:\n%s\n%v", journal, err)
		}
	}
	holds(t, 25)
}

// authCounter counts authentications.
type authCounter struct {
	mu sync.Mutex
	n  int
}

func (a *authCounter) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if strings.HasSuffix(method, "/Authenticate") {
			a.mu.Lock()
			a.n++
			a.mu.Unlock()
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	})
}

func (a *authCounter) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

func TestUserThatMayNotRead_RegistersAgainAllTheSame(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	admin := n.admin()
	enableAuth(t, admin, "writer", "/s/", clientv3.PermissionType(clientv3.PermWrite))
	root := plainAs(t, "root", "root-pass", n.config.ListenClientUrls[0].String())
	c, _ := connect(t, ClientOptions{Username: "writer", Password: "writer-pass"}, n.endpoint())
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := root.Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, 5*time.Second, "registered again", func() bool { return len(values(t, root, "/s/")) == 1 })
		within(t, 2, 2*time.Second, took)
	}
	if err := c.Register(Service{Key: "/t/1", Value: "v"}); !errors.Is(err, rpctypes.ErrPermissionDenied) || !strings.Contains(err.Error(), `"/t/1"`) {
		t.Errorf("a key that the user may not write: %v", err)
	}
	if err := c.Deregister(Service{Key: "/s/1"}); err != nil || len(values(t, root, "/s/")) != 0 {
		t.Error(err)
	}
}

func TestBadServices_AreAClearError(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	if err := c.Register(Service{Value: "v"}); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	if err := c.Register(Service{Key: "/s/1"}); !errors.Is(err, ErrNoValue) {
		t.Error(err)
	}
	for _, size := range []int{1600 << 10, 3 << 20} { // above the server's limit, and above the client's
		began := time.Now()
		err := c.Register(Service{Key: "/s/1", Value: strings.Repeat("x", size)})
		if err == nil || !strings.Contains(err.Error(), "Value") || len(err.Error()) > 500 {
			t.Errorf("%d bytes: %.200v", size, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%d bytes: it took %v", size, took)
		}
	}
	if leases, err := etcd.Client(0).Leases(t.Context()); err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases are left: %v, %v", leases, err)
	}
	r := NewRegistrar(c, Service{Key: "/s/1"}, nil)
	r.Register()
	if !errors.Is(r.Err(), ErrNoValue) {
		t.Error(r.Err())
	}
	r.Deregister()
}

func TestNamespacedClient(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	cli := plain(t, etcd.endpoints()...)
	cli.KV = namespace.NewKV(cli.KV, "ns/")
	cli.Watcher = namespace.NewWatcher(cli.Watcher, "ns/")
	cli.Lease = namespace.NewLease(cli.Lease, "ns/")
	ctx, leave := context.WithCancel(t.Context())
	c, err := NewClientFrom(ctx, cli, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	events := record(t, s)
	if err := c.Register(Service{Key: "/s/1", Value: "v", TTL: fast}); err != nil {
		t.Fatal(err)
	}
	mustPut(t, etcd.Client(0), "/s/2", "outside", "ns/s/3", "outside", "ns//s/4", "inside")
	eventually(t, time.Second, "what is in the namespace", func() bool { return events.shows("inside", "v") })
	if _, err := etcd.Client(0).Delete(t.Context(), "ns//s/1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "put back", func() bool { return slices.Equal(etcd.values(t, "ns//s/1"), []string{"v"}) })
	s.Stop()
	leave()
	eventually(t, 3*time.Second, "gone", func() bool { return len(etcd.values(t, "ns//s/1")) == 0 })
}

func TestWrappedClientClosedFirst_NothingHangs(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	cli := plain(t, etcd.endpoints()...)
	c, err := NewClientFrom(t.Context(), cli, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := Service{Key: "/s/1", Value: "v"}
	if err := c.Register(s); err != nil {
		t.Fatal(err)
	}
	in, err := NewInstancer(c, "/s/", nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cli.Close()
	if err := c.Register(s); err == nil {
		t.Error("registered on a closed client")
	}
	_ = c.Deregister(s)
	if _, err := c.GetEntries("/s/"); err == nil {
		t.Error("listed on a closed client")
	}
	in.Stop()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, bad := range []*clientv3.Client{nil, {}, cli, clientv3.NewCtxClient(context.Background())} {
		if c, err := NewClientFrom(t.Context(), bad, ClientOptions{}); err == nil || c != nil {
			t.Errorf("NewClientFrom(%v): %v, %v", bad, c, err)
		}
	}
	holds(t, 9)
}

func TestLifecycles_InEveryOrderFromManyGoroutines(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	for round := range 30 {
		cli := plain(t, etcd.endpoints()...)
		ctx, leave := context.WithCancel(t.Context())
		c, err := NewClientFrom(ctx, cli, ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewInstancer(c, "/s/", nil)
		if err != nil {
			t.Fatal(err)
		}
		events := record(t, s)
		r := NewRegistrar(c, Service{Key: "/s/1", Value: "v"}, nil)
		ends := []func(){
			leave, r.Register, r.Deregister, s.Stop,
			func() { _ = c.Deregister(Service{Key: "/s/1"}) },
			func() { _ = c.Register(Service{Key: fmt.Sprint("/s/", round), Value: "w"}) },
			func() { cli.Close() },
			func() { s.Deregister(events.ch) },
			func() { _, _ = c.GetEntries("/s/") },
			func() { c.WatchPrefix("/s/", make(chan struct{})) },
		}
		began := time.Now()
		var all sync.WaitGroup
		for i := range 2 * len(ends) {
			all.Go(func() {
				time.Sleep(time.Duration((i*7+round*13)%20) * time.Millisecond)
				ends[(i+round)%len(ends)]()
			})
		}
		all.Wait()
		if took := time.Since(began); took > 10*time.Second {
			t.Fatalf("round %d took %v", round, took)
		}
	}
	holds(t, 9)
	holds(t, 17)
	holds(t, 26)
}
