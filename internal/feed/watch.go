package feed

import (
	"context"
	"slices"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Watch is one watch. Its owner takes what is new whenever News says so, until
// the watch has ended.
type Watch struct {
	in   Interest
	hub  *Hub
	news chan struct{} // holds one token when there is something to take

	// Hub.mu guards all below.
	batch    Batch
	stream   *stream        // nil before it was asked for
	id       int64          // on the stream
	limit    int            // pending events beyond which they are conflated
	follower *worker.Worker // nil on a stream of gRPC
	release  func() bool    // from the owner's context
	ended    bool           // by its owner

	unreadable bool // the last read of its key was refused
}

// Batch is what is new on a watch.
type Batch struct {
	// Stands is true once the watch was created.
	Stands bool

	// Header is that of the newest response on the stream, nil if there is none.
	Header *pb.ResponseHeader

	// Events were not taken before, and are in order. When many wait, there is
	// one for each key: the last.
	Events []*mvccpb.Event

	// Silent is true while etcd gives no sign of life although it was asked for
	// one, since Since. Why is the reason, nil if it is not known.
	Silent bool
	Why    error

	// Err is not nil when the watch has ended by itself. The trouble began at
	// Since, when etcd owed an answer, or else when the stream broke. Resumable
	// says that the history goes on, so that nothing is missed by who watches
	// again from the last event. A loss of the last connection can become known
	// a moment later: see etcd.Conn.Lost.
	Err       error
	Resumable bool

	Since time.Time
}

// Watch begins a watch, and returns at once. The watch ends with ctx, or by End.
func (h *Hub) Watch(ctx context.Context, in Interest) *Watch {
	w := &Watch{in: in, hub: h, news: make(chan struct{}, 1), limit: mostPending}
	h.mu.Lock()
	if w.in.History == 0 {
		w.in.History = h.known.number
	}
	if w.in.History == h.known.number {
		h.known.reach(in.From)
		h.waiting = append(h.waiting, w)
		if ctx.Done() != nil {
			w.release = context.AfterFunc(ctx, w.End)
		}
	} else {
		w.finish(ErrAnotherHistory, false, time.Now())
	}
	h.mu.Unlock()
	worker.Poke(h.wake)
	return w
}

// News holds a token when there is something to take.
func (w *Watch) News() <-chan struct{} { return w.news }

// Take returns what is new, and how the watch is.
func (w *Watch) Take() Batch {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	b := w.batch
	w.batch.Events = nil
	if w.stream != nil {
		b.Header = w.stream.newest
	}
	return b
}

// End ends the watch. It may be called often. On a Watcher that the client wraps
// it waits a little, since that may be closed next while the watch begins.
func (w *Watch) End() {
	h := w.hub
	h.mu.Lock()
	if !w.ended {
		w.ended = true
		w.batch.Events = nil
		if w.stream != nil {
			w.stream.drop(w)
		}
		if w.release != nil {
			w.release()
		}
	}
	follower := w.follower
	h.mu.Unlock()
	worker.Poke(h.wake)
	if follower != nil {
		follower.StopWithin(endWithin)
	}
}

// All below is called with Hub.mu held.

// isOver reports whether nothing is to be told any more.
func (w *Watch) isOver() bool { return w.ended || w.batch.Err != nil }

// stand notes that the watch was created.
func (w *Watch) stand() {
	w.batch.Stands = true
	worker.Poke(w.news)
}

// bring adds events that are newer than what its owner knows.
func (w *Watch) bring(events []*mvccpb.Event) {
	for len(events) > 0 && events[0].Kv.ModRevision <= w.in.From {
		events = events[1:]
	}
	if len(events) == 0 || w.isOver() {
		return
	}
	if len(w.batch.Events) == 0 {
		w.batch.Events = events
	} else {
		w.batch.Events = append(w.batch.Events, events...)
	}
	if len(w.batch.Events) > w.limit {
		w.batch.Events = conflate(w.batch.Events)
		w.limit = max(mostPending, 2*len(w.batch.Events))
	}
	worker.Poke(w.news)
}

// conflate keeps the last event of each key, in order, in a slice of its own.
func conflate(events []*mvccpb.Event) (last []*mvccpb.Event) {
	seen := make(map[string]struct{}, len(events)/2)
	for _, event := range slices.Backward(events) {
		if _, newer := seen[string(event.Kv.Key)]; !newer {
			seen[string(event.Kv.Key)] = struct{}{}
			last = append(last, event)
		}
	}
	slices.Reverse(last)
	return last
}

// silent says whether there is a sign of life.
func (w *Watch) silent(is bool, since time.Time, why error) {
	if !w.isOver() {
		w.batch.Silent, w.batch.Since, w.batch.Why = is, since, why
		worker.Poke(w.news)
	}
}

// finish says that the watch has ended by itself.
func (w *Watch) finish(err error, resumable bool, since time.Time) {
	if w.isOver() {
		return
	}
	if w.batch.Silent {
		since = w.batch.Since
	}
	w.batch.Silent, w.batch.Why = false, nil
	w.batch.Err, w.batch.Resumable, w.batch.Since = err, resumable, since
	if w.release != nil {
		w.release()
	}
	worker.Poke(w.news)
}
