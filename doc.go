// Package etcdv3 registers services in etcd v3 and discovers them, for go-kit:
// it implements sd.Registrar and sd.Instancer. A program that uses
// github.com/go-kit/kit/sd/etcdv3 changes its import path, and is done as a
// rule: docs/from-sd-etcdv3.md tells of the few things that changed.
//
// # Registering
//
// A Registrar publishes one Service, a key and a value. Its life is
//
//	acquire -> hold -> (lost) -> acquire ...  -> release
//
// It takes a lease, puts the key under the lease, and sends heartbeats. A lease
// that is lost is replaced. A key that somebody deletes is put back at the next
// heartbeat. A key that another owner has written is left to that owner until it
// is free. Deregister gives the lease back, and with the lease the key.
// Registrar.Err tells why the service is not registered.
//
// A Client holds any number of services, each with a life of its own. Within one
// process a key has one owner: the Registrar, or Client, that registered it last.
//
// # Discovering
//
// An Instancer watches one prefix. Its life is
//
//	list -> follow -> (ended, doubtful) -> list ...  -> stop
//
// It lists what is there, and applies every change. When the watch has ended, or
// may have missed something, the prefix is listed again. Subscribers, as
// sd.NewEndpointer is one, get the whole set after every change: sorted, each
// instance once, in a slice of their own.
//
// A subscriber that is slow gets fewer events, and always the newest: a change
// that was not taken is replaced by the next one. A slow subscriber delays no
// other subscriber and no watch. Once Deregister has returned, nothing is sent to
// its channel.
//
// # When etcd is away
//
// A caller waits for no longer than ClientOptions.HeaderTimeoutPerRequest, 3 s by
// default. NewClient does not wait for etcd, unless DialOptions hold
// grpc.WithBlock.
//
// A Registrar goes on trying, and is registered again within 5 s of etcd
// answering. An Instancer keeps the last known set. Its subscribers get an error
// within 15 s, and the full set within 5 s of etcd answering. A short break that
// loses nothing reports nothing. The methods of Client return an error, except
// WatchPrefix, which goes on.
//
// # When etcd is slow
//
// Slow is not dead. The request timeout bounds how long a caller waits, not how
// long etcd may take. What a Registrar or an Instancer does in the background
// waits for its answer. What etcd has granted or taken is kept, and the next
// attempt goes on from there. So etcd may take 2.9 s for each answer, and all
// of this works in proportion.
//
// Work beyond what etcd answers waits in the client, in order, and costs etcd
// nothing. A request is made again if its connection broke, or if its member is
// silent while another one answers. After a minute it is made again if etcd
// answers what came later. After the first twenty of these repeats, ten answers
// pay for one. While etcd is not well, one request goes at a time, and the
// others wait for its answer. A Client has one token, however many services it
// registers, and at most four streams.
//
// # Who owns which goroutine
//
// A Client has three goroutines of its own, and a fourth if it has several
// endpoints. Each service that is registered adds one, and so does each watched
// prefix and each subscriber. The first service of a Client adds two more, for
// the stream of heartbeats. The first service or prefix adds one more, for the
// stream of watches. Requests that are under way, and lines that wait for the
// logger, have some for as long as that takes. So has gRPC for each connection.
//
// Who starts a goroutine ends it and waits for it: Registrar.Deregister,
// Instancer.Stop and Instancer.Deregister return when theirs is gone. The end of
// NewClient's context ends all that is left. Then the registrations are revoked
// within the request timeout, and the connection is closed. All of that goes on in
// the background, so a process that is about to exit calls Deregister first.
//
// A Client of your own, a double or a wrapper, works through its five methods
// alone. The goroutine that calls its WatchPrefix ends when WatchPrefix returns.
//
// Client, Registrar and Instancer are safe for concurrent use.
//
// # Log lines and metrics
//
// A change of state is one line, with go-kit's keys and a level of go-kit's
// package level: warn for trouble, info for what is well again. The same trouble
// is told again after a minute, and then every ten. A logger that blocks delays a
// caller by 100 ms at most, and nothing else. ClientOptions.Metrics holds counters
// and gauges of go-kit's package metrics. docs/operations.md has a row for each
// line and for each metric.
package etcdv3
