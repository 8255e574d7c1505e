// Package feed is what etcd says of ranges of keys: watches that share one
// stream, with one sign of life for all of them.
package feed

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// checkInterval is how long a stream may bring nothing until it is asked for
	// a sign of life: a message on the stream, and with several members one read
	// of one key. Ten thousand clients ask a thousand times a second. With 10 s a
	// silence of 4.5 s would be told if it began just after such a sign.
	checkInterval = 8 * time.Second

	// firstCheck is when a new stream is asked, to learn whether it answers such
	// questions at all, and how an opening is doing.
	firstCheck = time.Second

	// silentAfter is how long etcd may give no sign of life until the owners of
	// watches hear of it. Subscribers are promised to hear within 15 s, and a
	// silence of 4.5 s that begins at a bad moment is not told.
	silentAfter = 13500 * time.Millisecond

	// patienceLeast is how long a stream may at least owe an answer, or bring old
	// ones, while etcd answers reads. Answers after 2.9 s are on time. What it
	// costs when it is too short is that all watches are opened anew.
	patienceLeast = 3500 * time.Millisecond

	// onTime is how long an answer may be on its way when a connection breaks. One
	// that is silent is broken by the kernel 3 s after something was sent on it. An
	// answer that took longer has ended a silence, and tells of no round trip.
	onTime = 2900 * time.Millisecond

	// tripForgets is the part of the slowest round trip that is not waited for any
	// more with each answer. Two answers after a silence its member is left in time.
	tripForgets = 4

	// patienceTimes is how many round trips it may take, if these are long.
	patienceTimes = 3

	// askEvery is how often a store that is behind is asked where it is.
	askEvery = time.Second

	// lookEvery is how often a check looks at the time while it is under way.
	lookEvery = 250 * time.Millisecond

	// If deafAfter streams in a row leave a progress request unanswered while
	// etcd answers reads, the server knows no such request. etcd's gRPC proxy
	// is one.
	deafAfter = 2

	// readAgain is when a read is sent to the next member, too, if members are
	// not compared. Two reads cannot both meet the one member that is silent.
	readAgain = 1500 * time.Millisecond
	readsMost = 2

	// refusedMost is how many reads a check may send after one that was refused: a
	// role that was revoked for one range says nothing of the others.
	refusedMost = 10

	// leaderless is how long ago a member has lost its leader when it ends the streams
	// that require one: it notices after one or two election timeouts, and looks three
	// times after that. An election timeout is a second by default.
	leaderless = 4 * time.Second

	// settled is how long a stream has to live for the wait before the next one
	// to be short again.
	settled = 5 * time.Second

	// bytesAhead is how much may be asked for without an answer. gRPC lets 64 kB
	// wait at a member that reads nothing, and then blocks.
	bytesAhead = 32 << 10

	// lingers is how long a stream stays that has nothing to watch: who ends one
	// watch often begins another.
	lingers = time.Second

	// mostPending is how many events of a watch may wait for its owner until of
	// those of one key only the last is kept.
	mostPending = 1000

	// askWithin bounds a progress request through a Watcher that a client wraps:
	// it blocks while clientv3 reconnects.
	askWithin = 250 * time.Millisecond

	// endWithin is how long End waits for a watch that begins on such a Watcher.
	endWithin = 500 * time.Millisecond
)

// Interest is a range of keys, and since when changes of it are wanted.
type Interest struct {
	Key, End string // from Key to before End; the one key if End is ""
	From     int64  // changes after this revision; those from now on if it is 0
	History  int    // which From belongs to, as Listed tells; 0 for the present one
}

// Hub has the watches of one client. They share one stream, which is there
// while there is anything to watch. It is safe for concurrent use.
type Hub struct {
	conn   *etcd.Conn
	direct bool            // streams are gRPC's, not those of a Watcher that is wrapped
	ctx    context.Context // from New to Close
	cancel context.CancelFunc
	worker *worker.Worker
	wake   chan struct{}  // holds one token when there is something to ask for
	left   sync.WaitGroup // of watches through a wrapped Watcher

	mu      sync.Mutex // guards all below, the tables of the stream, and each watch
	waiting []*Watch   // not asked for yet
	stream  *stream    // nil while there is none
	known   History    // of etcd
	avoid   string     // the address of the member that was left last, "" if none is

	// All below belongs to the goroutine of run.
	deaf     int           // streams in a row that answered no progress request
	unopened int           // streams in a row that answered nothing
	oneByOne bool          // the next stream asks for one watch at a time
	still    int64         // the revision at which a member's store stood still, 0 if none does
	trip     time.Duration // to the server and back, lately
}

// New returns a Hub for a connection that is open.
func New(conn *etcd.Conn) *Hub {
	h := &Hub{conn: conn, wake: make(chan struct{}, 1), known: History{number: 1}}
	cli := conn.Client
	h.direct = etcd.Unwrapped(cli, cli.Watcher, clientv3.NewWatcher(cli))
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.worker = worker.Start(h.ctx, h.run)
	return h
}

// Close ends all watches, and returns when nothing of them is left.
func (h *Hub) Close() {
	h.cancel()
	<-h.worker.Done()
	h.left.Wait()
}

// History returns what is known of etcd's history, for Listed.
func (h *Hub) History() History {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known
}

// Listed notes the header of a list, and what was known before that was asked
// for. It returns which history the list belongs to. Watches of an earlier one
// end.
func (h *Hub) Listed(before History, header *pb.ResponseHeader) (history int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known.noteRead(before, header) && h.stream != nil {
		h.stream.fail(ErrAnotherHistory)
	}
	return h.known.number
}

// run is the life of the stream: it is opened when there is something to watch,
// and again after it ended.
func (h *Hub) run(ctx context.Context) {
	var retry worker.Backoff
	for h.needed(ctx) {
		began, lost := time.Now(), h.conn.Lost()
		err := h.session(ctx, lost)
		h.ended(err, worker.IsClosed(lost))
		if err == nil {
			continue
		}
		if time.Since(began) > settled {
			retry.Reset()
		}
		h.conn.Wait(ctx, err, &retry)
	}
	h.ended(ctx.Err(), false)
}

// needed waits until there is something to watch, and reports false when ctx ended.
func (h *Hub) needed(ctx context.Context) bool {
	for ctx.Err() == nil {
		if h.wanted() {
			return true
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
		}
	}
	return false
}

func (h *Hub) wanted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.waiting, func(w *Watch) bool { return !w.ended })
}

// session is the life of one stream. It returns why the stream ended, nil if
// there is nothing to watch any more.
func (h *Hub) session(ctx context.Context, lost <-chan struct{}) (err error) {
	ctx, route := h.conn.Route(clientv3.WithRequireLeader(ctx))
	s := h.newStream(route)
	s.wire.open(ctx)
	check := newCheck(s)
	defer func() {
		route.End()
		check.endReads()
		s.wire.close()
	}()
	if h.direct {
		lost = nil // the stream breaks then
	}
	ready := s.ready
	idle := time.NewTimer(lingers)
	defer idle.Stop()
	for busy := true; err == nil; {
		if s.isIdle() == busy { // which has changed
			busy = !busy
			idle.Reset(lingers)
		}
		select {
		case <-idle.C:
			if !busy {
				return nil
			}
		case <-ready:
			ready = nil
		case <-h.wake:
		case <-s.spoke:
		case <-check.timer.C:
		case header := <-s.answers:
			check.answered(header)
		case read := <-check.done:
			err = check.readDone(ctx, read)
		case <-lost:
			err = etcd.ErrConnectionLost
		case err = <-s.failed:
		case <-ctx.Done():
			err = cause(ctx, ctx.Err())
		}
		if ready == nil && err == nil {
			s.send()
		}
		if err == nil {
			err = check.look(ctx, time.Now())
		}
	}
	return err
}

// ended tells all watches that the stream has ended, and forgets them: their
// owners watch again. History is in doubt if the last connection was lost.
func (h *Hub) ended(err error, lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, all := h.stream, h.all()
	h.stream = nil
	if err == nil {
		return
	}
	h.waiting = nil
	since := time.Now()
	if s != nil {
		h.oneByOne = s.misfit || s.oneByOne && s.refusals
		since = s.trouble(since, err)
		if isLeaving(err) {
			h.avoid = s.peer
		}
	}
	resumable, another := !lost && goesOn(err), errors.Is(err, ErrAnotherHistory)
	for _, w := range all {
		w.finish(err, resumable || another && w.in.History == h.known.number, since)
	}
}

// all returns the watches that there are. h.mu is held.
func (h *Hub) all() []*Watch {
	all := slices.Clone(h.waiting)
	if s := h.stream; s != nil {
		all = slices.AppendSeq(append(all, s.unanswered...), maps.Values(s.watches))
	}
	return all
}
