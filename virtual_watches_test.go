package etcdv3

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// virtualWatch is one watch, on a stream that it shares with those that have
// the same metadata.
type virtualWatch struct {
	key, end []byte
	stream   string
	start    int64                    // the revision that it began with
	next     int64                    // the first one that is to come
	said     []clientv3.WatchResponse // beside events
	news     chan struct{}            // holds one token when there is something to say
}

// streamOf is what clientv3 tells the streams of watches apart by.
func streamOf(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	return fmt.Sprint(md)
}

// Watch implements clientv3.Watcher. It waits until etcd can be reached.
func (e *virtualEtcd) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, opts...)
	w := &virtualWatch{key: op.KeyBytes(), end: op.RangeBytes(), stream: streamOf(ctx), start: op.Rev(), next: op.Rev(), news: make(chan struct{}, 1)}
	out := make(chan clientv3.WatchResponse, 1)
	for e.meet(ctx, "watch") != nil {
		if !sleep(ctx, 100*time.Millisecond) {
			close(out)
			return out
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.next == 0 {
		w.next = e.header.Revision + 1
	}
	e.opened++
	e.watches[w] = struct{}{}
	w.news <- struct{}{}
	go e.serve(ctx, w, out)
	return out
}

// serve sends what there is to say, until the watch is over.
func (e *virtualEtcd) serve(ctx context.Context, w *virtualWatch, out chan<- clientv3.WatchResponse) {
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watches, w)
		close(out)
	}()
	for {
		select {
		case <-w.news:
		case <-ctx.Done():
			return
		}
		for _, resp := range e.say(w) {
			select {
			case out <- resp:
			case <-ctx.Done():
				return
			}
			if resp.Err() != nil {
				return
			}
		}
	}
}

// say takes what is to be said to a watch now: a response for each revision.
func (e *virtualEtcd) say(w *virtualWatch) (all []clientv3.WatchResponse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.away {
		return nil
	}
	if w.next <= e.compacted {
		return []clientv3.WatchResponse{{Header: e.now(), Canceled: true, CompactRevision: e.compacted}}
	}
	for _, event := range e.past {
		if event.Kv.ModRevision < w.next || !matches(event.Kv.Key, w.key, w.end) {
			continue
		}
		if n := len(all); n > 0 && all[n-1].Events[0].Kv.ModRevision == event.Kv.ModRevision {
			all[n-1].Events = append(all[n-1].Events, event)
			continue
		}
		all = append(all, clientv3.WatchResponse{Header: e.now(), Events: []*clientv3.Event{event}})
	}
	if len(all) > 0 {
		w.next = e.header.Revision + 1
	}
	all, w.said = append(all, w.said...), nil
	return all
}

// wakeWatches makes every watch look whether there is something for it.
func (e *virtualEtcd) wakeWatches() {
	for w := range e.watches {
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

// cancelWatches ends all watches for a reason, as etcd does.
func (e *virtualEtcd) cancelWatches(reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watches {
		w.said = append(w.said, clientv3.WatchResponse{Header: e.now(), Canceled: true, CancelReason: reason})
	}
	e.wakeWatches()
}

// compact forgets the past up to now.
func (e *virtualEtcd) compact() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.compacted = e.header.Revision
}

// RequestProgress implements clientv3.Watcher. As in etcd, watches that are
// ahead of the store keep their stream from an answer.
func (e *virtualEtcd) RequestProgress(ctx context.Context) error {
	if err := e.meet(ctx, "progress"); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	stream := streamOf(ctx)
	for w := range e.watches {
		if w.stream == stream && (e.mute || w.start > e.header.Revision) {
			return nil
		}
	}
	for w := range e.watches {
		if w.stream == stream {
			w.said = append(w.said, clientv3.WatchResponse{Header: e.now()})
		}
	}
	e.wakeWatches()
	return nil
}

// Close implements clientv3.Watcher.
func (e *virtualEtcd) Close() error { return nil }
