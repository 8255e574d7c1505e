package etcdv3

import (
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

	mu     sync.Mutex // guards all below
	leases map[clientv3.LeaseID]*lease
	epoch  time.Time     // the beats of all leases are drawn to multiples of their heartbeats after it
	look   time.Time     // when there is something to do next, zero if nothing is known
	stream int           // counts the streams
	wake   chan struct{} // holds one token after leases came or changed
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
	l := newLease(id, every, ttl)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.leases) == 0 {
		h.epoch = l.answered
	}
	h.leases[id] = l
	l.next = l.after(l.answered, h.epoch, every)
	if h.look.IsZero() || l.next.Before(h.look) {
		poke(h.wake)
	}
	return l.answers
}

// alive notes that a lease was found to live, and renews it at another
// heartbeat, from now on, if that is not the one that it has.
func (h *heartbeat) alive(id clientv3.LeaseID, every time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.leases[id]
	if l == nil {
		return
	}
	l.answered = time.Now()
	l.spoke()
	if l.every != every {
		l.every, l.next = every, l.answered
		poke(h.wake)
	}
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

// drop renews a lease no longer.
func (h *heartbeat) drop(id clientv3.LeaseID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.leases, id)
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
)

// run opens the stream, again and again, while there are leases.
func (h *heartbeat) run(ctx context.Context) {
	if !h.needed(ctx) {
		return
	}
	defer start(ctx, h.listen).stop()
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
		h.look = time.Time{}
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
	for _, l := range h.leases {
		l.asked = time.Time{}
		if l.stream != 0 {
			l.patience = max(l.patience, first)
			l.resumed = true
			l.next = time.Now()
		}
	}
}

// due returns the leases whose beat is due, and how long to wait until there
// is something to do again. It is not ok if a beat was not answered in time.
func (h *heartbeat) due(now time.Time) (batch []clientv3.LeaseID, wait time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.look = time.Time{}
	for _, l := range h.leases {
		if l.overdue(now) {
			return nil, 0, false
		}
		if !now.Before(l.next) {
			if l.asked.IsZero() {
				l.asked = now
			}
			l.next, l.stream = l.after(now, h.epoch, l.every/nudged), h.stream
			batch = append(batch, l.id)
		}
		if at := l.at(); h.look.IsZero() || at.Before(h.look) {
			h.look = at
		}
	}
	if h.look.IsZero() {
		return nil, time.Hour, true
	}
	return batch, h.look.Sub(now), true
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

// answer notes what etcd said to a beat.
func (h *heartbeat) answer(resp *pb.LeaseKeepAliveResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.leases[clientv3.LeaseID(resp.ID)]
	if l == nil {
		return
	}
	if resp.TTL <= 0 {
		delete(h.leases, l.id)
	}
	l.answer(time.Now(), resp.TTL <= 0)
}

// leastTTL is the shortest that there is: etcd counts in seconds.
const leastTTL = time.Second

// listen tells the owners of leases when there was no answer for as long as
// those live.
func (h *heartbeat) listen(ctx context.Context) {
	for sleep(ctx, h.tellSilent(time.Now())) {
	}
}

// tellSilent does so now, and returns how long to wait until it may be time
// again.
func (h *heartbeat) tellSilent(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := leastTTL // a lease that comes meanwhile has no less
	for _, l := range h.leases {
		switch left := l.ttl - now.Sub(l.answered); {
		case l.silent:
		case left <= 0:
			l.silent = true
			l.tell(beat{silent: true})
		default:
			wait = min(wait, left)
		}
	}
	return wait
}
