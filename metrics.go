package etcdv3

import "github.com/go-kit/kit/metrics"

// Metrics are what an operator watches of a client. Every field is optional: a
// nil one is not kept, and costs nothing. go-kit's metrics package has adapters
// for Prometheus, statsd, OpenTelemetry and others. docs/operations.md has the
// names to use there, and alerts.
//
// A metric is called where the event happens, from several goroutines at a time.
// One that blocks or panics is the caller's: let it do neither.
//
// Where a field names labels, the metric is used with these, in this order. The
// label reason has one of the words that docs/operations.md lists. The making of a
// client adds 0 to each metric, for each reason that it can have, so that it is there
// before something happens. Several clients may share one set.
type Metrics struct {
	// ServicesWanted is how many services are to be registered: from the call of
	// Register until it failed, or until Deregister is done.
	ServicesWanted metrics.Gauge

	// ServicesRegistered is how many services are registered, as far as is known.
	ServicesRegistered metrics.Gauge

	// Losses counts services that were registered, and are not. Label: reason.
	Losses metrics.Counter

	// Returns counts services that were lost, and are registered again. Label:
	// reason, the last that kept the service from coming back.
	Returns metrics.Counter

	// HeartbeatsUnanswered counts heartbeats that a stream ended without an answer
	// to.
	HeartbeatsUnanswered metrics.Counter

	// PrefixesWatched is how many prefixes are watched.
	PrefixesWatched metrics.Gauge

	// PrefixesStale is how many prefixes may have missed changes.
	PrefixesStale metrics.Gauge

	// Instances is how many instances a prefix has. Label: prefix.
	Instances metrics.Gauge

	// SilentSeconds is how many seconds ago etcd last gave a sign of life to the
	// watch of a prefix, and 0 while the watch is well. A quiet watch is asked every
	// 8 s, and told of after 13.5 s. Label: prefix.
	SilentSeconds metrics.Gauge

	// Interruptions counts watches that ended by themselves. Label: reason.
	Interruptions metrics.Counter

	// EventsSent counts events that subscribers took.
	EventsSent metrics.Counter

	// EventsCoalesced counts states that newer ones replaced before a subscriber
	// took them.
	EventsCoalesced metrics.Counter

	// Requests counts requests to etcd, heartbeats and watches apart.
	Requests metrics.Counter

	// Retries counts requests that were made again.
	Retries metrics.Counter

	// RequestsWaiting is how many pieces of work wait in the client for their turn.
	RequestsWaiting metrics.Gauge

	// Authentications counts requests for a token.
	Authentications metrics.Counter
}
