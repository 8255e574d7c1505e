package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest/certs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

//lint:ignore SA1019 it is what upstream's users pass
var blocking = []grpc.DialOption{grpc.WithBlock()}

func TestBadOptions_AreAnErrorAtOnce(t *testing.T) {
	ca := certs.New(t)
	cert, key := ca.Issue("client")
	empty, noPEM := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "no.pem")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(noPEM, []byte("secret-content"), 0o600)); err != nil {
		t.Fatal(err)
	}
	ok := []string{"127.0.0.1:2379"}
	for name, test := range map[string]struct {
		machines []string
		options  Options
		names    string // what the error has to name
	}{
		"no endpoint":           {nil, Options{}, "machines"},
		"empty endpoint":        {[]string{""}, Options{}, "machines"},
		"blank endpoint":        {[]string{" "}, Options{}, "machines"},
		"empty endpoints":       {[]string{"", " ", "\t"}, Options{}, "machines"},
		"one bad behind empty":  {[]string{"", "localhost"}, Options{}, "machines[1]"},
		"a list in one":         {[]string{"a:1,b:2"}, Options{}, "strings.Split"},
		"a list of URLs in one": {[]string{"http://a:1,http://b:2"}, Options{}, "strings.Split"},
		"a list with a secret":  {[]string{"http://u:secret@a:1,b:2"}, Options{}, "machines[0]"},
		"no port":               {[]string{"localhost"}, Options{}, "machines[0]"},
		"no host":               {[]string{"http://"}, Options{}, "machines[0]"},
		"bad port":              {[]string{"localhost:etcd"}, Options{}, "machines[0]"},
		"port out of range":     {[]string{"localhost:70000"}, Options{}, "machines[0]"},
		"colons":                {[]string{"::1:2379:1"}, Options{}, "machines[0]"},
		"scheme":                {[]string{"ftp://localhost:2379"}, Options{}, "ftp"},
		"spaces":                {[]string{"http://local host:2379"}, Options{}, "machines[0]"},
		"unix without path":     {[]string{"unix://"}, Options{}, "machines[0]"},
		"user in the endpoint":  {[]string{"http://user:secret@localhost:2379"}, Options{}, "Username"},
		"user without password": {ok, Options{Username: "secret"}, "Username and Password"},
		"password without user": {ok, Options{Password: "secret"}, "Username and Password"},
		"cert without key":      {ok, Options{Cert: cert}, "Cert and Key"},
		"key without cert":      {ok, Options{Key: key}, "Cert and Key"},
		"half with CA":          {ok, Options{CACert: ca.File, Cert: cert}, "Cert and Key"},
		"no such CA":            {ok, Options{CACert: "/does/not/exist"}, "CACert"},
		"empty CA":              {ok, Options{CACert: empty}, "CACert"},
		"CA of no PEM":          {ok, Options{CACert: noPEM}, "CACert"},
		"cert of no PEM":        {ok, Options{Cert: noPEM, Key: noPEM}, "Cert and Key"},
		"pair of two":           {ok, Options{Cert: cert, Key: filepath.Join(ca.Dir, "ca.key")}, "Cert and Key"},
		"TLS with http":         {[]string{"https://a:1", "http://b:1"}, Options{CACert: ca.File}, "http"},
		"http first":            {[]string{"http://b:1", "https://a:1"}, Options{}, "http"},
		"http and a TLS socket": {[]string{"unixs:///tmp/x", "http://b:1"}, Options{}, "http"},
		"no service config":     {ok, Options{DialOptions: []grpc.DialOption{grpc.WithDefaultServiceConfig("{")}}, "DialOptions"},
		"no credentials":        {ok, Options{DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(nil)}}, "DialOptions"},
	} {
		cli, err := Dial(t.Context(), test.machines, test.options, Own{})
		if err == nil || cli != nil || !strings.Contains(err.Error(), test.names) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v; the error has to name %q", name, cli, err, test.names)
		}
	}
	if cli, err := Dial(t.Context(), ok, Options{}, Own{Options: []grpc.DialOption{grpc.WithDefaultServiceConfig("{")}}); err == nil || cli != nil {
		t.Errorf("options of the caller's that cannot be used: %v, %v", cli, err)
	}
}

func TestGoodEndpoints(t *testing.T) {
	for _, good := range []string{
		"localhost:2379", "http://localhost:2379/", " 10.0.0.1:2379 ", "[::1]:2379", "http://[::1]:2379", ":2379", "unix:///tmp/x", "unix:x,y",
		"unixs:///tmp/x", "https://etcd.example:2379",
	} {
		dialled(t, Options{}, Own{}, good)
	}
	cli := dialled(t, Options{}, Own{}, "", " 10.0.0.1:2379", " ", "http://b:1", "")
	if got := fmt.Sprint(cli.Endpoints()); got != "[10.0.0.1:2379 http://b:1]" {
		t.Error(got)
	}
}

func TestDial_DoesNotWaitForEtcd(t *testing.T) {
	for _, options := range []Options{{}, {Username: "u", Password: "p"}, {DialTimeout: 3, DialOptions: []grpc.DialOption{grpc.WithUserAgent("x")}}, {DialOptions: []grpc.DialOption{grpc.WithUserAgent("x")}}} {
		began := time.Now()
		cli := dialled(t, options, Own{}, deadEndpoint(t))
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		if cli.Username != "" || cli.Password != "" || cli.Token != "" {
			t.Error("clientv3 has the user")
		}
	}
}

func TestDial_ClientOutlivesTheContext(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
	cli, err := Dial(ctx, []string{server(t)}, Options{}, Own{})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	cancel()
	answers(t, cli)
	if cli.Ctx().Value(key{}) != "kept" {
		t.Error("the context's values are lost")
	}
}

func TestUnixSocket(t *testing.T) {
	t.Chdir(t.TempDir())
	serve(t, listen(t, "unix", "etcd.sock"), nil)
	absolute, err := filepath.Abs("etcd.sock")
	if err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []string{"unix:etcd.sock", "unix://etcd.sock", "unix:" + absolute, "unix://" + absolute} {
		for _, o := range []Options{{}, {DialOptions: blocking}} {
			answers(t, dialled(t, o, Own{}, endpoint))
		}
	}
}

func TestWithBlock_WaitsForAnEndpoint(t *testing.T) {
	options := Options{DialOptions: blocking, DialTimeout: time.Second}
	mute := listen(t, "tcp", "127.0.0.1:0") // connects, and says nothing
	began := time.Now()
	cli, err := Dial(t.Context(), []string{deadEndpoint(t), mute.Addr().String()}, options, Own{})
	if cli != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "DialTimeout (1s)") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no endpoint: %v, %v", cli, err)
	}
	if took := time.Since(began); took < time.Second || took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	answers(t, dialled(t, options, Own{}, deadEndpoint(t), server(t)))
}

func TestWithBlock_UsesNothingOfTheCallers(t *testing.T) {
	var mine atomic.Int32
	own := Own{
		Options: []grpc.DialOption{grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			mine.Add(1)
			return nil, errors.New("this one is the caller's")
		})},
		Wrap: func(_ context.Context, conn net.Conn) net.Conn {
			mine.Add(1)
			return conn
		},
	}
	cli := dialled(t, Options{DialOptions: blocking, DialTimeout: 5 * time.Second}, own, server(t))
	if n := mine.Load(); n != 0 {
		t.Errorf("used %d times", n)
	}
	if connects(cli, 500*time.Millisecond) || mine.Load() == 0 {
		t.Error("the client does not use the caller's options")
	}
}

func TestUsersOptions_Prevail(t *testing.T) {
	address := server(t)
	to := func(name string, used *atomic.Int32) grpc.DialOption {
		return grpc.WithContextDialer(func(ctx context.Context, asked string) (net.Conn, error) {
			used.Add(1)
			if asked != "etcd.invalid:1" {
				t.Errorf("%s's dialer is asked for %q", name, asked)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		})
	}
	var mine, users atomic.Int32
	own := Own{Options: []grpc.DialOption{to("the caller", &mine)}}
	answers(t, dialled(t, Options{}, own, "etcd.invalid:1"))
	if mine.Load() == 0 {
		t.Error("the caller's dialer is not used")
	}
	mine.Store(0)
	answers(t, dialled(t, Options{DialOptions: append(blocking, to("the user", &users))}, own, "http://etcd.invalid:1"))
	if mine.Load() != 0 || users.Load() == 0 {
		t.Error("the user's dialer is not used")
	}
}

func TestOwnServiceConfig_IsUsed(t *testing.T) {
	own := Own{Options: []grpc.DialOption{
		grpc.WithDisableServiceConfig(), // clientv3's resolver gives one
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pick_first":{}}]}`),
	}}
	var seen [3]atomic.Int32
	var machines []string
	for i := range seen {
		l := listen(t, "tcp", "127.0.0.1:0")
		serve(t, l, func(context.Context) { seen[i].Add(1) })
		machines = append(machines, l.Addr().String())
	}
	for _, o := range []Options{{}, {DialOptions: blocking}} {
		cli := dialled(t, o, own, machines...)
		before := seen[0].Load()
		for range 6 {
			answers(t, cli)
		}
		if n := seen[0].Load() - before; n != 6 {
			t.Errorf("the first member got %d requests of 6", n)
		}
	}
}

// password is credentials for each request.
type password struct{ secure bool }

func (p password) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token": "t"}, nil
}

func (p password) RequireTransportSecurity() bool { return p.secure }

func TestCredentialsOfRequests(t *testing.T) {
	ca := certs.New(t)
	for _, test := range []struct{ tls, secure bool }{{false, false}, {true, true}, {true, false}} {
		var tokens sync.Map
		o, options := Options{}, []grpc.ServerOption(nil)
		if test.tls {
			o.CACert, options = ca.File, withTLS(t, ca, false)
		}
		l := listen(t, "tcp", "127.0.0.1:0")
		serve(t, l, func(ctx context.Context) {
			md, _ := metadata.FromIncomingContext(ctx)
			tokens.Store(fmt.Sprint(md["token"]), true)
		}, options...)
		own := Own{
			Options: []grpc.DialOption{grpc.WithPerRPCCredentials(password{test.secure})},
			Wrap:    func(_ context.Context, conn net.Conn) net.Conn { return conn },
		}
		answers(t, dialled(t, o, own, l.Addr().String()))
		if _, ok := tokens.Load("[t]"); !ok {
			t.Errorf("%+v: the token does not arrive", test)
		}
	}
	own := Own{
		Options: []grpc.DialOption{grpc.WithPerRPCCredentials(password{secure: true})},
		Wrap:    func(_ context.Context, conn net.Conn) net.Conn { return conn },
	}
	if cli, err := Dial(t.Context(), []string{"127.0.0.1:1"}, Options{}, own); err == nil || !strings.Contains(err.Error(), "transport") {
		t.Errorf("credentials that need TLS work without: %v, %v", cli, err)
	}
}

func TestOptions_PrintNoPassword(t *testing.T) {
	o := Options{CACert: "ca.pem", Username: "root", Password: "hunter2", DialOptions: blocking}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, value := range []any{o, &o, []Options{o}, struct{ O Options }{o}, map[string]Options{"o": o}} {
			got := fmt.Sprintf(verb, value)
			if strings.Contains(got, "hunter2") || strings.Contains(got, fmt.Sprintf("%x", "hunter2")) {
				t.Errorf("%s: %s", verb, got)
			}
		}
	}
	if got := fmt.Sprintf("%+v", o); !strings.Contains(got, "Username:root Password:(hidden)") || !strings.Contains(got, "CACert:ca.pem") {
		t.Error(got)
	}
	if o.Password != "hunter2" {
		t.Error("printing changes the options")
	}
	if got := fmt.Sprintf("%+v", Options{}); !strings.Contains(got, "Password:}") {
		t.Error(got)
	}
}

func TestOrDefault(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{-1: DefaultTimeout, 0: DefaultTimeout, 1: 1, time.Hour: time.Hour} {
		if got := OrDefault(given); got != want {
			t.Errorf("%v means %v, want %v", given, got, want)
		}
	}
}
