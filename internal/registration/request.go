package registration

import (
	"context"
	"sync"
	"time"
)

// Service is what is registered: a key, its value, and how it is kept alive.
type Service struct {
	Key, Value string
	Every      time.Duration // the heartbeat
	TTL        int64         // of the lease, in seconds
}

// Observer hears of all that becomes of a registration, in order: nil, and the
// lease, when the service is registered, else why it is not.
type Observer struct {
	Who  any // tells one observer from another
	Hear func(err error, lease int64)
}

// request is one call of Register for a key.
type request struct {
	service Service
	observe Observer
	keep    bool // it is gone on with after its caller has left
	call    uint64
	reply   chan error

	mu     sync.Mutex         // guards all below
	cancel context.CancelFunc // not nil once the registration is at it
	left   bool               // its caller has
	why    error              // why it takes so long, as far as is known
}

// take begins to serve the request, and reports false if its caller has left.
func (q *request) take(cancel context.CancelFunc) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.cancel = cancel
	return !q.left || q.keep
}

// leave ends the wait of the caller. Unless the request is kept, it is not
// served any more. leave returns why the request took too long, if known, and
// whether a reply is about to come.
func (q *request) leave() (why error, replies bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left = true
	if q.keep {
		return q.why, false
	}
	if q.cancel != nil {
		q.cancel()
	}
	return q.why, q.cancel != nil
}

// waits notes why the request takes so long.
func (q *request) waits(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.why = why
}
