// Package registration is all that one client has registered: each key has one
// life, acquire, hold, acquire again, release.
package registration

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/lease"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Book holds the registrations of one client. It is safe for concurrent use.
type Book struct {
	conn   *etcd.Conn
	hub    *feed.Hub
	keeper *lease.Keeper
	ctx    context.Context // of the client: its registrations live no longer
	cut    context.Context // ends what is still released when the client has to be closed, or clientv3's was
	cutOff context.CancelFunc

	mu       sync.Mutex // guards all below
	current  map[string]*registration
	lives    map[*registration]bool        // all whose goroutines live; true while told to be registered
	former   map[uint64]struct{}           // hashes of the keys that were put once
	left     map[string][]clientv3.LeaseID // that could not be revoked, by their keys
	removals map[*worker.Worker]struct{}
	latest   *registration
	closed   bool
}

// seed is that of the hashes of keys that were put once.
var seed = maphash.MakeSeed()

// NewBook returns an empty Book, whose registrations end with ctx.
func NewBook(ctx context.Context, conn *etcd.Conn, hub *feed.Hub) *Book {
	b := &Book{
		conn: conn, hub: hub, keeper: lease.New(conn), ctx: ctx,
		current: map[string]*registration{}, lives: map[*registration]bool{},
		former: map[uint64]struct{}{}, left: map[string][]clientv3.LeaseID{}, removals: map[*worker.Worker]struct{}{},
	}
	// Once the clientv3 client is closed, its requests would be repeated for seconds.
	b.cut, b.cutOff = context.WithCancel(conn.Client.Ctx())
	return b
}

// Close releases all that is registered, within the request timeout, and returns
// when nothing is left of the Book. Its context has to have ended.
func (b *Book) Close() {
	b.mu.Lock()
	b.closed = true
	var all []*worker.Worker
	for r := range b.lives {
		all = append(all, r.worker)
	}
	for w := range b.removals {
		all = append(all, w)
	}
	b.mu.Unlock()
	late := time.AfterFunc(b.conn.Timeout, b.cutOff)
	defer late.Stop()
	for _, w := range all {
		w.Stop()
	}
	b.cutOff()
	b.keeper.Close()
}

// atTheEnd returns a context for work that has to be done although ctx has
// ended: to release leases, to delete keys. It ends when the client has to be
// closed. Nobody knows before that a lease has run out: none ages while etcd is
// away.
func (b *Book) atTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unfollow := context.AfterFunc(b.cut, cancel)
	return ctx, func() {
		unfollow()
		cancel()
	}
}

// revoke ends leases, all at one time: on an etcd that is slow a client that has to
// be closed has no time for one after the other.
func (b *Book) revoke(ctx context.Context, all []clientv3.LeaseID) error {
	errs := make([]error, len(all))
	var others []*worker.Worker
	for i, id := range all {
		if i == len(all)-1 {
			errs[i] = b.keeper.Revoke(ctx, id)
			break
		}
		others = append(others, worker.Start(ctx, func(ctx context.Context) { errs[i] = b.keeper.Revoke(ctx, id) }))
	}
	for _, w := range others {
		<-w.Done()
	}
	return errors.Join(errs...)
}

// Register registers a service, and returns when it is, or why it is not within
// the request timeout. With keep it goes on after that, until Deregister.
func (b *Book) Register(s Service, keep bool, observe Observer) error {
	began, late := time.Now(), time.After(b.conn.Timeout)
	call := process.call()
	for {
		req := &request{service: s, keep: keep, observe: observe, call: call, reply: make(chan error, 1)}
		if err := b.hand(req); err != nil {
			return err
		}
		err := b.wait(req, late)
		if !errors.Is(err, errEnded) {
			b.settle(req, err, b.conn.Timeout-time.Since(began))
			return err
		}
	}
}

// hand gives a request to the registration of its key, which it begins if there
// is none.
func (b *Book) hand(req *request) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return ErrClosed
	}
	before := b.current[req.service.Key]
	if before != nil && before.ask(req) {
		return nil
	}
	b.begin(req.service.Key, before, req)
	return nil
}

// begin begins a registration. Leases that could not be revoked are its own from
// now on. b.mu is held.
func (b *Book) begin(name string, before *registration, requests ...*request) *registration {
	r := &registration{book: b, wake: make(chan struct{}, 1), before: before}
	r.key = key{conn: b.conn, hub: b.hub, name: name}
	r.leases = leases{conn: b.conn, keeper: b.keeper, loose: b.left[name]}
	delete(b.left, name)
	for _, req := range requests {
		r.ask(req)
	}
	b.current[name] = r
	b.lives[r] = false
	meter.Add(b.conn.Metrics.ServicesWanted, 1)
	start(b.ctx, &r.worker, func(ctx context.Context) {
		r.run(ctx)
		b.forget(r)
	})
	return r
}

// again begins a registration that only ends leases which could not be revoked
// before, and returns nil if there are none.
func (b *Book) again(name string) *registration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current[name] != nil || len(b.left[name]) == 0 {
		return nil
	}
	return b.begin(name, nil)
}

// start starts a worker whose life, and whoever hears of it from there, finds the
// worker in its place.
func start(ctx context.Context, w **worker.Worker, life func(context.Context)) {
	known := make(chan struct{})
	defer close(known)
	*w = worker.Start(ctx, func(ctx context.Context) {
		<-known
		life(ctx)
	})
}

// wait waits for the outcome of a request, or for the caller's time to be over.
func (b *Book) wait(req *request, late <-chan time.Time) error {
	select {
	case err := <-req.reply:
		return err
	case <-late:
	}
	select {
	case err := <-req.reply: // in time, but this process stood still
		return err
	default:
	}
	why, replies := req.leave()
	if !replies {
		return b.conn.Late(why)
	}
	switch err := <-req.reply; {
	case err == nil, errors.Is(err, errOvertaken):
		return err
	default:
		return b.conn.Late(why)
	}
}

// settle waits until a registration that was begun for a request which failed has
// given back what it had, as long as there is time.
func (b *Book) settle(req *request, err error, within time.Duration) {
	b.mu.Lock()
	r := b.current[req.service.Key]
	b.mu.Unlock()
	if err == nil || req.keep || r == nil || !r.over() {
		return
	}
	select {
	case <-r.worker.Done():
	case <-time.After(within):
	}
}

// forget notes that a registration has ended. A key that was put stays known: a
// second Deregister must not take it for somebody else's.
func (b *Book) forget(r *registration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lives, r)
	meter.Add(b.conn.Metrics.ServicesWanted, -1)
	if r.key.sent {
		b.former[maphash.String(seed, r.key.name)] = struct{}{}
	}
	if len(r.left) > 0 {
		b.left[r.key.name] = append(b.left[r.key.name], r.left...)
	}
	if _, lives := b.lives[r.before]; !lives {
		r.before = nil
	}
	switch {
	case b.current[r.key.name] != r:
	case r.before != nil:
		b.current[r.key.name] = r.before
	default:
		delete(b.current, r.key.name)
	}
	if b.latest == r {
		b.latest = nil
	}
}

func (b *Book) noteLatest(r *registration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current[r.key.name] == r {
		b.latest = r
	}
}

// counted notes whether a registration counts as registered, and returns whether
// it did before.
func (b *Book) counted(r *registration, now bool) (was bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was = b.lives[r]
	b.lives[r] = now
	return was
}

// Lease returns the lease of what was registered last, 0 when there is none, or
// while it is lost.
func (b *Book) Lease() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.latest == nil {
		return 0
	}
	return b.latest.leases.id.Load()
}

// CompareError says that the guards of a removal failed, and what was found.
type CompareError struct {
	Value    []byte
	Revision int64
}

// Error implements error.
func (e *CompareError) Error() string {
	return fmt.Sprintf("the key has value %q and mod revision %d", e.Value, e.Revision)
}
