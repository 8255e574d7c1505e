package etcd

import (
	"context"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
)

// Route is the way of one request or stream to the member that serves it. While
// something was asked for there, the member owes an answer. It is safe for
// concurrent use.
type Route struct {
	members *members
	cancel  context.CancelCauseFunc
	to, not string // the only member that may be picked, and one that may not
	prefer  string // the member that is picked if it may be
	past    string // the member that is picked if no other may be
	list    bool   // the answer may be long

	// members.mu guards all below.
	member *member
	asked  time.Time // since when an answer is owed, zero if none is
	ended  bool
}

type routeKey struct{}

// Route returns a context for one request or stream, and its route. The context
// ends with the cause ErrSilent when the member is left. End has to be called.
func (c *Conn) Route(ctx context.Context) (context.Context, *Route) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &Route{members: c.members, cancel: cancel}
	return context.WithValue(ctx, routeKey{}, r), r
}

// Past has the route lead past the member of an earlier one, if there is another
// member. It is called before anything is sent.
func (r *Route) Past(earlier *Route) {
	if earlier != nil {
		r.past = earlier.name()
	}
}

// Asked says that the member owes an answer from now on, if it does not already.
func (r *Route) Asked() {
	m := r.members
	m.mu.Lock()
	defer m.mu.Unlock()
	if !r.asked.IsZero() || r.ended {
		return
	}
	r.asked = time.Now()
	m.waiting++
	if m.waiting == 1 {
		worker.Poke(m.wake)
	}
}

// Heard says that the member has answered. It owes another answer from now on
// if more is true.
func (r *Route) Heard(more bool) {
	now := time.Now()
	r.members.conn.heard(now)
	m := r.members
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.member != nil {
		r.member.heard = now
	}
	if r.ended || r.asked.IsZero() {
		return
	}
	if r.member != nil && !r.list {
		r.member.answered(now.Sub(r.asked), now)
	}
	if more {
		r.asked = now
		return
	}
	r.asked = time.Time{}
	m.waiting--
}

// name returns the name of the member, "" if none was picked by us.
func (r *Route) name() string {
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	if r.member == nil {
		return ""
	}
	return r.member.name
}

// Leave says that the member is of no use, whatever it answers: its store stands
// still. All that is there goes to another member, if there is one.
func (r *Route) Leave() {
	r.members.mu.Lock()
	one := r.member
	r.members.mu.Unlock()
	if one != nil {
		r.members.leave(r.members.conn.ctx, one)
	}
	r.cancel(ErrSilent)
}

// sent returns since when the member has owed an answer, zero if it owes nothing,
// and how many bytes have ever arrived from it. While a request waits here, for a
// token or a connection, no member owes anything.
func (r *Route) sent() (at time.Time, bytes int64) {
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	if r.member == nil {
		return at, 0
	}
	return r.asked, r.member.bytes.Load()
}

// arrives reports whether a long answer has come from the member since there were
// so many bytes.
func (r *Route) arrives(before int64) bool {
	_, now := r.sent()
	return now-before >= enoughBytes
}

// End ends the route, and its context.
func (r *Route) End() {
	m := r.members
	m.mu.Lock()
	if !r.ended {
		r.ended = true
		if !r.asked.IsZero() {
			m.waiting--
		}
		if r.member != nil {
			delete(r.member.routes, r)
		}
	}
	m.mu.Unlock()
	r.cancel(context.Canceled)
}

// mayTake reports whether a request may go to a member.
func (r *Route) mayTake(name string) bool {
	if r == nil {
		return true
	}
	if r.choosy() {
		return (r.to == "" || r.to == name) && r.not != name
	}
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	one := r.members.byName[name]
	return name != r.past && (one == nil || !one.silent)
}

// choosy reports whether a request goes nowhere rather than to another member.
func (r *Route) choosy() bool { return r != nil && (r.to != "" || r.not != "") }

// take notes the member that was picked.
func (r *Route) take(name string) {
	if r == nil {
		return
	}
	m := r.members
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.ended {
		return
	}
	if r.member != nil {
		delete(r.member.routes, r)
	}
	r.member = m.member(name)
	r.member.routes[r] = struct{}{}
	if !r.asked.IsZero() { // it did not owe anything while the request waited here
		r.asked = time.Now()
	}
}
