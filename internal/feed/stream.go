package feed

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/peer"
)

// stream is the table of the watches on one stream.
//
// All creates are sent at once. The id of a watch is the number of its create
// on the stream, from 0. etcd takes the id that is asked for; its gRPC proxy
// ignores it, and counts from 0 itself. An id of 0 has etcd choose, which
// chooses 0. A create that is refused is answered with -1, and so is the oldest
// that has no answer. The proxy does not count those, and answers them out of
// order. The stream then asks for one watch at a time, and takes the id that
// comes.
type stream struct {
	hub     *Hub
	wire    wire
	route   *etcd.Route
	opened  time.Time
	ready   chan struct{}           // closed when requests can be sent
	failed  chan error              // holds the first reason why the stream has ended
	answers chan *pb.ResponseHeader // to progress requests
	spoke   chan struct{}           // holds one token when what is owed has come
	asked   atomic.Bool             // for progress, without an answer yet

	// Hub.mu guards all below.
	peer       string           // the address of its member, "" if it is not known
	watches    map[int64]*Watch // that stand
	unanswered []*Watch         // in the order in which they were asked for
	since      time.Time        // since when the first of them is owed
	bytes      int              // of their creates
	next       int64            // id
	over       []int64          // ids that the server is to be told to cancel
	heard      time.Time        // the last response, or when the stream was opened
	moved      time.Time        // when events came last
	life       time.Time        // when a read was answered that belongs to a check
	reading    bool             // such a read is under way
	checked    time.Time        // when the last check asked for a sign of life
	newest     *pb.ResponseHeader
	quiet      bool // the owners were told of a silence
	oneByOne   bool // one watch is asked for at a time
	refusals   bool // a watch was refused
	misfit     bool // an answer did not fit
}

// newStream returns the table of a stream that is about to be opened.
func (h *Hub) newStream(route *etcd.Route) *stream {
	now := time.Now()
	s := &stream{
		hub: h, route: route, opened: now, heard: now, moved: now, watches: map[int64]*Watch{}, oneByOne: h.oneByOne,
		ready: make(chan struct{}), failed: make(chan error, 1),
		answers: make(chan *pb.ResponseHeader, 4), spoke: make(chan struct{}, 1),
	}
	if h.direct {
		s.wire = &grpcWire{stream: s}
	} else {
		s.wire = newWrappedWire(s)
	}
	h.mu.Lock()
	h.stream = s
	h.mu.Unlock()
	return s
}

// leadsBack reports whether the stream leads to the member that was left, and
// notes which one that is.
func (s *stream) leadsBack(ctx context.Context) bool {
	to, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.peer = to.Addr.String()
	return s.peer == s.hub.avoid
}

func (s *stream) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

func (s *stream) send() {
	creates, cancels := s.requests()
	for _, id := range cancels {
		s.wire.cancel(id)
	}
	if len(creates) > 0 {
		s.route.Asked()
	}
	for _, c := range creates {
		s.wire.create(c.watch, c.id)
	}
}

// creation is a watch that is to be created.
type creation struct {
	watch *Watch
	id    int64
}

// requests takes the watches that are to be created and cancelled now.
func (s *stream) requests() (creates []creation, cancels []int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	cancels, s.over = s.over, nil
	for len(h.waiting) > 0 && s.hasRoom() {
		w := h.waiting[0]
		h.waiting = h.waiting[1:]
		if w.ended {
			continue
		}
		if len(s.unanswered) == 0 {
			s.since = time.Now()
		}
		w.stream, w.id = s, s.next
		creates = append(creates, creation{w, s.next})
		s.next++
		s.bytes += w.size()
		s.unanswered = append(s.unanswered, w)
	}
	return creates, cancels
}

// size is about how many bytes a create has.
func (w *Watch) size() int { return 32 + len(w.in.Key) + len(w.in.End) }

// isIdle reports whether there is nothing to watch any more.
func (s *stream) isIdle() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	alive := func(w *Watch) bool { return !w.ended }
	return len(s.watches) == 0 && !slices.ContainsFunc(s.unanswered, alive) && !slices.ContainsFunc(s.hub.waiting, alive)
}

// All below is called with Hub.mu held.

func (s *stream) hasRoom() bool {
	return len(s.unanswered) == 0 || !s.oneByOne && s.bytes < bytesAhead
}

func (s *stream) owes() bool { return len(s.unanswered) > 0 || s.asked.Load() }

// isOpening reports whether nothing stands, and what was asked for has no answer.
func (s *stream) isOpening() bool {
	return len(s.watches) == 0 && (s.next == 0 || len(s.unanswered) > 0 && !s.heard.After(s.since))
}

// trouble returns when the trouble of a stream that breaks now began: while it
// owed an answer, with its last sign of life. An answer that was not late yet counts
// as owed since it was asked for. A member without a leader answers for progress until
// it ends the stream.
func (s *stream) trouble(now time.Time, err error) time.Time {
	since := now
	if s.owes() || s.reading || s.next == 0 {
		since = worker.Later(s.heard, s.life)
		if now.Sub(s.checked) < min(s.hub.trip*9/8, onTime) {
			since = worker.Later(since, s.checked)
		}
	}
	if bereaved := now.Add(-leaderless); etcd.KindOf(err) == etcd.Unwell && bereaved.Before(since) {
		since = worker.Later(s.opened, bereaved)
	}
	return since
}

// hear notes a response of any kind.
func (s *stream) hear(header *pb.ResponseHeader) error {
	now := time.Now()
	if s.quiet {
		worker.Poke(s.spoke)
	}
	s.route.Heard(s.owes())
	s.heard = now
	if header.GetClusterId() != 0 || s.newest == nil {
		s.newest = header
	}
	if s.hub.known.note(header) {
		return ErrAnotherHistory
	}
	return nil
}

// answeredAll tells the route that nothing is owed any more, if so.
func (s *stream) answeredAll() {
	if !s.owes() {
		s.route.Heard(false)
	}
	worker.Poke(s.spoke)
}

// drop forgets a watch that its owner has ended.
func (s *stream) drop(w *Watch) {
	if s.watches[w.id] == w {
		delete(s.watches, w.id)
		s.over = append(s.over, w.id)
	}
}

// readable returns the key of a watch that stands, or else the first there can be.
// It reports whether the user may read that, as far as is known.
func (s *stream) readable() (key string, may bool) {
	key = "\x00"
	for _, w := range s.watches {
		if key = w.in.Key; !w.unreadable {
			return key, true
		}
	}
	return key, false
}

// isAhead reports whether a watch begins after what the member's store is known
// to hold. Such a watch keeps the member from answering progress requests.
func (s *stream) isAhead() bool {
	if s.newest.GetClusterId() == 0 {
		return false
	}
	for _, w := range s.watches {
		if w.in.From > s.newest.Revision {
			return true
		}
	}
	return false
}
