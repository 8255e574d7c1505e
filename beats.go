package etcdv3

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// beatStream is what heartbeat needs of a lease keep-alive stream.
type beatStream interface {
	Send(*pb.LeaseKeepAliveRequest) error
	Recv() (*pb.LeaseKeepAliveResponse, error)
}

// openBeats opens the stream on a connected client. One without a connection
// of its own, made by clientv3.NewCtxClient, renews through its Lease.
func openBeats(ctx context.Context, cli *clientv3.Client) (beatStream, error) {
	if cli.ActiveConnection() == nil {
		return &singleBeats{ctx: ctx, lease: cli.Lease, answers: make(chan *pb.LeaseKeepAliveResponse, 1)}, nil
	}
	return clientv3.RetryLeaseClient(cli).LeaseKeepAlive(clientv3.WithRequireLeader(ctx))
}

// singleBeats renews leases one request at a time.
type singleBeats struct {
	ctx     context.Context // of the stream that it stands for
	lease   clientv3.Lease
	answers chan *pb.LeaseKeepAliveResponse
}

func (s *singleBeats) Send(req *pb.LeaseKeepAliveRequest) error {
	answer := &pb.LeaseKeepAliveResponse{ID: req.ID}
	resp, err := s.lease.KeepAliveOnce(s.ctx, clientv3.LeaseID(req.ID))
	switch {
	case err == nil:
		answer.TTL = resp.TTL
	case !errors.Is(err, rpctypes.ErrLeaseNotFound):
		return err
	}
	select {
	case s.answers <- answer:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *singleBeats) Recv() (*pb.LeaseKeepAliveResponse, error) {
	select {
	case answer := <-s.answers:
		return answer, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}
