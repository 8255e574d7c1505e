package etcdv3_test

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc"

	"github.com/kitsd/etcdv3"
)

// A CA, a client certificate, and a user with a password. Each of the three
// works without the others.
func ExampleNewClient_tls() {
	etcd := startSecureEtcd()
	defer etcd.stop()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClient(ctx, []string{"https://" + etcd.endpoint}, etcdv3.ClientOptions{
		CACert:   etcd.ca,   // as "/etc/hello/etcd-ca.pem"; the system's CAs if it is empty
		Cert:     etcd.cert, // as "/etc/hello/etcd.pem"
		Key:      etcd.key,  // as "/etc/hello/etcd.key"
		Username: "service",
		Password: "secret", // as os.Getenv("ETCD_PASSWORD")
	})
	if err != nil { // a file that cannot be read, for example
		fmt.Println(err)
		return
	}

	// NewClient did not wait for etcd. A request tells whether etcd takes the
	// certificate and the password.
	instances, err := client.GetEntries("/services/hello/")
	fmt.Println(len(instances), err)

	// Output:
	// 0 <nil>
}

// NewClient returns before etcd is connected, and that is what most services
// want. One that should not start without etcd passes grpc.WithBlock.
func ExampleNewClient_wait() {
	_, err := etcdv3.NewClient(context.Background(), []string{"127.0.0.1:1"}, etcdv3.ClientOptions{
		DialTimeout: 200 * time.Millisecond,
		//lint:ignore SA1019 grpc keeps it through all of 1.x, and NewClient honours it
		DialOptions: []grpc.DialOption{grpc.WithBlock()},
	})
	fmt.Println(err)

	// Output:
	// no endpoint could be reached within DialTimeout (200ms): context deadline exceeded
}

// A program that has a clientv3 client already uses it for discovery, too.
func ExampleNewClientFrom() {
	etcd := startEtcd()
	defer etcd.stop()

	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{etcd.endpoint},
		// They find a silent link before a TTL of 10 s is far over: grpc pings
		// every 10 s at most, and waits 20 s for the answer by default.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cli.Close() // the caller's to close, after ctx has ended

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	service := etcdv3.Service{Key: "/services/hello/10.0.0.1:8080", Value: "http://10.0.0.1:8080"}
	if err := client.Register(service); err != nil {
		fmt.Println(err)
		return
	}
	defer client.Deregister(service)

	resp, err := cli.Get(ctx, service.Key)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", resp.Kvs[0].Value)

	// Output:
	// http://10.0.0.1:8080
}

// A namespace keeps the services of two environments apart in one etcd.
func ExampleNewClientFrom_namespace() {
	etcd := startEtcd()
	defer etcd.stop()

	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.endpoint}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cli.Close()
	whole := cli.KV // sees all of etcd
	cli.KV = namespace.NewKV(cli.KV, "/staging")
	cli.Watcher = namespace.NewWatcher(cli.Watcher, "/staging")
	cli.Lease = namespace.NewLease(cli.Lease, "/staging")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	service := etcdv3.Service{Key: "/services/hello/10.0.0.1:8080", Value: "http://10.0.0.1:8080"}
	if err := client.Register(service); err != nil {
		fmt.Println(err)
		return
	}
	defer client.Deregister(service)

	resp, err := whole.Get(ctx, "/staging/", clientv3.WithPrefix())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", resp.Kvs[0].Key)

	// Output:
	// /staging/services/hello/10.0.0.1:8080
}
