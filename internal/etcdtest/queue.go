package etcdtest

import (
	"context"
	"net"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// write is one that was proposed. It is carried out whoever still waits.
type write struct {
	do   func() (proto.Message, error) // called with the cluster's mutex held
	done chan struct{}
	resp proto.Message
	err  error
}

func newWrite(do func() (proto.Message, error)) *write {
	return &write{do: do, done: make(chan struct{})}
}

// queue holds the writes that wait, guarded by the cluster's mutex.
type queue struct {
	waiting []*write
	current *write
	wake    chan struct{}
}

func (q *queue) pending() int {
	if q.current != nil {
		return len(q.waiting) + 1
	}
	return len(q.waiting)
}

// last is the write that is carried out last of those that are here, nil if none is.
func (q *queue) last() *write {
	if n := len(q.waiting); n > 0 {
		return q.waiting[n-1]
	}
	return q.current
}

// drop answers a write without carrying it out.
func (q *queue) drop(w *write) {
	w.err = rpctypes.ErrGRPCStopped
	close(w.done)
}

// submit adds a write. If writes take no time, it is carried out at once.
func (e *Etcd) submit(w *write) {
	if e.queue.pending() == 0 && e.now().WriteTime <= 0 {
		e.carryOut(w)
		return
	}
	e.queue.waiting = append(e.queue.waiting, w)
	select {
	case e.queue.wake <- struct{}{}:
	default:
	}
}

func (e *Etcd) carryOut(w *write) {
	w.resp, w.err = w.do()
	close(w.done)
}

// writeOneAfterAnother is the life of the cluster's log.
func (e *Etcd) writeOneAfterAnother() {
	for {
		if !e.beginWrite() {
			select {
			case <-e.queue.wake:
				continue
			case <-e.closed:
				return
			}
		}
		if !e.sleep(e.now().WriteTime) {
			return
		}
		e.endWrite()
	}
}

func (e *Etcd) beginWrite() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	q := &e.queue
	if len(q.waiting) == 0 {
		return false
	}
	q.current, q.waiting[0] = q.waiting[0], nil
	q.waiting = q.waiting[1:]
	return true
}

func (e *Etcd) endWrite() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := e.queue.current; w != nil {
		e.queue.current = nil
		e.carryOut(w)
	}
}

// loseWrites drops all writes that wait, as when all members stop.
func (e *Etcd) loseWrites() {
	q := &e.queue
	all := q.waiting
	if q.current != nil {
		all = slices.Insert(all, 0, q.current)
	}
	q.waiting, q.current = nil, nil
	for _, w := range all {
		q.drop(w)
	}
}

// propose has a write carried out, and waits for it. It is carried out even if
// ctx ends, unless the member has no leader to send it to.
func (m *Member) propose(ctx context.Context, do func() (proto.Message, error)) (proto.Message, error) {
	e := m.etcd
	ctx, cancel := e.limit(ctx)
	defer cancel()
	e.mu.Lock()
	for m.alone {
		e.mu.Unlock()
		if err := m.fresh.wait(ctx, e.closed); err != nil {
			return nil, timedOut(ctx, err)
		}
		e.mu.Lock()
	}
	if e.queue.pending() > e.now().maxPending() {
		e.mu.Unlock()
		// This is what etcd returns; on the wire its code is Unknown.
		return nil, rpctypes.ErrTooManyRequests
	}
	w := newWrite(do)
	if m.stalled {
		m.held = append(m.held, w)
	} else {
		e.submit(w)
	}
	e.mu.Unlock()
	return e.await(ctx, w)
}

func (e *Etcd) await(ctx context.Context, w *write) (proto.Message, error) {
	select {
	case <-w.done:
		return w.resp, w.err
	default:
	}
	select {
	case <-w.done:
		return w.resp, w.err
	case <-ctx.Done():
		return nil, timedOut(ctx, ctx.Err())
	case <-e.closed:
		return nil, net.ErrClosed
	}
}

// limit bounds the wait of a request, if the settings have a bound.
func (e *Etcd) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if timeout := e.now().RequestTimeout; timeout > 0 {
		return context.WithTimeoutCause(ctx, timeout, rpctypes.ErrGRPCTimeout)
	}
	return ctx, func() {}
}

// timedOut is etcd's own error if the wait was bounded by etcd.
func timedOut(ctx context.Context, err error) error {
	if context.Cause(ctx) == rpctypes.ErrGRPCTimeout {
		return rpctypes.ErrGRPCTimeout
	}
	return err
}

// linearize waits until a read may be answered. The member has to be in touch
// with the others, and the writes that came before it have to be carried out.
func (m *Member) linearize(ctx context.Context) error {
	e := m.etcd
	ctx, cancel := e.limit(ctx)
	defer cancel()
	if err := m.fresh.wait(ctx, e.closed); err != nil {
		return timedOut(ctx, err)
	}
	e.mu.Lock()
	w := e.queue.last()
	e.mu.Unlock()
	if w == nil || e.now().ReadsDoNotWait {
		return nil
	}
	_, err := e.await(ctx, w)
	if ctx.Err() == nil { // the write's error is not the read's
		err = nil
	}
	return err
}

// applied waits up to a second for the writes that are pending.
func (m *Member) applied() error {
	e := m.etcd
	e.mu.Lock()
	w := e.queue.last()
	e.mu.Unlock()
	if w == nil {
		return nil
	}
	t := time.NewTimer(applyTimeout)
	defer t.Stop()
	select {
	case <-w.done:
		return nil
	case <-t.C:
		return rpctypes.ErrGRPCTimeoutWaitAppliedIndex
	case <-e.closed:
		return net.ErrClosed
	}
}

// applyTimeout is how long a renewal waits for a lease that is not there yet.
const applyTimeout = time.Second
