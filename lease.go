package etcdv3

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lease is one lease that is kept alive. heartbeat.mu guards it.
type lease struct {
	id       clientv3.LeaseID
	every    time.Duration
	ttl      time.Duration
	next     time.Time     // when the next beat is to be sent
	asked    time.Time     // when the oldest unanswered beat was, zero if there is none
	patience time.Duration // how long that one may stay unanswered
	stream   int           // the stream of the last beat, 0 before the first
	resumed  bool          // that stream is not the one before, and has not answered yet
	answered time.Time     // when the last beat was
	silent   bool          // its owner was told that none is, for a TTL
	expected bool          // its owner wants to hear of the next answer, whatever it is
	answers  chan beat     // holds the newest answer that is news
}

// beat is what became of a lease's heartbeats, if that is news to its owner: a
// thousand services that are well need not be told so every second.
type beat struct {
	lost    bool // there is no such lease
	silent  bool // no beat was answered for as long as the lease lives
	resumed bool // beats went unanswered before, on a stream that is given up
}

// newLease returns a lease that was granted now.
func newLease(id clientv3.LeaseID, every, ttl time.Duration) *lease {
	return &lease{
		id: id, every: every, ttl: ttl, answered: time.Now(),
		patience: time.Duration(float64(ttl) * patience), answers: make(chan beat, 1),
	}
}

// Beats are sent at multiples of half their heartbeat, so that those of
// a thousand leases cost two writes. The first one comes early for that; later
// ones, if a lease had to be renewed at another moment, by a sixteenth at a time.
const (
	grid   = 2
	nudged = 16
)

// after returns when to send the beat after a moment: one heartbeat later, or
// by up to most earlier to be on the grid that begins at epoch.
func (l *lease) after(now, epoch time.Time, most time.Duration) time.Time {
	beyond := now.Sub(epoch) % (l.every / grid)
	return now.Add(l.every - min(beyond, most))
}

// overdue reports whether the oldest unanswered beat should have been answered.
func (l *lease) overdue(now time.Time) bool {
	return !l.asked.IsZero() && now.Sub(l.asked) >= l.patience
}

// at is when there is something to do: a beat is due, or overdue.
func (l *lease) at() time.Time {
	if overdue := l.asked.Add(l.patience); !l.asked.IsZero() && overdue.Before(l.next) {
		return overdue
	}
	return l.next
}

// answer notes that a beat was answered, and tells its owner if that is news.
func (l *lease) answer(now time.Time, lost bool) {
	if lost || l.resumed || l.silent || l.expected {
		l.tell(beat{lost: lost, resumed: l.resumed})
	}
	l.answered = now
	l.patience = time.Duration(float64(l.ttl) * patience)
	if !l.asked.IsZero() { // a server that is slow, but answers, is given the time that it takes
		l.patience = max(l.patience, 2*now.Sub(l.asked))
	}
	l.asked, l.resumed, l.silent = time.Time{}, false, false
}

// spoke takes back what the owner was told, if anything, of its silence.
func (l *lease) spoke() {
	l.silent = false
	select {
	case b := <-l.answers:
		if b.silent = false; b != (beat{}) {
			l.answers <- b
		}
	default:
	}
}

// tell passes news on to the owner, in place of what was not taken yet.
func (l *lease) tell(b beat) {
	select {
	case old := <-l.answers:
		b.resumed = b.resumed || old.resumed
	default:
	}
	l.answers <- b
}
