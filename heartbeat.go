package etcdv3

import (
	"container/heap"
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// heartbeat keeps every lease of a client alive, each at its own heartbeat, on
// one stream: a message a beat, and one authentication a stream.
//
// A lease whose beats are not answered is not lost yet: only etcd knows. The
// stream is then opened anew, at another member if there is one, as long as it
// takes; what the first answer says is the truth.
type heartbeat struct {
	open   func(context.Context) (beatStream, error)
	worker *worker

	mu     sync.Mutex // guards leases and queue
	leases map[clientv3.LeaseID]*lease
	queue  queue         // the same leases, the next to be looked at first
	stream int           // counts the streams
	wake   chan struct{} // holds one token after leases came or changed
}

// beat is what etcd answered to a heartbeat, if that is news to the owner of the
// lease: a thousand services that are well need not be told so every second.
type beat struct {
	lost    bool // there is no such lease
	resumed bool // beats went unanswered before, on a stream that is given up
}

// newHeartbeat returns a heartbeat without leases, which lives until ctx ends.
func newHeartbeat(ctx context.Context, cli *clientv3.Client) *heartbeat {
	h := &heartbeat{
		open:   func(ctx context.Context) (beatStream, error) { return openBeats(ctx, cli) },
		leases: map[clientv3.LeaseID]*lease{},
		wake:   make(chan struct{}, 1),
	}
	h.worker = start(ctx, h.run)
	return h
}

// keep renews a lease from now on, and returns where news of it arrives.
func (h *heartbeat) keep(id clientv3.LeaseID, every, ttl time.Duration) <-chan beat {
	l := &lease{
		id: id, every: every, ttl: ttl, next: time.Now().Add(every), answered: time.Now(),
		patience: time.Duration(float64(ttl) * patience), answers: make(chan beat, 1),
	}
	h.mu.Lock()
	h.leases[id] = l
	heap.Push(&h.queue, l)
	first := l.place == 0
	h.mu.Unlock()
	if first {
		poke(h.wake)
	}
	return l.answers
}

// change renews a lease at another heartbeat, from now on.
func (h *heartbeat) change(id clientv3.LeaseID, every time.Duration) {
	h.mu.Lock()
	if l := h.leases[id]; l != nil {
		l.every, l.next = every, time.Now()
		heap.Fix(&h.queue, l.place)
	}
	h.mu.Unlock()
	poke(h.wake)
}

// expect asks to hear of the next answer, whatever it is, and of every one
// after it until that is taken back.
func (h *heartbeat) expect(id clientv3.LeaseID, wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.leases[id]; l != nil {
		l.expected = wanted
	}
}

// silence returns how long no beat of a lease was answered.
func (h *heartbeat) silence(id clientv3.LeaseID) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.leases[id]; l != nil {
		return time.Since(l.answered)
	}
	return 0
}

// drop renews a lease no longer.
func (h *heartbeat) drop(id clientv3.LeaseID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.leases[id]; l != nil {
		heap.Remove(&h.queue, l.place)
		delete(h.leases, id)
	}
}

const (
	// A stream that has answered before may take patience of the TTL for the
	// next answer, so that there is time to move to another member before the
	// lease ends; etcd's gRPC proxy answers every third of the TTL.
	patience = 0.35

	// A new stream has this long for its first answer, and twice as long after
	// every failure, but never so long that etcd could be back for 5 s.
	firstPatience    = time.Second
	firstPatienceMax = defaultTimeout

	// slack is the part of its heartbeat that a beat may come early, to share
	// a packet with others: a thousand leases then cost tens of writes.
	slack = 20
)

// run opens the stream, again and again, while there are leases.
func (h *heartbeat) run(ctx context.Context) {
	first := firstPatience
	var retry backoff
	for h.needed(ctx) {
		if h.session(ctx, first) {
			first = firstPatience
			retry.reset()
		} else {
			first = min(2*first, firstPatienceMax)
		}
		retry.wait(ctx)
	}
}

// needed waits until there is a lease to renew, and reports false when ctx ended.
func (h *heartbeat) needed(ctx context.Context) bool {
	for {
		h.mu.Lock()
		n := len(h.leases)
		h.mu.Unlock()
		if ctx.Err() != nil || n > 0 {
			return ctx.Err() == nil
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
		}
	}
}

// session is the life of one stream. It returns when the stream ended or
// answers no more, and tells whether it ever answered.
func (h *heartbeat) session(ctx context.Context, first time.Duration) (answered bool) {
	ctx, cancel := context.WithCancel(ctx)
	tooLate := time.AfterFunc(first, cancel) // to open blocks without a bound
	defer tooLate.Stop()
	stream, err := h.open(ctx)
	if err != nil {
		cancel()
		return false
	}
	tooLate.Stop()
	receiver := start(ctx, func(context.Context) {
		for resp, err := stream.Recv(); err == nil; resp, err = stream.Recv() {
			answered = true
			tooLate.Stop()
			h.answer(resp)
		}
	})
	defer receiver.stop() // after which answered is as it stays
	defer cancel()
	h.renewAll(first)
	for asked := false; ; {
		batch, wait, ok := h.due(time.Now())
		if !ok {
			return
		}
		if len(batch) > 0 && !asked {
			asked = true
			tooLate.Reset(first)
		}
		if !send(stream, batch, cancel) || !h.pause(ctx, receiver, wait) {
			return
		}
	}
}

// renewAll makes every lease that has been on another stream due at once, and
// gives the new one the time for its first answer.
func (h *heartbeat) renewAll(first time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stream++
	for _, l := range h.queue {
		l.asked = time.Time{}
		if l.stream != 0 {
			l.patience = max(l.patience, first)
			l.resumed = true
			l.next = time.Now()
		}
	}
	heap.Init(&h.queue)
}

// due returns the leases whose beat is due, and how long to wait until there
// is something to do again. It is not ok if a beat was not answered in time.
func (h *heartbeat) due(now time.Time) (batch []clientv3.LeaseID, wait time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.queue) > 0 {
		l := h.queue[0]
		if !l.asked.IsZero() && now.Sub(l.asked) >= l.patience {
			return nil, 0, false
		}
		if l.next.Sub(now) > l.every/slack {
			return batch, l.at().Sub(now), true
		}
		if l.asked.IsZero() {
			l.asked = now
		}
		l.next, l.stream = now.Add(l.every), h.stream
		heap.Fix(&h.queue, 0)
		batch = append(batch, l.id)
	}
	return batch, time.Hour, true
}

// send sends a beat for every lease of a batch. A connection that takes no
// more bytes would block it: then the stream is given up.
func send(stream beatStream, batch []clientv3.LeaseID, giveUp context.CancelFunc) bool {
	if len(batch) == 0 {
		return true
	}
	stuck := time.AfterFunc(firstPatienceMax, giveUp)
	defer stuck.Stop()
	for _, id := range batch {
		if stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}) != nil {
			return false
		}
	}
	return true
}

// pause waits until something is due, or leases came, and reports whether the
// stream still stands.
func (h *heartbeat) pause(ctx context.Context, receiver *worker, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.wake:
	case <-receiver.done:
		return false
	case <-ctx.Done():
		return false
	}
	return true
}

// answer notes what etcd said to a beat, and passes it on if it is news.
func (h *heartbeat) answer(resp *pb.LeaseKeepAliveResponse) {
	h.mu.Lock()
	l := h.leases[clientv3.LeaseID(resp.ID)]
	if l == nil {
		h.mu.Unlock()
		return
	}
	now := beat{lost: resp.TTL <= 0, resumed: l.resumed}
	news := now.lost || now.resumed || l.expected
	l.answered = time.Now()
	l.patience = time.Duration(float64(l.ttl) * patience)
	if !l.asked.IsZero() { // a server that is slow, but answers, is given the time that it takes
		l.patience = max(l.patience, 2*time.Since(l.asked))
	}
	l.asked, l.resumed = time.Time{}, false
	heap.Fix(&h.queue, l.place)
	if now.lost {
		heap.Remove(&h.queue, l.place)
		delete(h.leases, l.id)
	}
	h.mu.Unlock()
	if !news {
		return
	}
	select { // the newest answer replaces one that was not taken yet
	case old := <-l.answers:
		now.resumed = now.resumed || old.resumed
	default:
	}
	l.answers <- now
}
