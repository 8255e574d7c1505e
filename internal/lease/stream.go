package lease

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// stream is what a keeper needs of a lease keep-alive stream.
type stream interface {
	Send(*pb.LeaseKeepAliveRequest) error
	Recv() (*pb.LeaseKeepAliveResponse, error)
}

// openStream opens a stream. A client without a connection of its own, and one
// that wraps its Lease, renews by way of that Lease.
func (k *Keeper) openStream(ctx context.Context) (stream, error) {
	cli := k.conn.Client
	if k.conn.Leases != nil {
		return pb.NewLeaseClient(cli.ActiveConnection()).LeaseKeepAlive(clientv3.WithRequireLeader(ctx))
	}
	if conn := cli.ActiveConnection(); conn != nil && conn.GetState() != connectivity.Ready {
		return nil, errLost
	}
	return &requests{ctx: ctx, lease: cli.Lease, beats: make(chan clientv3.LeaseID, atOnce)}, nil
}

// errLost says that there is no connection for requests.
var errLost = status.Error(codes.Unavailable, "there is no connection to etcd")

// errNoAnswer is a fault of a Lease that somebody has wrapped.
var errNoAnswer = errors.New("the client's Lease has given neither an answer nor an error")

// requests stands in for a stream, and makes one request after the other. If the
// connection breaks, clientv3 repeats a request by itself.
type requests struct {
	ctx   context.Context // of the stream that it stands for
	lease clientv3.Lease
	beats chan clientv3.LeaseID // has room for all that may be sent
}

func (r *requests) Send(req *pb.LeaseKeepAliveRequest) error {
	r.beats <- clientv3.LeaseID(req.ID)
	return nil
}

func (r *requests) Recv() (*pb.LeaseKeepAliveResponse, error) {
	var id clientv3.LeaseID
	select {
	case id = <-r.beats:
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
	resp, err := r.lease.KeepAliveOnce(r.ctx, id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return &pb.LeaseKeepAliveResponse{ID: int64(id)}, nil
	}
	if err == nil && resp == nil {
		err = errNoAnswer
	}
	if err != nil {
		return nil, err
	}
	return &pb.LeaseKeepAliveResponse{ID: int64(id), TTL: resp.TTL}, nil
}
