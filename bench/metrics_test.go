package bench

import (
	"context"
	"testing"
	"time"

	kit "github.com/go-kit/kit/metrics"
	kitprometheus "github.com/go-kit/kit/metrics/prometheus"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/prometheus/client_golang/prometheus"
)

// metricsInstances is how many stand while one of them changes.
const metricsInstances = 1_000

// BenchmarkMetrics measures what ClientOptions.Metrics cost of one change. The same
// change is made for a client without and for one with metrics, in turns, one change
// a turn, and each of them first as often as the other.
//
//	ratio-p50-us  latency, with to without
//	ratio-cpu-us  processor time of this process, with what the Put costs
//	metrics-us    what a change calls of the metrics, called by itself
//	share         that to the latency without: the target is 0.02 at most
func BenchmarkMetrics(b *testing.B) {
	variants := []metricsDiscovery{{with: false}, {with: true}}
	var one [2]func() time.Duration
	for i, v := range variants {
		one[i] = changing(b, v, "metrics-"+v.name(), metricsInstances)
	}
	calls := changeCalls(prometheusMetrics())
	var micros, cpus [2][]float64
	var alone []float64
	for turn := 0; b.Loop(); turn++ {
		for i := range variants {
			i = (i + turn) % len(variants)
			time.Sleep(rest)
			cpu := measure.CPU()
			micros[i] = append(micros[i], measure.Micros(one[i]()))
			cpus[i] = append(cpus[i], measure.Micros(measure.CPU()-cpu))
		}
		began := time.Now()
		calls()
		alone = append(alone, measure.Micros(time.Since(began)))
	}
	without := measure.Quantile(micros[0], 0.5)
	b.ReportMetric(measure.Quantile(micros[1], 0.5)/without, "ratio-p50-us")
	b.ReportMetric(measure.Quantile(cpus[1], 0.5)/measure.Quantile(cpus[0], 0.5), "ratio-cpu-us")
	b.ReportMetric(measure.Quantile(alone, 0.5), "metrics-us")
	b.ReportMetric(measure.Quantile(alone, 0.5)/without, "share")
	if share := measure.Quantile(alone, 0.5) / without; share > 0.02 {
		b.Errorf("the metrics are %.3f of a change", share)
	}
}

// changeCalls returns what one change calls of the metrics.
func changeCalls(m *etcdv3.Metrics) func() {
	return func() {
		meter.Set(m.Instances, metricsInstances, "prefix", "/bench/")
		meter.Count(m.EventsSent, 1)
		meter.Count(m.EventsCoalesced, 1)
	}
}

// metricsDiscovery is the package that is measured, with metrics or without.
type metricsDiscovery struct{ with bool }

func (d metricsDiscovery) name() string {
	if d.with {
		return "with"
	}
	return "without"
}

func (d metricsDiscovery) connect(tb testing.TB, endpoints ...string) func(string) followed {
	options := etcdv3.ClientOptions{}
	if d.with {
		options.Metrics = prometheusMetrics()
	}
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	c, err := etcdv3.NewClient(ctx, endpoints, options)
	if err != nil {
		tb.Fatal(err)
	}
	return func(prefix string) followed {
		s, err := etcdv3.NewInstancer(c, prefix, nil)
		if err != nil {
			tb.Fatal(err)
		}
		return kitFollowed{s}
	}
}

// prometheusMetrics returns all metrics, as the program of docs/production.md has
// them.
func prometheusMetrics() *etcdv3.Metrics {
	counter := func(labels ...string) kit.Counter {
		return kitprometheus.NewCounter(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c"}, labels))
	}
	gauge := func(labels ...string) kit.Gauge {
		return kitprometheus.NewGauge(prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "g"}, labels))
	}
	return &etcdv3.Metrics{
		ServicesWanted: gauge(), ServicesRegistered: gauge(), Losses: counter("reason"), Returns: counter("reason"),
		HeartbeatsUnanswered: counter(), PrefixesWatched: gauge(), PrefixesStale: gauge(),
		Instances: gauge("prefix"), SilentSeconds: gauge("prefix"), Interruptions: counter("reason"),
		EventsSent: counter(), EventsCoalesced: counter(), Requests: counter(), Retries: counter(),
		RequestsWaiting: gauge(), Authentications: counter(),
	}
}
