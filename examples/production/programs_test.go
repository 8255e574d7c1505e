package production_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	kitlog "github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/internal/member"
	"github.com/kitsd/etcdv3/examples/production/first"
	"github.com/kitsd/etcdv3/examples/production/health"
	"github.com/kitsd/etcdv3/examples/production/kitslog"
	"github.com/kitsd/etcdv3/examples/production/resolver"
	"github.com/kitsd/etcdv3/examples/production/secure"
	"github.com/kitsd/etcdv3/internal/alone"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func eventually(t *testing.T, bound time.Duration, what string, condition func() bool) {
	t.Helper()
	for began := time.Now(); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > bound {
			t.Fatalf("not within %v: %s", bound, what)
		}
	}
}

func connect(t *testing.T, endpoint string) etcdv3.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	client, err := etcdv3.NewClient(ctx, []string{endpoint}, etcdv3.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func discover(t *testing.T, client etcdv3.Client, prefix string) *etcdv3.Instancer {
	t.Helper()
	s, err := etcdv3.NewInstancer(client, prefix, kitlog.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// freePort returns a port that nobody else is given before the test's end.
func freePort(t *testing.T) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(alone.Port(t))
	return port
}

// startService starts the program, and returns what asks it.
func startService(t *testing.T, etcd, port string) (process *exec.Cmd, get func(path string) (status int, body string)) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGTERM")
	}
	binary := filepath.Join(t.TempDir(), "service")
	if out, err := exec.Command("go", "build", "-o", binary, "./service").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	process = exec.Command(binary)
	process.Env = append(os.Environ(), "POD_IP=127.0.0.1", "PORT="+port, "ETCD_ENDPOINTS="+etcd)
	var output bytes.Buffer
	process.Stdout, process.Stderr = &output, &output
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if process.ProcessState == nil {
			_ = process.Process.Kill()
			_ = process.Wait()
		}
		if t.Failed() {
			t.Log(output.String())
		}
	})
	return process, func(path string) (int, string) {
		response, err := http.Get("http://127.0.0.1:" + port + path)
		if err != nil {
			return 0, ""
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body)
	}
}

func TestService_LeavesDiscoveryBeforeItEnds(t *testing.T) {
	etcd := member.Start(t).Endpoint
	port := freePort(t)
	process, get := startService(t, etcd, port)
	instances := discover(t, connect(t, etcd), "/services/hello/")
	eventually(t, 20*time.Second, "it is ready", func() bool { status, _ := get("/readyz"); return status == http.StatusOK })
	eventually(t, time.Second, "it is discovered", func() bool {
		return slices.Equal(instances.State().Instances, []string{"127.0.0.1:" + port})
	})

	told := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "it is gone from discovery", func() bool { return len(instances.State().Instances) == 0 })
	if status, body := get("/"); status != http.StatusOK || body != "hello\n" {
		t.Error("it does not serve while it drains:", status, body)
	}
	if err := process.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(told); took < 5*time.Second || took > 18*time.Second {
		t.Errorf("it ended after %v", took)
	}
}

func TestService_IsNotReadyBeforeItIsRegistered(t *testing.T) {
	_, get := startService(t, "127.0.0.1:"+freePort(t), freePort(t))
	eventually(t, 20*time.Second, "it is up", func() bool { status, _ := get("/"); return status == http.StatusOK })
	if status, body := get("/readyz"); status != http.StatusServiceUnavailable || !strings.HasPrefix(body, "registration: ") {
		t.Error(status, body)
	}
}

func TestKitslog_KeepsMessagesAndLevels(t *testing.T) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})
	logger := kitlog.With(kitslog.New(slog.New(handler).With("app", "hello")), "key", "/services/hello/1")
	_ = level.Warn(logger).Log("msg", "registration lost", "err", errors.New("the lease was lost"))
	_ = level.Info(logger).Log("action", "register", "msg", "registered again")
	_ = level.Info(logger).Log("action", "deregister")
	_ = level.Error(logger).Log("msg", "x")
	_ = level.Debug(logger).Log("msg", "not wanted")
	_ = logger.Log("err", errors.New("of go-kit itself"))
	_ = logger.Log("instances", 3)
	want := `level=WARN msg="registration lost" app=hello key=/services/hello/1 err="the lease was lost"
level=INFO msg="registered again" app=hello key=/services/hello/1 action=register
level=INFO msg=deregister app=hello key=/services/hello/1 action=deregister
level=ERROR msg=x app=hello key=/services/hello/1
level=WARN msg=sd app=hello key=/services/hello/1 err="of go-kit itself"
level=INFO msg=sd app=hello key=/services/hello/1 instances=3
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestHealth_RegistersWhileItIsHealthy(t *testing.T) {
	etcd := member.Start(t).Endpoint
	client := connect(t, etcd)
	instances := discover(t, client, "/services/hello/")
	var ill atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		registrar := etcdv3.NewRegistrar(client, etcdv3.Service{Key: "/services/hello/1", Value: "v"}, kitlog.NewNopLogger())
		health.Follow(ctx, registrar, func(context.Context) error {
			if ill.Load() {
				return errors.New("the database does not answer")
			}
			return nil
		}, 50*time.Millisecond, 3)
	}()
	listed := func() bool { return len(instances.State().Instances) == 1 }
	unlisted := func() bool { return len(instances.State().Instances) == 0 }
	for range 3 {
		eventually(t, 5*time.Second, "it is listed while it is healthy", listed)
		ill.Store(true)
		eventually(t, 5*time.Second, "it is not listed while it is ill", unlisted)
		ill.Store(false)
	}
	eventually(t, 5*time.Second, "it is listed", listed)
	cancel()
	<-done
	eventually(t, 5*time.Second, "it has left", unlisted)
}

// counter is a gRPC server that counts its calls.
type counter struct {
	healthpb.UnimplementedHealthServer
	calls atomic.Int32
}

func (c *counter) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	c.calls.Add(1)
	return &healthpb.HealthCheckResponse{}, nil
}

func TestResolver_FollowsTheInstances(t *testing.T) {
	etcd := member.Start(t).Endpoint
	client := connect(t, etcd)
	var counters [2]counter
	var registrars [2]*etcdv3.Registrar
	for i := range counters {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, &counters[i])
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		address := listener.Addr().String()
		registrars[i] = etcdv3.NewRegistrar(client, etcdv3.Service{Key: "/services/hello/" + address, Value: address}, kitlog.NewNopLogger())
		registrars[i].Register()
		t.Cleanup(registrars[i].Deregister)
	}

	builder := resolver.New("etcd", func(service string) (resolver.Instancer, error) {
		return etcdv3.NewInstancer(client, "/services/"+service+"/", kitlog.NewNopLogger())
	})
	conn, err := grpc.NewClient("etcd:///hello", grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	// split makes 20 calls, and returns who got how many.
	split := func() string {
		for i := range counters {
			counters[i].calls.Store(0)
		}
		for range 20 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
				t.Error(err)
			}
			cancel()
		}
		return fmt.Sprint(counters[0].calls.Load(), "/", counters[1].calls.Load())
	}
	eventually(t, 10*time.Second, "calls are split", func() bool { return split() == "10/10" })
	registrars[1].Deregister()
	eventually(t, 2*time.Second, "one has all calls", func() bool { return split() == "20/0" })
	registrars[1].Register()
	eventually(t, 10*time.Second, "calls are split again", func() bool { return split() == "10/10" })
}

// balancer returns one that gives out the instances of a prefix.
func balancer(t *testing.T, client etcdv3.Client, prefix string) lb.Balancer {
	t.Helper()
	endpointer := sd.NewEndpointer(discover(t, client, prefix), func(instance string) (endpoint.Endpoint, io.Closer, error) {
		return func(context.Context, any) (any, error) { return instance, nil }, nil, nil
	}, kitlog.NewNopLogger())
	t.Cleanup(endpointer.Close)
	return lb.NewRoundRobin(endpointer)
}

func TestFirst_PrefersTheNear(t *testing.T) {
	client, other := connect(t, member.Start(t).Endpoint), connect(t, member.Start(t).Endpoint)
	balancers := first.Balancer{
		balancer(t, client, "/services/hello/eu-1/"), // this zone
		balancer(t, client, "/services/hello/"),      // every zone
		balancer(t, other, "/services/hello/"),       // the other cluster
	}
	answers := func() (all []string) {
		for range 10 {
			next, err := balancers.Endpoint()
			if err != nil {
				return []string{err.Error()}
			}
			answer, _ := next(context.Background(), nil)
			all = append(all, answer.(string))
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	services := map[string]etcdv3.Client{"eu-1/near": client, "eu-2/far": client, "eu-9/abroad": other}
	for key, c := range services {
		if err := c.Register(etcdv3.Service{Key: "/services/hello/" + key, Value: filepath.Base(key)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ leaves, answer string }{
		{"", "near"}, {"eu-1/near", "far"}, {"eu-2/far", "abroad"}, {"eu-9/abroad", lb.ErrNoEndpoints.Error()},
	} {
		if step.leaves != "" {
			if err := services[step.leaves].Deregister(etcdv3.Service{Key: "/services/hello/" + step.leaves}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 5*time.Second, step.answer+" answers", func() bool { return slices.Equal(answers(), []string{step.answer}) })
	}
}

func TestSecure_ConnectsWithTLSAndAUser(t *testing.T) {
	var certificate string
	etcd := member.Start(t, func(config *embed.Config) {
		config.ClientAutoTLS, config.SelfSignedCertValidity = true, 1
		config.ListenClientUrls[0].Scheme = "https"
		certificate = filepath.Join(config.Dir, "fixtures", "client", "cert.pem")
	}).Endpoint
	t.Setenv("ETCD_ENDPOINTS", "https://"+etcd)
	t.Setenv("ETCD_CA", certificate)
	t.Setenv("ETCD_USER", "hello")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("hello-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ETCD_PASSWORD_FILE", file)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	client, err := secure.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	addUsers(t, etcd, certificate)
	if err := client.Register(etcdv3.Service{Key: "/services/hello/1", Value: "v"}); err != nil {
		t.Error(err)
	}
	if err := client.Register(etcdv3.Service{Key: "/services/orders/1", Value: "v"}); err == nil {
		t.Error("it may register what was not granted")
	}
}

// addUsers makes root, and a user who may read and write one prefix.
func addUsers(t *testing.T, etcd, certificate string) {
	t.Helper()
	info := transport.TLSInfo{TrustedCAFile: certificate}
	config, err := info.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + etcd}, TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	prefix := "/services/hello/"
	_, a := cli.UserAdd(ctx, "root", "root-secret")
	_, b := cli.UserGrantRole(ctx, "root", "root")
	_, c := cli.RoleAdd(ctx, "hello")
	_, d := cli.RoleGrantPermission(ctx, "hello", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	_, e := cli.UserAdd(ctx, "hello", "hello-secret")
	_, f := cli.UserGrantRole(ctx, "hello", "hello")
	_, g := cli.AuthEnable(ctx)
	if err := errors.Join(a, b, c, d, e, f, g); err != nil {
		t.Fatal(err)
	}
}
