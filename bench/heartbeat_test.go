package bench

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/bench/internal/measure"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

const services = 1_000

// BenchmarkHeartbeats measures 1,000 services on one client at a heartbeat of
// 1 s, for as long as -window says. By hand that is clientv3's KeepAlive of a
// lease of 3 s, which renews at a third of the TTL. Upstream cannot: a client
// of it has one lease.
//
//	cpu-us/beat   processor time of this process
//	heap-B/lease  what a registration occupies
//	stack-B/lease what its goroutines do
//	beats/s       that the server counted
//	streams       keep-alive streams that were opened meanwhile, and before
//	watches       that stand on the server
func BenchmarkHeartbeats(b *testing.B) {
	each(b, []registration{bareRegistration{}, thisRegistration{}}, func(b *testing.B, v registration) {
		ctx, cancel := context.WithCancel(context.Background())
		ttl := 3 * time.Second
		if v.name() == "this" {
			ttl = 10 * time.Second // any will do: the heartbeat is its own
		}
		was, watches := counts(b, etcd(b).Member), settledWatchers(b)
		r := v.client(ctx, b, registrationOptions{endpoint: etcd(b).Endpoint, heartbeat: time.Second, ttl: ttl, alive: true})
		r.register(b, "/heartbeats/first", "v")
		before := measure.Held()
		registerMany(b, r, "/heartbeats/"+v.name(), services)
		time.Sleep(2 * time.Second)
		held := measure.Held().Since(before)
		stand := settledWatchers(b) - watches
		from, cpu, began := counts(b, etcd(b).Member), measure.CPU(), time.Now()
		end := profiled(b)
		for b.Loop() {
			time.Sleep(*window)
		}
		end()
		cpu, took := measure.CPU()-cpu, time.Since(began)
		now := counts(b, etcd(b).Member)
		beats := now.Since(from).Messages("LeaseKeepAlive")
		b.ReportMetric(measure.Micros(cpu)/beats, "cpu-us/beat")
		b.ReportMetric(held.Heap/services, "heap-B/lease")
		b.ReportMetric(held.Stack/services, "stack-B/lease")
		b.ReportMetric(beats/took.Seconds(), "beats/s")
		b.ReportMetric(now.Since(was).Started("LeaseKeepAlive"), "streams")
		b.ReportMetric(stand, "watches")
		cancel()
		awaitGone(b, v, "/heartbeats/"+v.name())
	})
}

// registerMany registers n services under a prefix.
func registerMany(tb testing.TB, r registrar, prefix string, n int) {
	for i := range n {
		r.register(tb, fmt.Sprintf("%s/%04d", prefix, i), "http://10.0.0.1:8080")
	}
}

// awaitGone waits until what was registered is gone, so that its end is no
// part of what comes next.
func awaitGone(b *testing.B, v registration, prefix string) {
	if v.name() == "bare" { // its leases run out
		if err := etcd(b).Clear(prefix); err != nil {
			b.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		return
	}
	for remaining(b, prefix) > 0 {
		time.Sleep(50 * time.Millisecond)
	}
}

// BenchmarkHeartbeatAccuracy measures how well each of 1,000 services keeps a
// heartbeat of its own, of 1 s to 1.9 s, for as long as -window says. It compares the
// intervals between the beats of a lease with what was asked for. clientv3 renews
// at a third of the TTL, on a grid of 500 ms: there is nothing to compare with.
//
//	p50-off-%, p99-off-%, max-off-%  by how much an interval is not the heartbeat
func BenchmarkHeartbeatAccuracy(b *testing.B) {
	each(b, []registration{thisRegistration{}}, func(b *testing.B, v registration) {
		ctx, cancel := context.WithCancel(context.Background())
		beats := &beatTimes{last: map[int64]time.Time{}, every: map[int64]time.Duration{}}
		c := thisRegistrar{client: thisRegistration{}.client(ctx, b, registrationOptions{
			endpoint: etcd(b).Endpoint, dial: []grpc.DialOption{grpc.WithStatsHandler(beats)},
		}).(thisRegistrar).client}
		for i := range services {
			every := time.Second + time.Duration(i%10)*100*time.Millisecond
			c.ttl = etcdv3.NewTTLOption(every, 10*time.Second)
			c.register(b, fmt.Sprintf("/accuracy/%04d", i), "v")
			beats.expect(c.client.LeaseID(), every)
		}
		end := profiled(b)
		for b.Loop() {
			time.Sleep(*window)
		}
		end()
		cancel()
		off := beats.deviations()
		b.ReportMetric(100*measure.Quantile(off, 0.5), "p50-off-%")
		b.ReportMetric(100*measure.Quantile(off, 0.99), "p99-off-%")
		b.ReportMetric(100*measure.Quantile(off, 1), "max-off-%")
		b.ReportMetric(float64(len(off)), "intervals")
		awaitGone(b, v, "/accuracy")
	})
}

// beatTimes notes when the heartbeats of each lease are sent.
type beatTimes struct {
	receivedBytes
	mu    sync.Mutex // guards all below
	last  map[int64]time.Time
	every map[int64]time.Duration
	off   []float64
}

func (t *beatTimes) HandleRPC(_ context.Context, s stats.RPCStats) {
	out, ok := s.(*stats.OutPayload)
	if !ok {
		return
	}
	beat, ok := out.Payload.(*pb.LeaseKeepAliveRequest)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	last, every := t.last[beat.ID], t.every[beat.ID]
	t.last[beat.ID] = out.SentTime
	if !last.IsZero() && every != 0 {
		off := out.SentTime.Sub(last).Seconds()/every.Seconds() - 1
		t.off = append(t.off, max(off, -off))
	}
}

// expect says what the heartbeat of a lease should be, from now on.
func (t *beatTimes) expect(lease int64, every time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.every[lease] = every
}

func (t *beatTimes) deviations() []float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.off
}
