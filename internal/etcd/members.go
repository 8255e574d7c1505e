package etcd

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
)

const (
	// suspectAfter is how long a member may leave a request unanswered, if it took
	// no longer lately, until it is compared with others. Answers of a healthy
	// cluster take some milliseconds. A comparison costs two to four reads of one
	// key.
	suspectAfter = 500 * time.Millisecond

	// A member is silent if it leaves a read unanswered while another one answers,
	// and for compareLeast after that. If that answer takes longer than those of the
	// member took lately, etcd may have become slow. Then others have to answer
	// compareTimes, one after the other: where each answer takes between 0.1 s and
	// 2.9 s, one comparison in a hundred errs.
	compareTimes = 3
	compareLeast = 500 * time.Millisecond

	// A member may take tookTimes as long as it took lately. tookMost bounds
	// that, so that a member that falls silent while it is slow is found in time.
	tookTimes = 3
	tookMost  = 4 * time.Second

	// tookForgets is the part of its slowest answer that a member is not held to
	// any more with each answer.
	tookForgets = 16

	// A member that is only slow is compared again after a wait that doubles
	// between these, and one that was left and says that it cannot serve is asked
	// again after such a wait. Ten thousand clients of a slow etcd then ask it for
	// some hundred reads a second.
	compareFirst = time.Second
	compareMax   = time.Minute

	// lookEvery is how often requests under way are looked at, while there are any.
	lookEvery = 250 * time.Millisecond

	// If enoughBytes arrive on a member's link during a comparison, a long answer is
	// under way there: a list, or what a watch has missed. A thin link brings as
	// much in that time; pings and heartbeats do not.
	enoughBytes = 4 << 10
)

// members tells a member that is silent from an etcd that is slow: the answers
// of the one are missing while those of another come. A silent member is left by
// all requests and streams at once. Without that evidence all are waited for.
type members struct {
	conn  *Conn
	wake  chan struct{} // holds one token when a route begins to wait
	retry worker.Backoff

	mu      sync.Mutex // guards all below
	byName  map[string]*member
	next    time.Time      // when to compare again at the earliest
	waiting int            // routes that wait for an answer
	probes  sync.WaitGroup // of members that were left
}

// member is one endpoint that requests were sent to. members.mu guards it, but
// for bytes.
type member struct {
	name   string
	heard  time.Time     // when it last answered
	took   time.Duration // its slowest answer lately
	silent bool          // it was left
	routes map[*Route]struct{}
	bytes  atomic.Int64 // that arrived from it
}

func newMembers(c *Conn) *members {
	return &members{
		conn: c, wake: make(chan struct{}, 1), byName: map[string]*member{},
		retry: worker.Backoff{First: compareFirst, Max: compareMax},
	}
}

// member returns the member of a name. m.mu is held.
func (m *members) member(name string) *member {
	one := m.byName[name]
	if one == nil {
		one = &member{name: name, routes: map[*Route]struct{}{}}
		m.byName[name] = one
	}
	return one
}

// answered notes how long the member took for an answer. members.mu is held.
func (one *member) answered(took time.Duration, now time.Time) {
	one.took, one.heard = max(took, one.took-one.took/tookForgets), now
}

// run compares members for as long as ctx lives.
func (m *members) run(ctx context.Context) {
	for ctx.Err() == nil {
		if one := m.suspect(time.Now()); one != nil {
			m.compare(ctx, one)
			continue
		}
		if m.idle() {
			select {
			case <-m.wake:
			case <-ctx.Done():
			}
		}
		worker.Sleep(ctx, lookEvery)
	}
	m.probes.Wait()
}

func (m *members) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting == 0
}

// suspect returns the member that has left something unanswered for the longest
// time, nil if none has for long.
func (m *members) suspect(now time.Time) (worst *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.next) {
		return nil
	}
	longest := suspectAfter
	for _, one := range m.byName {
		if owes := one.owes(now); owes >= max(longest, one.usual()) && !one.silent {
			worst, longest = one, owes
		}
	}
	return worst
}

// owes returns for how long a member has answered nothing although it should.
// members.mu is held.
func (one *member) owes(now time.Time) (longest time.Duration) {
	for r := range one.routes {
		if !r.asked.IsZero() {
			longest = max(longest, now.Sub(r.asked))
		}
	}
	return min(longest, now.Sub(one.heard))
}

// compare sends a cheap read to a member, and a few to others meanwhile. If the
// others answer and the member does not, the member is left. While nobody answers,
// compare waits for all: etcd is slow then, or away.
func (m *members) compare(ctx context.Context, one *member) {
	began, before := time.Now(), one.bytes.Load()
	mine, other := m.probe(ctx, one.name, ""), m.probe(ctx, "", one.name)
	defer mine.Stop()
	defer func() { other.Stop() }()
	var late <-chan time.Time
	for answers := 0; ; {
		select {
		case <-mine.ended():
			if mine.answered() {
				m.wait(one, mine.took)
				return
			}
			mine.judged = true // it cannot serve: can others?
			if answers > 0 {
				m.leave(ctx, one)
				return
			}
		case <-other.ended():
			if !other.answered() { // no evidence
				m.wait(one, 0)
				return
			}
			if mine.judged {
				m.leave(ctx, one)
				return
			}
			if answers++; answers < compareTimes && m.isSudden(one, other.took) {
				other.Stop()
				other = m.probe(ctx, "", one.name)
				break
			}
			other.judged = true
			late = time.After(m.patience(one, time.Since(began)))
		case <-late:
			if one.bytes.Load()-before >= enoughBytes {
				m.wait(one, 0)
				return
			}
			m.leave(ctx, one)
			return
		case <-ctx.Done():
			return
		}
	}
}

// usual is how long the member may take for an answer as it did lately. members.mu
// is held.
func (one *member) usual() time.Duration { return min(one.took+one.took/2, tookMost) }

// isSudden reports whether another member takes clearly longer than a member took
// lately.
func (m *members) isSudden(one *member, other time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return other > one.usual()
}

// patience is how much longer a member may take that others have answered before.
func (m *members) patience(one *member, others time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(compareLeast, min(tookTimes*one.took, tookMost)-others)
}

// wait puts the next comparison off.
func (m *members) wait(one *member, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if took > 0 {
		one.answered(took, time.Now())
	}
	m.next = time.Now().Add(m.retry.Next())
}

// leave has all that is at a member go to another one. Nothing goes to the member
// until it has answered a read, or until its connection has broken.
func (m *members) leave(ctx context.Context, one *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retry.Reset()
	m.next = time.Now().Add(compareFirst)
	if one.silent {
		return
	}
	one.silent = true
	for r := range one.routes {
		r.cancel(ErrSilent)
	}
	m.probes.Add(1)
	worker.Start(ctx, func(ctx context.Context) {
		defer m.probes.Done()
		retry := worker.Backoff{First: compareFirst, Max: compareMax}
		for !m.isBack(ctx, one) && retry.Wait(ctx) {
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		one.silent = false
	})
}

// isBack waits until a member that was left answers a read, or its connection has
// broken, and reports that. It reports false if the member says that it cannot serve.
func (m *members) isBack(ctx context.Context, one *member) bool {
	back := m.probe(ctx, one.name, "")
	defer back.Stop()
	<-back.Done()
	return back.answered() || KindOf(back.err) == Away
}

// probe is a cheap read that is sent to one member, or to any but one. It has no
// deadline: a member that answers it late is back.
type probe struct {
	*worker.Worker
	judged bool // its answer was taken

	// Both belong to the worker until it is done.
	err  error
	took time.Duration
}

func (m *members) probe(ctx context.Context, to, not string) *probe {
	p := &probe{}
	p.Worker = worker.Start(ctx, func(ctx context.Context) {
		began := time.Now()
		_, p.err = m.conn.read(ctx, to, not)
		p.took = max(time.Since(began), 1)
	})
	return p
}

// ended is closed when the probe has ended, and its answer was not taken yet.
func (p *probe) ended() <-chan struct{} {
	if p.judged {
		return nil
	}
	return p.Done()
}

// answered reports whether etcd has answered, be it with a refusal of the user.
func (p *probe) answered() bool { return p.err == nil || KindOf(p.err) == Refusal }

// heardConn counts the bytes that arrive from a member, as a sign of life of its
// link: a long answer over a thin link is one.
type heardConn struct {
	net.Conn
	bytes *atomic.Int64 // of the member
	read  atomic.Int64  // of this connection
	link  *link
	began time.Time
}

func (h *heardConn) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.bytes.Add(int64(n))
	h.read.Add(int64(n))
	return n, err
}

func (h *heardConn) Close() error {
	h.link.ends(h)
	return h.Conn.Close()
}
