// Package etcdtest is an etcd in memory that speaks gRPC, for tests in virtual time.
//
// One [Etcd] is a cluster of members that share one store. A client reaches
// them with its usual endpoints and one dial option:
//
//	etcd := etcdtest.Start(t, etcdtest.Config{Members: 3})
//	client, err := etcdv3.NewClient(ctx, etcd.Endpoints(), etcdv3.ClientOptions{
//		DialOptions: []grpc.DialOption{etcd.Dialer()},
//	})
//
// All time is that of package time, so that a bubble of testing/synctest holds
// the whole cluster. Outside of a bubble the same cluster runs in real time.
//
// A bubble in which nothing happens any more still has timers: those of gRPC's
// keep-alive. So a test that waits in vain does not end; give each wait a bound.
// The Watcher of clientv3 lets no time pass in a bubble, since its contexts
// share a channel from outside; watch streams of one's own do.
//
// What a client can see follows etcd 3.7: revisions, leases, watches, tokens and
// errors. What makes it slow, wrong or absent can be changed at any time: with
// [Etcd.Set] for the cluster, and with the methods of [Member] for one member.
package etcdtest
