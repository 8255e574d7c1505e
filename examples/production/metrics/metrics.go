// Package metrics keeps for Prometheus what an etcdv3 client measures.
package metrics

import (
	kit "github.com/go-kit/kit/metrics"
	kitprometheus "github.com/go-kit/kit/metrics/prometheus"
	"github.com/kitsd/etcdv3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// New registers the metrics, and returns them for ClientOptions.Metrics. Call it
// once in a process: several clients may share what it returns.
func New(registerer prometheus.Registerer) *etcdv3.Metrics {
	with := promauto.With(registerer)
	counter := func(name, help string, labels ...string) kit.Counter {
		return kitprometheus.NewCounter(with.NewCounterVec(
			prometheus.CounterOpts{Namespace: "etcdv3", Name: name, Help: help}, labels))
	}
	gauge := func(name, help string, labels ...string) kit.Gauge {
		return kitprometheus.NewGauge(with.NewGaugeVec(
			prometheus.GaugeOpts{Namespace: "etcdv3", Name: name, Help: help}, labels))
	}
	return &etcdv3.Metrics{
		ServicesWanted:       gauge("services_wanted", "Services that are to be registered."),
		ServicesRegistered:   gauge("services_registered", "Services that are registered."),
		Losses:               counter("losses_total", "Services that were registered, and are not.", "reason"),
		Returns:              counter("returns_total", "Services that were lost, and are registered again.", "reason"),
		HeartbeatsUnanswered: counter("heartbeats_unanswered_total", "Heartbeats that got no answer."),
		PrefixesWatched:      gauge("prefixes_watched", "Prefixes that are watched."),
		PrefixesStale:        gauge("prefixes_stale", "Prefixes that may have missed changes."),
		Instances:            gauge("instances", "Instances that a prefix has.", "prefix"),
		SilentSeconds:        gauge("silent_seconds", "Seconds since etcd's last sign of life to a watch.", "prefix"),
		Interruptions:        counter("interruptions_total", "Watches that ended by themselves.", "reason"),
		EventsSent:           counter("events_sent_total", "Events that subscribers took."),
		EventsCoalesced:      counter("events_coalesced_total", "States that newer ones replaced before they were taken."),
		Requests:             counter("requests_total", "Requests to etcd, without heartbeats and watches."),
		Retries:              counter("retries_total", "Requests that were made again."),
		RequestsWaiting:      gauge("requests_waiting", "Work that waits in the client for its turn."),
		Authentications:      counter("authentications_total", "Requests for a token."),
	}
}
