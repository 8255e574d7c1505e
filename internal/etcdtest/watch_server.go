package etcdtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// What etcd's store says of a watch that it refuses.
const (
	emptyRange  = "mvcc: watcher range is empty"
	duplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// reportPause is the time between two progress notifications that were asked for.
const reportPause = 10 * time.Minute

type watchServer struct {
	pb.UnimplementedWatchServer
	*Member
}

// watching is a watch stream. All but stream and wake is guarded by the
// cluster's mutex.
type watching struct {
	*Member
	stream   pb.Watch_WatchServer
	wake     chan struct{}
	watchers map[int64]*watcher
	nextID   int64
	queue    []*pb.WatchResponse
	proxy    bool
	report   *time.Timer // nil if no watch asked for it
	ended    bool
}

func (s watchServer) Watch(stream pb.Watch_WatchServer) error {
	w := &watching{
		Member: s.Member, stream: stream, wake: make(chan struct{}, 1),
		watchers: map[int64]*watcher{}, proxy: s.etcd.now().Proxy,
	}
	s.etcd.mu.Lock()
	s.streams[w] = true
	s.etcd.mu.Unlock()
	defer w.close()
	received := make(chan error, 1)
	s.etcd.background(func() {
		if err := w.receive(); !errors.Is(err, io.EOF) {
			received <- err
		}
	})
	return w.sendUntil(received)
}

func (w *watching) sendUntil(received <-chan error) error {
	for {
		select {
		case <-w.wake:
			for _, resp := range w.take() {
				if err := w.stream.Send(resp); err != nil {
					return err
				}
			}
		case err := <-received:
			return canceled(err)
		case <-w.stream.Context().Done():
			return canceled(w.stream.Context().Err())
		case <-w.etcd.closed:
			return rpctypes.ErrGRPCStopped
		}
	}
}

func canceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

func (w *watching) take() []*pb.WatchResponse {
	w.etcd.mu.Lock()
	defer w.etcd.mu.Unlock()
	queue := w.queue
	w.queue = nil
	return queue
}

func (w *watching) post(resp *pb.WatchResponse) {
	w.queue = append(w.queue, resp)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watching) close() {
	w.etcd.mu.Lock()
	defer w.etcd.mu.Unlock()
	w.ended = true
	delete(w.streams, w)
	for _, one := range w.watchers {
		if !one.compacted {
			w.etcd.sync.table.remove(one)
		}
	}
	if w.report != nil {
		w.report.Stop()
	}
}

func (w *watching) receive() error {
	for {
		r, err := w.stream.Recv()
		if err != nil {
			return err
		}
		switch u := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			err = w.create(u.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			if err = w.arrive(w.stream.Context(), "WatchCancel", u.CancelRequest); err == nil {
				w.cancel(u.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			if err = w.arrive(w.stream.Context(), "WatchProgress", u.ProgressRequest); err == nil {
				w.tellProgress()
			}
		}
		if err != nil {
			return err
		}
	}
}

// create begins a watch, or answers why not. It returns an error if the stream ends.
func (w *watching) create(r *pb.WatchCreateRequest) error {
	reason := ""
	if err := w.arrive(w.stream.Context(), "WatchCreate", r); err != nil {
		if w.stream.Context().Err() != nil {
			return err
		}
		reason = err.Error() // the hook refuses it
	}
	if len(r.Key) == 0 {
		r.Key = []byte{0}
	}
	by, err := w.callerOf(w.stream.Context())
	w.etcd.mu.Lock()
	defer w.etcd.mu.Unlock()
	if err == nil {
		err = w.etcd.auth.mayRead(by, r.Key, r.RangeEnd)
	}
	switch {
	case w.ended:
	case reason != "":
		w.refuse(reason)
	case r.StartRevision < 0:
		w.refuse(rpctypes.ErrCompacted.Error())
	case err != nil:
		w.refuse(w.spoken(err))
	default:
		w.begin(r)
	}
	return nil
}

// spoken is how a refusal reads: a proxy has it from a client.
func (w *watching) spoken(err error) string {
	if w.proxy {
		return status.Convert(err).Message()
	}
	return err.Error()
}

func (w *watching) refuse(reason string) {
	resp := &pb.WatchResponse{
		Header: w.header(w.rev()), WatchId: clientv3.InvalidWatchID, Created: true, Canceled: true, CancelReason: reason,
	}
	if w.proxy {
		resp.Header = &pb.ResponseHeader{}
	}
	w.post(resp)
}

func (w *watching) begin(r *pb.WatchCreateRequest) {
	id, refused := w.number(r)
	if refused != "" {
		w.refuse(refused)
		return
	}
	one := &watcher{
		of: w, id: id, key: r.Key, end: r.RangeEnd, start: r.StartRevision, next: r.StartRevision,
		prevKV: r.PrevKv, progress: r.ProgressNotify,
		noPut:    slices.Contains(r.Filters, pb.WatchCreateRequest_NOPUT),
		noDelete: slices.Contains(r.Filters, pb.WatchCreateRequest_NODELETE),
	}
	if one.start == 0 || one.start > w.rev() {
		one.synced, one.next = true, max(one.start, w.rev()+1)
	}
	w.watchers[id] = one
	w.etcd.sync.table.add(one)
	w.etcd.sync.arm()
	created := &pb.WatchResponse{Header: w.header(w.rev()), WatchId: id, Created: true}
	if w.proxy {
		created.Header = &pb.ResponseHeader{Revision: one.start}
	}
	w.post(created)
	w.reportLater(one)
}

// number returns the id of a new watch, or why there is none.
func (w *watching) number(r *pb.WatchCreateRequest) (id int64, refused string) {
	if len(r.RangeEnd) > 0 && !isOpen(r.RangeEnd) && bytes.Compare(r.Key, r.RangeEnd) >= 0 {
		return 0, emptyRange
	}
	id = r.WatchId
	if id != clientv3.AutoWatchID && !w.proxy {
		if w.watchers[id] != nil {
			return 0, duplicateID
		}
		return id, ""
	}
	for w.watchers[w.nextID] != nil {
		w.nextID++
	}
	w.nextID++
	return w.nextID - 1, ""
}

func (w *watching) cancel(id int64) {
	w.etcd.mu.Lock()
	defer w.etcd.mu.Unlock()
	one := w.watchers[id]
	if one == nil || w.ended {
		return
	}
	if !one.compacted {
		w.etcd.sync.table.remove(one)
	}
	delete(w.watchers, id)
	w.post(&pb.WatchResponse{Header: w.header(w.rev()), WatchId: id, Canceled: true})
}

// tellProgress answers for all watches of the stream at once, if all are in
// sync, and a watch from a future revision is not.
func (w *watching) tellProgress() {
	w.etcd.mu.Lock()
	defer w.etcd.mu.Unlock()
	if w.proxy || len(w.watchers) == 0 || len(w.queue) >= streamResponses {
		return
	}
	for _, one := range w.watchers {
		if !one.isInSync(w.rev()) {
			return
		}
	}
	w.post(&pb.WatchResponse{Header: w.header(w.rev()), WatchId: clientv3.InvalidWatchID})
}

// reportLater has a watch that asked for it told where it stands.
func (w *watching) reportLater(one *watcher) {
	if one.progress && w.report == nil {
		w.report = time.AfterFunc(reportPause, w.reportAll)
	}
}

func (w *watching) reportAll() {
	w.etcd.mu.Lock()
	defer w.etcd.mu.Unlock()
	if w.ended || w.etcd.isClosed() {
		return
	}
	for id, one := range w.watchers {
		if one.progress && one.isInSync(w.rev()) {
			w.post(&pb.WatchResponse{Header: w.header(w.rev()), WatchId: id})
		}
	}
	w.report.Reset(reportPause)
}
