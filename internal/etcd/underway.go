package etcd

import (
	"context"
	"sync/atomic"
	"time"
)

// Underway is what can be known of a request of Ask before it is answered. One
// goroutine looks at it.
type Underway struct {
	route atomic.Pointer[Route] // nil between two attempts

	sent    time.Time
	arrived time.Time
	looked  time.Time // when bytes were last compared
	bytes   int64     // that had arrived by then
}

// arrivesFor is how long bytes of an answer are looked for.
const arrivesFor = time.Second

type underwayKey struct{}

// WithUnderway returns a context whose requests, one at a time, can be looked at.
func WithUnderway(ctx context.Context, u *Underway) context.Context {
	return context.WithValue(ctx, underwayKey{}, u)
}

// underway returns who looks at a request, nil if nobody does.
func underway(ctx context.Context) *Underway {
	u, _ := ctx.Value(underwayKey{}).(*Underway)
	return u
}

// goes notes the route of an attempt.
func (u *Underway) goes(r *Route) {
	if u != nil {
		u.route.Store(r)
	}
}

// Look returns when the request went to its member, zero if it is at none. It
// returns, too, when a long answer was last seen to arrive from there.
func (u *Underway) Look(now time.Time) (sent, arrived time.Time) {
	var bytes int64
	if r := u.route.Load(); r != nil {
		sent, bytes = r.sent()
	}
	switch {
	case !sent.Equal(u.sent):
		u.sent, u.looked, u.bytes = sent, now, bytes
	case now.Sub(u.looked) >= arrivesFor:
		if bytes-u.bytes >= enoughBytes {
			u.arrived = now
		}
		u.looked, u.bytes = now, bytes
	}
	return sent, u.arrived
}
