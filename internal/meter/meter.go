// Package meter holds the metrics that a client keeps. A metric that was not given
// is not kept.
package meter

import (
	"slices"

	"github.com/go-kit/kit/metrics"
)

// Metrics has the fields of the root's Metrics, which documents them. The root
// converts its own to this one: that stops compiling when the two differ.
type Metrics struct {
	ServicesWanted       metrics.Gauge
	ServicesRegistered   metrics.Gauge
	Losses               metrics.Counter
	Returns              metrics.Counter
	HeartbeatsUnanswered metrics.Counter

	PrefixesWatched metrics.Gauge
	PrefixesStale   metrics.Gauge
	Instances       metrics.Gauge
	SilentSeconds   metrics.Gauge
	Interruptions   metrics.Counter
	EventsSent      metrics.Counter
	EventsCoalesced metrics.Counter

	Requests        metrics.Counter
	Retries         metrics.Counter
	RequestsWaiting metrics.Gauge
	Authentications metrics.Counter
}

// None is what a client without metrics has.
var None = &Metrics{}

// Begin has each metric of a client there with what it is so far, 0 if this client
// is the first to keep it, for each of the words that its label reason may have. A
// counter that begins at 1 has not increased, for Prometheus, and a comparison with
// a metric that is not there says nothing.
func Begin(m *Metrics, losses, interruptions []string) {
	for _, g := range []metrics.Gauge{m.ServicesWanted, m.ServicesRegistered, m.PrefixesWatched, m.PrefixesStale, m.RequestsWaiting} {
		Add(g, 0)
	}
	for _, c := range []metrics.Counter{m.HeartbeatsUnanswered, m.EventsSent, m.EventsCoalesced, m.Requests, m.Retries, m.Authentications} {
		begin(c)
	}
	for _, reason := range losses {
		begin(m.Losses, "reason", reason)
		begin(m.Returns, "reason", reason)
	}
	for _, reason := range interruptions {
		begin(m.Interruptions, "reason", reason)
	}
}

func begin(c metrics.Counter, labels ...string) {
	if c == nil {
		return
	}
	if len(labels) > 0 {
		c = c.With(labels...)
	}
	c.Add(0)
}

// Count adds n to a counter, if there is one. The labels are pairs of a name and
// a value. They are copied for the metric, which may keep them: so those of a metric
// that is not kept stay on the caller's stack.
func Count(c metrics.Counter, n int, labels ...string) {
	if c == nil || n == 0 {
		return
	}
	if len(labels) > 0 {
		c = c.With(slices.Clone(labels)...)
	}
	c.Add(float64(n))
}

// Add adds n, which may be negative, to a gauge without labels, if there is one.
func Add(g metrics.Gauge, n int) {
	if g != nil {
		g.Add(float64(n))
	}
}

// Set sets a gauge with labels, if there is one.
func Set(g metrics.Gauge, value float64, labels ...string) {
	if g != nil {
		g.With(slices.Clone(labels)...).Set(value)
	}
}
