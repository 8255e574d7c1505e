// Package fleet simulates many programs that register and discover services
// with this package, and models what that costs etcd.
package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

// Members is how many etcd members there are.
const Members = 3

// Load is what a fleet does.
type Load struct {
	Services  int
	Instances int
	Watchers  int
	Heartbeat time.Duration
	Churn     float64 // changes a second
	Window    time.Duration
}

// Result is what it was measured to cost.
type Result struct {
	Load     Load
	Connect  Growth // by a client without registrations
	Register Growth // by a registration
	Watch    Growth // by an Instancer
	Beats    Rates  // while instances only renew their leases
	Idle     Rates  // while watchers only wait, too
	Churn    Rates  // while values change, too
	Standing Standing
	Late     Latency // of a change, until a watcher knows
}

// Growth is what one more of something adds, on average.
type Growth struct {
	Server  float64 // bytes of heap and stack, of all members together
	Client  float64 // bytes of heap and stack
	CPU     float64 // seconds of all members together
	Sent    float64 // bytes that the members sent
	Handled float64 // requests that they answered
	Seconds float64 // how long all of them took
}

// Rates are what happens in a second, on all members together.
type Rates struct {
	Beats     float64 // heartbeats
	Requests  float64 // unary requests of any kind
	Watch     float64 // messages of clients on watch streams
	Events    float64 // messages to clients on watch streams
	Sent      float64 // bytes
	Received  float64 // bytes
	ServerCPU float64 // seconds
	ClientCPU float64 // seconds
	Changes   float64 // that were made
}

// Standing is what stands once all is started.
type Standing struct {
	KeepAlives, WatchStreams, Watches float64
}

// Latency of a change: the median, and what 99 of 100 are below, in
// milliseconds.
type Latency struct{ P50, P99 float64 }

// fleet is a simulation that runs.
type fleet struct {
	load    Load
	members []*member.Member
	ctx     context.Context // of all clients
	clients []etcdv3.Client
	known   []*watcher
}

// Simulate runs a load on members of its own. Its clients are never closed, so
// it is for a program that ends after it.
func Simulate(load Load) (r Result, err error) {
	f := &fleet{load: load}
	if f.members, err = member.Start(Members, member.Options{NoFsync: true}); err != nil {
		return r, err
	}
	defer member.Stop(f.members)
	// The clients live as long as the process: the end of a fleet is no part of
	// what is measured.
	f.ctx = context.Background()
	r.Load = load
	f.clients = make([]etcdv3.Client, load.Instances)
	for _, phase := range []func(*Result) error{f.connect, f.register, f.beat, f.watch, f.idle, f.stand, f.churn} {
		if err := phase(&r); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (f *fleet) connect(r *Result) (err error) {
	r.Connect, err = f.grow(f.load.Instances, func(i int) (err error) {
		if f.clients[i], err = etcdv3.NewClient(f.ctx, member.Endpoints(f.members), etcdv3.ClientOptions{}); err == nil {
			_, err = f.clients[i].GetEntries("/nothing")
		}
		return err
	})
	return err
}

func (f *fleet) register(r *Result) (err error) {
	r.Register, err = f.grow(f.load.Instances, func(i int) error { return f.clients[i].Register(f.service(i, 0)) })
	return err
}

func (f *fleet) watch(r *Result) (err error) {
	f.known = make([]*watcher, f.load.Watchers)
	r.Watch, err = f.grow(f.load.Watchers, func(i int) error {
		s, err := etcdv3.NewInstancer(f.clients[i], f.prefix(i%f.load.Services), log.NewNopLogger())
		if err == nil {
			f.known[i] = follow(s)
		}
		return err
	})
	return err
}

func (f *fleet) beat(r *Result) (err error) {
	r.Beats, err = f.rates(func() int { time.Sleep(f.load.Window); return 0 })
	return err
}

func (f *fleet) idle(r *Result) (err error) {
	// A watcher asks for a sign of life every 10 s: that long counts all of them.
	r.Idle, err = f.rates(func() int { time.Sleep(10 * time.Second); return 0 })
	return err
}

func (f *fleet) stand(r *Result) error {
	now, err := f.counts()
	if err != nil {
		return err
	}
	r.Standing = Standing{
		KeepAlives:   now.Started("LeaseKeepAlive") - now.Handled("LeaseKeepAlive"),
		WatchStreams: now.WatchStreams(), Watches: now.Watchers(),
	}
	return nil
}

// churn changes values, at even intervals. Each change is a registration of the key
// with another value.
func (f *fleet) churn(r *Result) (err error) {
	r.Churn, err = f.rates(func() (changes int) {
		tick := time.NewTicker(time.Duration(float64(time.Second) / f.load.Churn))
		defer tick.Stop()
		var wait sync.WaitGroup
		for end := time.Now().Add(f.load.Window); time.Now().Before(end); changes++ {
			i, version := changes%f.load.Instances, changes+1
			wait.Go(func() {
				if e := f.clients[i].Register(f.service(i, version)); e != nil {
					err = e
				}
			})
			<-tick.C
		}
		wait.Wait()
		return changes
	})
	var late []time.Duration
	for _, w := range f.known {
		late = append(late, w.latencies()...)
	}
	r.Late = Latency{P50: measure.Millis(measure.Quantile(late, 0.5)), P99: measure.Millis(measure.Quantile(late, 0.99))}
	return err
}

func (f *fleet) prefix(service int) string { return fmt.Sprintf("/services/%04d/", service) }

// service is the registration of an instance; its value holds when it was made.
func (f *fleet) service(i, version int) etcdv3.Service {
	return etcdv3.Service{
		Key:   member.Key(f.prefix(i%f.load.Services), i),
		Value: fmt.Sprintf("http://host-%07d:8080/%d/%d", i, version, time.Now().UnixNano()),
		TTL:   etcdv3.NewTTLOption(f.load.Heartbeat, 3*f.load.Heartbeat+time.Second),
	}
}
