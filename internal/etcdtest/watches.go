package etcdtest

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	// streamResponses is how many answers with events wait on a stream. A watch
	// that has more to tell falls behind, and catches up from the history.
	streamResponses = 128

	// syncPause is the time between two rounds in which watches catch up.
	syncPause = 100 * time.Millisecond

	// syncRevisions is how many revisions one answer catches up.
	syncRevisions = 1000
)

// watcher is one watch. It is guarded by the cluster's mutex.
type watcher struct {
	of        *watching
	id        int64
	key, end  []byte
	start     int64 // that was asked for
	next      int64 // the least revision that it wants to hear of
	synced    bool  // it has heard of all before the present
	compacted bool  // what it asked for is gone: it hears nothing any more
	prevKV    bool
	noPut     bool
	noDelete  bool
	progress  bool // it is told every ten minutes where it stands
}

// span is what a watch watches: one key if it has no end.
type span struct{ key, end string }

type watchSet map[span]map[*watcher]struct{}

// watchTable is all watches of a cluster by what they watch.
type watchTable struct {
	points, ranges watchSet
	unsynced       map[*watcher]struct{}
}

// syncTimer has watches catch up in rounds, as long as there are some behind.
type syncTimer struct {
	etcd  *Etcd
	table watchTable
	timer *time.Timer // nil while no round is due
	begin time.Time
}

func newSyncTimer(e *Etcd) *syncTimer {
	return &syncTimer{etcd: e, begin: time.Now(), table: watchTable{
		points: watchSet{}, ranges: watchSet{}, unsynced: map[*watcher]struct{}{},
	}}
}

func (t *syncTimer) arm() {
	if t.timer != nil || len(t.table.unsynced) == 0 || t.etcd.isClosed() {
		return
	}
	since := time.Since(t.begin)
	t.timer = time.AfterFunc(since.Truncate(syncPause)+syncPause-since, t.round)
}

func (t *syncTimer) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}

func (t *syncTimer) round() {
	t.etcd.mu.Lock()
	defer t.etcd.mu.Unlock()
	t.timer = nil
	for w := range t.table.unsynced {
		t.etcd.catchUp(w)
	}
	t.arm()
}

func (t *watchTable) add(w *watcher) {
	set, at := t.place(w)
	if set[at] == nil {
		set[at] = map[*watcher]struct{}{}
	}
	set[at][w] = struct{}{}
	if !w.synced {
		t.unsynced[w] = struct{}{}
	}
}

func (t *watchTable) remove(w *watcher) {
	delete(t.unsynced, w)
	set, at := t.place(w)
	if delete(set[at], w); len(set[at]) == 0 {
		delete(set, at)
	}
}

func (t *watchTable) place(w *watcher) (watchSet, span) {
	if len(w.end) == 0 {
		return t.points, span{key: string(w.key)}
	}
	return t.ranges, span{string(w.key), string(w.end)}
}

// each calls tell for every watch of a key.
func (t *watchTable) each(key []byte, tell func(*watcher)) {
	for w := range t.points[span{key: string(key)}] {
		tell(w)
	}
	for at, set := range t.ranges {
		if contains(key, []byte(at.key), []byte(at.end)) {
			for w := range set {
				tell(w)
			}
		}
	}
}

// commit ends a change and tells the watches.
func (e *Etcd) commit(c *change) {
	events := c.commit()
	if len(events) == 0 {
		return
	}
	heard := map[*watcher][]*mvccpb.Event{}
	for _, event := range events {
		e.sync.table.each(event.Kv.Key, func(w *watcher) { heard[w] = append(heard[w], event) })
	}
	for w, events := range heard {
		if w.synced && !w.of.lags() {
			e.tell(w, events, c.rev)
		}
	}
}

// tell sends events of the present. If the stream has no room, the watch falls behind.
func (e *Etcd) tell(w *watcher, events []*mvccpb.Event, rev int64) {
	if rev < w.next {
		return
	}
	if len(w.of.queue) >= streamResponses {
		w.synced, w.next = false, rev
		e.sync.table.unsynced[w] = struct{}{}
		e.sync.arm()
		return
	}
	w.next = rev + 1
	w.send(events, rev)
}

// send queues an answer with those of the events that the watch wants.
func (w *watcher) send(events []*mvccpb.Event, rev int64) {
	wanted := make([]*mvccpb.Event, 0, len(events))
	for _, event := range events {
		if event.Type == mvccpb.Event_PUT && w.noPut || event.Type == mvccpb.Event_DELETE && w.noDelete {
			continue
		}
		isNew := event.Kv.CreateRevision == event.Kv.ModRevision
		if h := w.of.etcd.store.byKey[string(event.Kv.Key)]; w.prevKV && !isNew && h != nil {
			event = &mvccpb.Event{Type: event.Type, Kv: event.Kv, PrevKv: h.at(event.Kv.ModRevision - 1)}
		}
		wanted = append(wanted, event)
	}
	if len(wanted) > 0 {
		w.of.post(&pb.WatchResponse{Header: w.of.header(rev), WatchId: w.id, Events: wanted})
	}
}

// catchUp sends a watch that is behind what it has missed.
func (e *Etcd) catchUp(w *watcher) {
	if w.next < e.store.compacted {
		w.compacted = true
		e.sync.table.remove(w)
		w.of.post(&pb.WatchResponse{
			Header: w.of.header(0), WatchId: w.id, Canceled: true, CompactRevision: e.store.compacted,
		})
		return
	}
	rev := w.of.rev()
	for w.next <= rev {
		if len(w.of.queue) >= streamResponses {
			return
		}
		events, next := batch(e.store.events(w.key, w.end, w.next, rev), rev)
		w.next = next
		if len(events) > 0 {
			w.send(events, rev)
		}
	}
	w.synced = true
	delete(e.sync.table.unsynced, w)
}

// batch cuts events to what one answer holds, and returns which revision is next.
func batch(events []*mvccpb.Event, rev int64) ([]*mvccpb.Event, int64) {
	revisions, last := 0, int64(0)
	for i, event := range events {
		if event.Kv.ModRevision != last {
			if revisions++; revisions > syncRevisions {
				return events[:i], event.Kv.ModRevision
			}
		}
		last = event.Kv.ModRevision
	}
	return events, rev + 1
}

// isInSync reports whether a watch has heard of everything up to a revision.
func (w *watcher) isInSync(rev int64) bool { return w.synced && !w.compacted && rev >= w.start }
