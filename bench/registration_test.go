package bench

import (
	"context"
	"testing"
	"time"

	upstream "github.com/go-kit/kit/sd/etcdv3"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/bench/internal/measure"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// registration is one way to be registered.
type registration interface {
	name() string
	// client returns what registers keys, on one client that lives as long as
	// ctx.
	client(ctx context.Context, tb testing.TB, o registrationOptions) registrar
}

// registrationOptions are those of a client that registers.
type registrationOptions struct {
	endpoint       string
	heartbeat, ttl time.Duration
	dial           []grpc.DialOption
	user, password string
	alive          bool // a bare lease is kept alive, too
}

type registrar interface {
	register(tb testing.TB, key, value string)
	deregister(tb testing.TB, key string)
}

var registrations = []registration{bareRegistration{}, thisRegistration{}, upstreamRegistration{}}

// bareRegistration is clientv3 by hand: grant, put, keep alive; and revoke.
type bareRegistration struct{}

func (bareRegistration) name() string { return "bare" }

func (bareRegistration) client(ctx context.Context, tb testing.TB, o registrationOptions) registrar {
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{o.endpoint}, DialOptions: o.dial, DialTimeout: connectTimeout,
		Username: o.user, Password: o.password, DialKeepAliveTime: 3 * time.Second,
	})
	if err != nil {
		tb.Fatal(err)
	}
	context.AfterFunc(ctx, func() { cli.Close() })
	return &bareRegistrar{ctx: ctx, cli: cli, options: o, leases: map[string]clientv3.LeaseID{}}
}

type bareRegistrar struct {
	ctx     context.Context
	cli     *clientv3.Client
	options registrationOptions
	leases  map[string]clientv3.LeaseID
}

func (r *bareRegistrar) register(tb testing.TB, key, value string) {
	lease, err := r.cli.Grant(r.ctx, int64(r.options.ttl/time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := r.cli.Put(r.ctx, key, value, clientv3.WithLease(lease.ID)); err != nil {
		tb.Fatal(err)
	}
	r.leases[key] = lease.ID
	if !r.options.alive {
		return
	}
	answers, err := r.cli.KeepAlive(r.ctx, lease.ID)
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		for range answers {
		}
	}()
}

func (r *bareRegistrar) deregister(tb testing.TB, key string) {
	if _, err := r.cli.Revoke(r.ctx, r.leases[key]); err != nil {
		tb.Fatal(err)
	}
}

// upstreamRegistration is go-kit's own package: one lease for each client.
type upstreamRegistration struct{}

func (upstreamRegistration) name() string { return "upstream" }

func (upstreamRegistration) client(ctx context.Context, tb testing.TB, o registrationOptions) registrar {
	c, err := upstream.NewClient(ctx, []string{o.endpoint}, upstream.ClientOptions{DialOptions: o.dial, Username: o.user, Password: o.password})
	if err != nil {
		tb.Fatal(err)
	}
	return upstreamRegistrar{c, upstream.NewTTLOption(o.heartbeat, o.ttl)}
}

type upstreamRegistrar struct {
	client upstream.Client
	ttl    *upstream.TTLOption
}

func (r upstreamRegistrar) register(tb testing.TB, key, value string) {
	if err := r.client.Register(upstream.Service{Key: key, Value: value, TTL: r.ttl}); err != nil {
		tb.Fatal(err)
	}
}

func (r upstreamRegistrar) deregister(tb testing.TB, key string) {
	if err := r.client.Deregister(upstream.Service{Key: key}); err != nil {
		tb.Fatal(err)
	}
}

// thisRegistration is the package that is measured.
type thisRegistration struct{}

func (thisRegistration) name() string { return "this" }

func (thisRegistration) client(ctx context.Context, tb testing.TB, o registrationOptions) registrar {
	c, err := etcdv3.NewClient(ctx, []string{o.endpoint}, etcdv3.ClientOptions{DialOptions: o.dial, Username: o.user, Password: o.password})
	if err != nil {
		tb.Fatal(err)
	}
	return thisRegistrar{c, etcdv3.NewTTLOption(o.heartbeat, o.ttl)}
}

type thisRegistrar struct {
	client etcdv3.Client
	ttl    *etcdv3.TTLOption
}

func (r thisRegistrar) register(tb testing.TB, key, value string) {
	if err := r.client.Register(etcdv3.Service{Key: key, Value: value, TTL: r.ttl}); err != nil {
		tb.Fatal(err)
	}
}

func (r thisRegistrar) deregister(tb testing.TB, key string) {
	if err := r.client.Deregister(etcdv3.Service{Key: key}); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkRegister measures one registration and its end, with a pause of
// some milliseconds between them. By hand that is a grant, a put, and a revoke.
// Upstream deletes the key and leaves the lease to run out.
//
//	register-us    median of Register
//	deregister-us  median of Deregister
//	cpu-us         processor time of this process for both
func BenchmarkRegister(b *testing.B) {
	each(b, registrations, func(b *testing.B, v registration) {
		one := registering(b, v)
		var in, out []float64
		cpu := measure.CPU()
		end := profiled(b)
		for b.Loop() {
			register, deregister := one()
			in, out = append(in, register), append(out, deregister)
		}
		end()
		cpu = measure.CPU() - cpu
		b.ReportMetric(measure.Quantile(in, 0.5), "register-us")
		b.ReportMetric(measure.Quantile(out, 0.5), "deregister-us")
		b.ReportMetric(measure.Micros(cpu)/float64(b.N), "cpu-us")
	})
	paired(b, func(b *testing.B, variant int) func() samples {
		one := registering(b, registrations[variant])
		return func() samples {
			all := samples{}
			for range 5 {
				register, deregister := one()
				all["register-us"] = append(all["register-us"], register)
				all["deregister-us"] = append(all["deregister-us"], deregister)
			}
			return all
		}
	})
}

// registering returns what registers a key and deregisters it, and says how
// many microseconds each took.
func registering(b *testing.B, v registration) func() (register, deregister float64) {
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	r := v.client(ctx, b, registrationOptions{endpoint: etcd(b).Endpoint, heartbeat: 3 * time.Second, ttl: 10 * time.Second})
	key := "/register/" + v.name()
	one := func() (register, deregister float64) {
		began := time.Now()
		r.register(b, key, "v")
		register = measure.Micros(time.Since(began))
		time.Sleep(2 * time.Millisecond)
		began = time.Now()
		r.deregister(b, key)
		deregister = measure.Micros(time.Since(began))
		time.Sleep(2 * time.Millisecond)
		return register, deregister
	}
	one()
	return one
}
