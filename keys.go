package etcdv3

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keyWatches watches the keys that a client has registered, all on one gRPC
// stream. A watch of clientv3 has goroutines, contexts and buffers of its own,
// which a thousand services would cost a thousand times.
//
// All watches end with the stream. Their owners then look at their keys at the
// next heartbeat, and watch them again.
type keyWatches struct {
	cli    *clientv3.Client
	worker *worker
	feeds  sync.WaitGroup // of a client that wraps its Watcher: each key has one
	stream atomic.Value   // the name that they share

	mu       sync.Mutex // guards all below, and the changes of each watch
	waiting  []*keyWatch
	creating *keyWatch           // that the server was asked for, nil if none is
	watches  map[int64]*keyWatch // by the id that the server gave
	over     []int64             // ids that the server is to be told to cancel
	wake     chan struct{}       // holds one token when there is something to ask for
}

// keyWatch is the watch of one key. Its owner takes what changes; of changes
// that were not taken only the newest counts.
type keyWatch struct {
	key     string
	from    int64 // the first revision that is of interest
	changes chan keyChange
	id      int64
	feed    *worker // nil on the stream that keys share
	ended   bool    // its owner has ended it
}

// keyChange is what became of a key: it was put, or deleted if kv is nil; or
// the watch has ended by itself.
type keyChange struct {
	kv       *mvccpb.KeyValue
	revision int64
	err      error
}

// newKeyWatches returns watches that can be added until ctx ends.
func newKeyWatches(ctx context.Context, cli *clientv3.Client) *keyWatches {
	k := &keyWatches{cli: cli, watches: map[int64]*keyWatch{}, wake: make(chan struct{}, 1)}
	k.stream.Store(newName())
	k.worker = start(ctx, k.run)
	return k
}

// close ends all watches, and returns when nothing of them is left.
func (k *keyWatches) close() {
	k.worker.stop()
	k.feeds.Wait()
}

// watch watches a key from a revision on, until ctx ends, or end is called.
func (k *keyWatches) watch(ctx context.Context, key string, from int64) *keyWatch {
	w := &keyWatch{key: key, from: from, changes: make(chan keyChange, 1)}
	if !direct(k.cli) {
		k.feed(ctx, w)
		return w
	}
	k.mu.Lock()
	k.waiting = append(k.waiting, w)
	k.mu.Unlock()
	poke(k.wake)
	return w
}

// feedEnds is how long end waits for a feed at most.
const feedEnds = 500 * time.Millisecond

// end ends a watch. One through the Watcher that the client wraps is then over,
// if etcd answers: that may be closed next, which is a race with what it begins.
func (k *keyWatches) end(w *keyWatch) {
	if w.feed != nil {
		w.feed.stopWithin(feedEnds)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	w.ended = true
	if k.watches[w.id] == w {
		delete(k.watches, w.id)
		k.over = append(k.over, w.id)
		poke(k.wake)
	}
}

// tell passes a change on. keyWatches.mu is held.
func (w *keyWatch) tell(c keyChange) {
	select {
	case <-w.changes:
	default:
	}
	w.changes <- c
}

// changed passes on what the last of some events made of the key. keyWatches.mu
// is held.
func (w *keyWatch) changed(events []*mvccpb.Event) {
	if len(events) == 0 {
		return
	}
	last := events[len(events)-1]
	if last.Type == mvccpb.Event_DELETE {
		w.tell(keyChange{revision: last.Kv.ModRevision})
	} else {
		w.tell(keyChange{kv: last.Kv, revision: last.Kv.ModRevision})
	}
}

// run opens the stream whenever there are keys to watch on it.
func (k *keyWatches) run(ctx context.Context) {
	for k.needed(ctx) {
		err := k.session(ctx)
		k.mu.Lock()
		for _, w := range k.watches {
			w.tell(keyChange{err: err})
		}
		for _, w := range k.waiting {
			w.tell(keyChange{err: err})
		}
		if k.creating != nil {
			k.creating.tell(keyChange{err: err})
		}
		clear(k.watches)
		k.waiting, k.creating, k.over = nil, nil, nil
		k.mu.Unlock()
	}
}

// needed waits until there is a key to watch, and reports false when ctx ended.
func (k *keyWatches) needed(ctx context.Context) bool {
	for {
		k.mu.Lock()
		n := len(k.waiting)
		k.mu.Unlock()
		if ctx.Err() != nil || n > 0 {
			return ctx.Err() == nil
		}
		select {
		case <-k.wake:
		case <-ctx.Done():
		}
	}
}

// session is the life of one stream, and returns why that ended. A server that
// does not answer for defaultTimeout is left.
func (k *keyWatches) session(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	tooLate := time.AfterFunc(defaultTimeout, cancel)
	defer tooLate.Stop()
	stream, err := openWatchStream(ctx, k.cli)
	if err != nil {
		cancel()
		return err
	}
	receiver := start(ctx, func(context.Context) { err = k.receive(stream) })
	defer receiver.stop() // after which err is as it stays
	defer cancel()
	for {
		requests, creating := k.requests()
		if !creating {
			tooLate.Stop()
		} else if len(requests) > 0 {
			tooLate.Reset(defaultTimeout)
		}
		for _, req := range requests {
			if stream.Send(req) != nil {
				return
			}
		}
		select {
		case <-k.wake:
		case <-receiver.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// requests takes what the server is to be asked for, and reports whether it is
// being asked for a watch: for one at a time, as clientv3 does, since what it
// answers does not tell which.
func (k *keyWatches) requests() (all []*pb.WatchRequest, creating bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range k.over {
		all = append(all, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	}
	k.over = nil
	for k.creating == nil && len(k.waiting) > 0 {
		next := k.waiting[0]
		k.waiting = k.waiting[1:]
		if next.ended {
			continue
		}
		k.creating = next
		all = append(all, createRequest(interest{key: next.key, from: next.from}))
	}
	return all, k.creating != nil
}

// receive passes on what the server sends, and returns why that ended.
func (k *keyWatches) receive(stream pb.Watch_WatchClient) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			return rpctypes.Error(err)
		}
		if err := k.handle(resp); err != nil {
			return err
		}
	}
}

// handle passes on one response, and returns why the stream is of no more use,
// if it is not: its token is no longer valid.
func (k *keyWatches) handle(resp *pb.WatchResponse) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := refused(resp)
	if resp.Created {
		return k.created(resp.WatchId, err)
	}
	w := k.watches[resp.WatchId]
	switch {
	case w == nil: // its owner has ended it
	case err != nil:
		delete(k.watches, resp.WatchId)
		w.tell(keyChange{err: err})
	default:
		w.changed(resp.Events)
	}
	return nil
}

// created notes the answer to the watch that was asked for. k.mu is held.
func (k *keyWatches) created(id int64, err error) error {
	w := k.creating
	k.creating = nil
	poke(k.wake)
	switch {
	case w == nil:
	case err != nil:
		w.tell(keyChange{err: err})
		if outdated(err) {
			return err
		}
	case w.ended:
		k.over = append(k.over, id)
	default:
		w.id = id
		k.watches[id] = w
	}
	return nil
}

// feed watches a key through the Watcher that the client wraps.
func (k *keyWatches) feed(ctx context.Context, w *keyWatch) {
	k.feeds.Add(1)
	w.feed = start(ctx, func(ctx context.Context) {
		defer k.feeds.Done()
		stream := k.stream.Load()
		f, err := openFeed(ctx, k.cli, defaultTimeout, stream.(string), interest{key: w.key, from: w.from})
		if err == nil {
			for c := range f.changes {
				k.mu.Lock()
				w.changed(c.events)
				k.mu.Unlock()
			}
			err = f.err
		}
		if ctx.Err() == nil && outdated(err) {
			k.stream.CompareAndSwap(stream, newName())
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		w.tell(keyChange{err: err})
	})
}
