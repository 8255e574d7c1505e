package virtual_test

import (
	"strings"
	"sync"

	"github.com/go-kit/kit/metrics"
	"github.com/kitsd/etcdv3"
)

// spy keeps all metrics of a client by name and label.
type spy struct {
	mu  sync.Mutex
	val map[string]float64
}

func (s *spy) get(name string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.val[name]
}

func (s *spy) sum(prefix string) (n float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.val {
		if strings.HasPrefix(k, prefix) {
			n += v
		}
	}
	return n
}

func (s *spy) all() map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := map[string]float64{}
	for k, v := range s.val {
		c[k] = v
	}
	return c
}

type meter struct {
	s    *spy
	name string
}

func (m meter) with(l ...string) meter { return meter{m.s, m.name + "{" + strings.Join(l, "=") + "}"} }
func (m meter) Add(d float64)          { m.s.mu.Lock(); m.s.val[m.name] += d; m.s.mu.Unlock() }

type counter struct{ meter }

func (c counter) With(l ...string) metrics.Counter { return counter{c.with(l...)} }

type gauge struct{ meter }

func (g gauge) With(l ...string) metrics.Gauge { return gauge{g.with(l...)} }
func (g gauge) Set(v float64)                  { g.s.mu.Lock(); g.s.val[g.name] = v; g.s.mu.Unlock() }

func spied() (*spy, func(*etcdv3.ClientOptions)) {
	s := &spy{val: map[string]float64{}}
	c := func(n string) metrics.Counter { return counter{meter{s, n}} }
	g := func(n string) metrics.Gauge { return gauge{meter{s, n}} }
	m := &etcdv3.Metrics{
		ServicesWanted: g("wanted"), ServicesRegistered: g("registered"), Losses: c("losses"), Returns: c("returns"),
		HeartbeatsUnanswered: c("unanswered"), PrefixesWatched: g("watched"), PrefixesStale: g("stale"), Instances: g("instances"),
		SilentSeconds: g("silent"), Interruptions: c("interruptions"), EventsSent: c("sent"), EventsCoalesced: c("coalesced"),
		Requests: c("requests"), Retries: c("retries"), RequestsWaiting: g("waiting"), Authentications: c("authentications"),
	}
	return s, func(o *etcdv3.ClientOptions) { o.Metrics = m }
}
