// Package proxy serves etcd's gRPC proxy.
package proxy

import (
	"context"
	"net"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Serve serves etcd's gRPC proxy on a port of its own, in front of what a client is
// connected to. The proxy is put together as `etcd grpc-proxy start` does it. Serve
// returns the endpoint, and a function that ends the proxy.
func Serve(through *clientv3.Client) (endpoint string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	kv, _ := grpcproxy.NewKvProxy(through)
	watch, _ := grpcproxy.NewWatchProxy(ctx, zap.NewNop(), through)
	lease, _ := grpcproxy.NewLeaseProxy(ctx, through)
	cluster, _ := grpcproxy.NewClusterProxy(zap.NewNop(), through, "", "")
	server := grpc.NewServer()
	pb.RegisterKVServer(server, kv)
	pb.RegisterWatchServer(server, watch)
	pb.RegisterLeaseServer(server, lease)
	pb.RegisterClusterServer(server, cluster)
	pb.RegisterMaintenanceServer(server, grpcproxy.NewMaintenanceProxy(through))
	pb.RegisterAuthServer(server, grpcproxy.NewAuthProxy(through))
	go server.Serve(listener)
	return listener.Addr().String(), func() {
		cancel()
		server.Stop()
	}, nil
}
