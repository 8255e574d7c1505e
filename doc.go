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
// It takes a lease, puts the key under it, and sends heartbeats. A lease that
// is lost, and a key that somebody deletes, come back; a key that another owner
// has written is left to that one until it is free. Deregister gives the lease
// back, and with it the key. Registrar.Err tells in which state it is. A Client
// holds any number of services, each with a life of its own.
//
// # Discovering
//
// An Instancer watches one prefix. Its life is
//
//	list -> follow -> (ended, doubtful) -> list ...  -> stop
//
// It lists what is there, applies every change to it, and lists again when the
// watch has ended or may have missed something. Subscribers, as sd.NewEndpointer
// is one, get the whole set after every change: sorted, each instance once, in a
// slice of their own.
//
// A subscriber that is slow gets fewer events, and always the newest: changes
// that it has not taken are replaced by what follows. It delays no other
// subscriber and no watch. Once Deregister has returned, nothing is sent to its
// channel.
//
// # When etcd is away
//
// Every request ends within ClientOptions.HeaderTimeoutPerRequest, 3 s by
// default. NewClient does not wait for etcd, unless DialOptions hold
// grpc.WithBlock.
//
// A Registrar goes on trying, with jittered back-off, and is registered again
// within 5 s of etcd answering. An Instancer keeps the last known set; its
// subscribers get an error within 15 s, and the full set within 5 s of etcd
// answering. A short break that loses nothing reports nothing. The methods of
// Client try once and return an error, except WatchPrefix, which goes on.
//
// # Who owns which goroutine
//
// There is one for each registration, each watched prefix and each subscriber,
// and one for the heartbeats of a Client. Who starts one ends it and waits for
// it: Registrar.Deregister, Instancer.Stop and Instancer.Deregister return when
// theirs is gone. The end of NewClient's context ends all that is left: it
// revokes the registrations within the request timeout, and then closes the
// connection. That goes on in the background, so a process that is about to exit
// calls Deregister first.
//
// A Client of your own, a double or a wrapper, works through its five methods
// alone. The goroutine that calls its WatchPrefix ends when WatchPrefix returns.
//
// Client, Registrar and Instancer are safe for concurrent use.
package etcdv3
