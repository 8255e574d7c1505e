package feed

import (
	"context"
	"errors"
	"math"
	"strings"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wire is how a stream reaches etcd. Its methods are called by the goroutine of
// Hub.run. It passes on what etcd says, and at its end why it ended.
type wire interface {
	open(context.Context)
	create(w *Watch, id int64)
	cancel(id int64)
	askProgress()
	close()
}

// grpcWire is a stream of gRPC. A member without a leader ends it.
type grpcWire struct {
	stream   *stream
	grpc     pb.Watch_WatchClient // once stream.ready is closed
	end      context.CancelFunc   // of grpc
	receiver *worker.Worker
}

func (g *grpcWire) open(ctx context.Context) {
	g.receiver = worker.Start(ctx, func(ctx context.Context) {
		g.stream.fail(cause(ctx, g.receive(ctx)))
	})
}

// connect opens a stream. On a client of ours the stream leads to a member that is
// not silent. On another it leads to the next member, which is not to be the one
// that was just left.
func (g *grpcWire) connect(ctx context.Context) (err error) {
	conn := g.stream.hub.conn
	client := pb.NewWatchClient(conn.Client.ActiveConnection())
	more := conn.Members() - 1
	if conn.Compares() {
		more = 0
	}
	for ; ; more-- {
		var trial context.Context
		trial, g.end = context.WithCancel(ctx)
		g.grpc, err = client.Watch(trial, grpc.MaxCallRecvMsgSize(math.MaxInt32))
		if err != nil || more == 0 || !g.stream.leadsBack(g.grpc.Context()) {
			return err
		}
		g.end()
	}
}

// receive takes what etcd sends, as soon as it comes.
func (g *grpcWire) receive(ctx context.Context) error {
	err := g.connect(ctx)
	defer g.end()
	if err != nil {
		return err
	}
	close(g.stream.ready)
	for {
		resp, err := g.grpc.Recv()
		if err != nil {
			return err
		}
		if err := g.stream.handle(resp); err != nil {
			return err
		}
	}
}

func (g *grpcWire) create(w *Watch, id int64) {
	g.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(w.in.Key), RangeEnd: []byte(w.in.End), StartRevision: w.in.From, WatchId: id,
	}}})
}

func (g *grpcWire) cancel(id int64) {
	g.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (g *grpcWire) askProgress() {
	g.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// send sends a request. If that fails, the receiver hears why.
func (g *grpcWire) send(req *pb.WatchRequest) { _ = g.grpc.Send(req) }

func (g *grpcWire) close() { g.receiver.Stop() }

// cause returns why a stream has ended: its member was left, or else err.
func cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), etcd.ErrSilent) {
		return etcd.ErrSilent
	}
	return rpctypes.Error(err)
}

// refused returns why the server has ended a watch, nil if it has not.
func refused(resp *pb.WatchResponse) error {
	switch {
	case resp.CompactRevision != 0:
		return rpctypes.ErrCompacted
	case resp.Canceled && resp.CancelReason != "":
		reason := resp.CancelReason
		if _, desc, ok := strings.Cut(reason, " desc = "); ok { // as grpc writes an error, which rpctypes does not know
			reason = desc
		}
		return rpctypes.Error(status.Error(codes.FailedPrecondition, reason))
	case resp.Canceled, resp.Created && resp.WatchId == clientv3.InvalidWatchID:
		return errCancelled
	}
	return nil
}
