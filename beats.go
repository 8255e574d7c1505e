package etcdv3

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// beatStream is what heartbeat needs of a lease keep-alive stream.
type beatStream interface {
	Send(*pb.LeaseKeepAliveRequest) error
	Recv() (*pb.LeaseKeepAliveResponse, error)
}

// lease is one lease that is kept alive. heartbeat.mu guards it.
type lease struct {
	id       clientv3.LeaseID
	every    time.Duration
	ttl      time.Duration
	next     time.Time     // when the next beat is to be sent
	asked    time.Time     // when the oldest unanswered beat was, zero if there is none
	patience time.Duration // how long that one may stay unanswered
	stream   int           // the stream of the last beat, 0 before the first
	resumed  bool          // that stream is not the one before, and has not answered yet
	answered time.Time     // when the last beat was
	expected bool          // its owner wants to hear of the next answer, whatever it is
	answers  chan beat     // holds the newest answer that is news
	place    int           // in the queue
}

// openBeats opens the stream on a connected client. One without a connection
// of its own, made by clientv3.NewCtxClient, renews through its Lease.
func openBeats(ctx context.Context, cli *clientv3.Client) (beatStream, error) {
	if cli.ActiveConnection() == nil {
		return &singleBeats{ctx: ctx, lease: cli.Lease, answers: make(chan *pb.LeaseKeepAliveResponse, 1)}, nil
	}
	return clientv3.RetryLeaseClient(cli).LeaseKeepAlive(clientv3.WithRequireLeader(ctx))
}

// queue is a heap of leases, by the time at which they are to be looked at.
type queue []*lease

// at is when there is something to do for a lease: a beat is due, or overdue.
func (l *lease) at() time.Time {
	if overdue := l.asked.Add(l.patience); !l.asked.IsZero() && overdue.Before(l.next) {
		return overdue
	}
	return l.next
}
func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at().Before(q[j].at()) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}
func (q *queue) Push(x any) {
	l := x.(*lease)
	l.place = len(*q)
	*q = append(*q, l)
}
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
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
