package bench

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

// rest is the time between two changes, when latencies are compared: so what
// is measured is the latency of a change, and not how many there can be.
const rest = 3 * time.Millisecond

// BenchmarkChange measures one change while many instances stand: from before
// the Put to the subscriber's event that shows it.
//
//	p50-us, p99-us  latency
//	sent-B          bytes of all messages that the server sent for it
//	ranges          range requests that it served for it
//	cpu-us          processor time of this process, with what the Put costs
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			each(b, discoveries, func(b *testing.B, v discovery) { change(b, v, n) })
			paired(b, func(b *testing.B, variant int) func() samples {
				one := changing(b, discoveries[variant], fmt.Sprint("paired", variant), n)
				return func() samples {
					var micros []float64
					for range 20 {
						time.Sleep(rest)
						micros = append(micros, measure.Micros(one()))
					}
					return samples{"p50-us": micros}
				}
			})
		})
	}
}

func change(b *testing.B, v discovery, n int) {
	one := changing(b, v, "each", n)
	var latencies []time.Duration
	before, answers, cpu := counts(b, etcd(b).Member), etcd(b).answers.n.Load(), measure.CPU()
	end := profiled(b)
	for b.Loop() {
		latencies = append(latencies, one())
	}
	end()
	cpu = measure.CPU() - cpu
	done := counts(b, etcd(b).Member).Since(before)
	changes := float64(len(latencies))
	b.ReportMetric(measure.Micros(measure.Quantile(latencies, 0.5)), "p50-us")
	b.ReportMetric(measure.Micros(measure.Quantile(latencies, 0.99)), "p99-us")
	b.ReportMetric((done.Sent()-float64(etcd(b).answers.n.Load()-answers))/changes, "sent-B")
	b.ReportMetric(done.Handled("Range")/changes, "ranges")
	b.ReportMetric(measure.Micros(cpu)/changes, "cpu-us")
}

// changing follows a prefix with n instances, and returns what changes one of
// them, at random, the same for each variant.
func changing(b *testing.B, v discovery, owner string, n int) (one func() time.Duration) {
	prefix := populated(b, owner, n)
	f := v.connect(b, etcd(b).Endpoint)(prefix)
	b.Cleanup(f.stop)
	s := subscribers(b, f, 1, n)[0]
	b.Cleanup(s.end)
	random := rand.New(rand.NewPCG(1, uint64(n)))
	one = func() time.Duration { return changeOne(b, s, prefix, random.IntN(n)) }
	for range 3 {
		one()
	}
	return one
}

// changeOne changes one instance, and returns after how long the subscriber
// knows.
func changeOne(b *testing.B, s subscription, prefix string, i int) time.Duration {
	key, value := member.Key(prefix, i), member.Value(i, nextVersion())
	written := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(written)
		etcd(b).put(b, key, value)
	}()
	await(s, key, value)
	took := time.Since(began)
	<-written
	return took
}
