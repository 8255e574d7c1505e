package etcdv3

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// feed is one watch of a range of keys: what etcd sends, in the order of its history,
// on a gRPC stream of its own. It ends with that stream. A watch of clientv3
// goes on at the next stream without a word, which may lead to an etcd with
// another history; and it leaves the stream behind when its context ends before
// the server has answered.
type feed struct {
	changes chan change // closed when the feed has ended
	err     error       // why it did, once changes is closed
	ask     func(context.Context) error
	worker  *worker
}

// change is one response of a watch.
type change struct {
	header   *pb.ResponseHeader
	events   []*mvccpb.Event
	progress bool // it answers a progress request
}

// feedBuffer is how many responses may wait to be applied. Further ones wait at
// etcd, which sends them together.
const feedBuffer = 64

// Why a feed could not be opened, or has ended.
var (
	errNotOpened = errors.New("etcd does not answer to the watch")
	errCancelled = errors.New("the watch was cancelled by the server")
	errClosedBy  = errors.New("the watch was closed")
)

// interest is what a feed is to bring: all that happens from a revision on to
// the keys from key to end, or to the one key if there is no end.
type interest struct {
	key, end string
	from     int64
}

// openFeed watches until ctx ends. It returns when etcd has answered, within
// the timeout. On a Watcher that a client wraps, feeds of one name share a stream.
func openFeed(ctx context.Context, cli *clientv3.Client, timeout time.Duration, name string, in interest) (*feed, error) {
	f := &feed{changes: make(chan change, feedBuffer)}
	opened := make(chan struct{})
	owner := ctx
	f.worker = start(owner, func(ctx context.Context) {
		defer close(f.changes)
		if direct(cli) {
			f.err = f.receive(ctx, cli, createRequest(in), opened)
		} else {
			f.err = f.follow(ctx, owner, cli, name, in, opened, timeout)
		}
	})
	tooLate := time.NewTimer(timeout)
	defer tooLate.Stop()
	select {
	case <-opened:
		return f, nil
	case <-tooLate.C:
		f.stop()
		return nil, errNotOpened
	case <-f.worker.done:
	}
	select {
	case <-opened: // and has ended since, which changes tells
		return f, nil
	default:
		return nil, f.err
	}
}

// stop ends the feed.
func (f *feed) stop() { f.worker.stop() }

// receive is the life of a feed on a stream of its own.
func (f *feed) receive(ctx context.Context, cli *clientv3.Client, create *pb.WatchRequest, opened chan struct{}) error {
	stream, err := openWatchStream(ctx, cli)
	if err != nil {
		return err
	}
	f.ask = func(context.Context) error {
		return stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	}
	_ = stream.Send(create) // Recv tells why it failed
	for {
		resp, err := stream.Recv()
		if err != nil {
			return rpctypes.Error(err)
		}
		if err := refused(resp); err != nil {
			return err
		}
		if resp.Created {
			close(opened)
			continue
		}
		select {
		case f.changes <- change{resp.Header, resp.Events, len(resp.Events) == 0 && resp.Header.GetRevision() != 0}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openWatchStream opens a gRPC stream for watches, as clientv3 does, with the
// token that is valid now. A member without a leader ends it.
func openWatchStream(ctx context.Context, cli *clientv3.Client) (pb.Watch_WatchClient, error) {
	stream, err := pb.NewWatchClient(cli.ActiveConnection()).Watch(clientv3.WithRequireLeader(ctx), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	return stream, rpctypes.Error(err)
}

func createRequest(in interest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(in.key), RangeEnd: []byte(in.end), StartRevision: in.from},
	}}
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
	case resp.Canceled:
		return errCancelled
	}
	return nil
}

// outdated reports whether a stream has a token that is no longer valid, or
// another fault that a new one does not have.
func outdated(err error) bool { return !errors.Is(err, rpctypes.ErrPermissionDenied) }

// direct reports whether watches may have streams of their own. A client that
// wraps its Watcher, as clientv3/namespace does, or has no connection, has to
// be watched through that.
func direct(cli *clientv3.Client) bool {
	return unwrapped(cli, cli.Watcher, clientv3.NewWatcher(cli))
}

// unwrapped reports whether what a connected client uses is of the kind that
// clientv3 makes for it.
func unwrapped(cli *clientv3.Client, used, made any) bool {
	return cli.ActiveConnection() != nil && reflect.TypeOf(used) == reflect.TypeOf(made)
}

// names counts the names of this process.
var names atomic.Int64

// newName returns a name that no feed has yet.
func newName() string { return strconv.FormatInt(names.Add(1), 10) }

// follow is the life of a feed on a Watcher that is not clientv3's own. Watches
// with equal metadata share a stream there, which keeps the token that it was
// opened with. Watch blocks, and is not disturbed as long as the owner lives:
// clientv3 would leave the stream behind. One that comes after the timeout is
// ended then.
func (f *feed) follow(ctx, owner context.Context, cli *clientv3.Client, name string, in interest, opened chan struct{}, timeout time.Duration) error {
	tag := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "kitsd-watch", name)
	}
	watching, cancel := context.WithCancel(tag(context.WithoutCancel(ctx)))
	var changes clientv3.WatchChan
	opening := start(watching, func(context.Context) {
		changes = cli.Watcher.Watch(watching, in.key, clientv3.WithRange(in.end), clientv3.WithRev(in.from))
	})
	tooLate := time.NewTimer(timeout)
	defer tooLate.Stop()
	select {
	case <-opening.done:
		defer cancel()
	case <-tooLate.C:
		start(owner, func(owner context.Context) {
			select {
			case <-opening.done:
			case <-owner.Done():
			}
			cancel()
		})
		return errNotOpened
	}
	defer context.AfterFunc(ctx, cancel)()
	f.ask = func(ctx context.Context) error { return cli.Watcher.RequestProgress(tag(ctx)) }
	close(opened)
	for resp := range changes {
		switch {
		case resp.Err() != nil:
			return resp.Err()
		case resp.Canceled:
			return errCancelled
		}
		c := change{resp.Header, make([]*mvccpb.Event, len(resp.Events)), resp.IsProgressNotify()}
		for i, event := range resp.Events {
			c.events[i] = (*mvccpb.Event)(event)
		}
		select {
		case f.changes <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errClosedBy
}
