package feed

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// wrappedWire is a stream of a Watcher that is not clientv3's own, as that of
// clientv3/namespace. Watches with equal metadata share a stream there, which
// keeps its first token. So each stream has a name of its own.
type wrappedWire struct {
	stream *stream
	name   string
	ctx    context.Context // of the session
}

// names counts the names of this process.
var names atomic.Int64

func newWrappedWire(s *stream) *wrappedWire {
	return &wrappedWire{stream: s, name: strconv.FormatInt(names.Add(1), 10)}
}

func (f *wrappedWire) open(ctx context.Context) {
	f.ctx = ctx
	close(f.stream.ready)
}

// tag gives a context the name of the stream.
func (f *wrappedWire) tag(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "kitsd-watch", f.name)
}

// create has a watch followed by a goroutine of its own, which ends with the
// watch or the session.
func (f *wrappedWire) create(w *Watch, id int64) {
	h := f.stream.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left.Add(1)
	w.follower = worker.Start(f.ctx, func(ctx context.Context) {
		defer h.left.Done()
		err := f.follow(ctx, w.in, id)
		h.mu.Lock()
		defer h.mu.Unlock()
		if ctx.Err() == nil {
			f.over(w, err)
		}
	})
	if w.ended {
		w.follower.Cancel()
	}
}

// over notes that a watch has ended by itself. Hub.mu is held.
func (f *wrappedWire) over(w *Watch, err error) {
	s := f.stream
	if i := slices.Index(s.unanswered, w); i >= 0 {
		s.answered(i)
		s.watches[w.id] = w
	}
	if err := s.cancelled(w.id, err); err != nil {
		s.fail(err)
	}
}

// follow passes on what a watch brings, and returns why the watch ended.
//
// Watch blocks until the server has answered. To cancel it before would leave
// clientv3's stream behind, so it is cancelled once it has returned, or when the
// hub closes.
func (f *wrappedWire) follow(ctx context.Context, in Interest, id int64) error {
	h := f.stream.hub
	watching, cancel := context.WithCancel(f.tag(context.WithoutCancel(h.ctx)))
	defer cancel()
	var changes clientv3.WatchChan
	opening := worker.Start(watching, func(context.Context) {
		changes = h.conn.Client.Watcher.Watch(watching, in.Key, clientv3.WithRange(in.End), clientv3.WithRev(in.From))
	})
	select {
	case <-opening.Done():
	case <-h.ctx.Done():
		cancel()
		<-opening.Done()
	}
	defer context.AfterFunc(ctx, cancel)()
	if ctx.Err() == nil {
		if err := f.handle(&pb.WatchResponse{Created: true, WatchId: id}); err != nil {
			return err
		}
	}
	for resp := range changes {
		if err := resp.Err(); err != nil {
			return err
		}
		events := make([]*mvccpb.Event, len(resp.Events))
		for i, event := range resp.Events {
			events[i] = (*mvccpb.Event)(event)
		}
		if err := f.handle(&pb.WatchResponse{Header: resp.Header, WatchId: id, Events: events}); err != nil {
			return err
		}
	}
	return errClosed
}

// handle passes on one response, as a stream of gRPC brings it.
func (f *wrappedWire) handle(resp *pb.WatchResponse) error {
	err := f.stream.handle(resp)
	if err != nil {
		f.stream.fail(err)
	}
	return err
}

// cancel leaves it to End, which has ended the goroutine.
func (f *wrappedWire) cancel(int64) {}

func (f *wrappedWire) askProgress() {
	f.stream.hub.mu.Lock()
	standing := len(f.stream.watches) > 0
	f.stream.hub.mu.Unlock()
	if !standing || f.ctx.Err() != nil {
		return // clientv3 would open a stream that nothing ends
	}
	ctx, cancel := context.WithTimeout(f.tag(f.ctx), askWithin)
	defer cancel()
	_ = f.stream.hub.conn.Client.Watcher.RequestProgress(ctx)
}

// close leaves it to the goroutines, which end with the session's context.
func (f *wrappedWire) close() {}
