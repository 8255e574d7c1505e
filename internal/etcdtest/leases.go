package etcdtest

import (
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

const (
	maxTTL = 9_000_000_000

	// expiryPause is the least time between two looks for leases that have
	// expired, and expiredAtOnce how many of them one look ends.
	expiryPause   = 500 * time.Millisecond
	expiredAtOnce = 500

	// firstLease is where the ids begin that the server chooses.
	firstLease = 0x694d8e9e05c50000
)

// lessor holds the leases of a store.
type lessor struct {
	leases map[int64]*lease
	ever   []*lease // that were granted
	lastID int64

	timer  *time.Timer // until the next look
	due    time.Time   // when that is, zero for never
	looked time.Time
	asleep bool // nobody looks: no member is up
}

type lease struct {
	id, ttl  int64
	expiry   time.Time
	keys     map[string]struct{}
	expiring bool          // its revocation is among the writes
	gone     chan struct{} // closed when it is revoked
	from, to int64         // revisions between which it lived; 0 for still
}

func (l *lessor) init() { l.leases, l.lastID = map[int64]*lease{}, firstLease }

func (c *change) attach(kv *mvccpb.KeyValue) {
	if l := c.leases[kv.Lease]; l != nil {
		if l.keys == nil {
			l.keys = map[string]struct{}{}
		}
		l.keys[string(kv.Key)] = struct{}{}
	}
}

func (c *change) detach(kv *mvccpb.KeyValue) {
	if l := c.leases[kv.Lease]; l != nil {
		delete(l.keys, string(kv.Key))
	}
}

// grant makes a lease. Id 0 stands for one that the server chooses.
func (e *Etcd) grant(id, ttl int64) (*lease, error) {
	s := e.store
	for id == 0 || s.leases[id] != nil && id == s.lastID {
		s.lastID++
		id = s.lastID
	}
	switch {
	case ttl > maxTTL:
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	case s.leases[id] != nil:
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	l := &lease{id: id, ttl: max(ttl, e.now().minTTL()), gone: make(chan struct{}), from: s.rev}
	s.leases[id], s.ever = l, append(s.ever, l)
	e.refresh(l)
	return l, nil
}

// refresh gives a lease its whole TTL again.
func (e *Etcd) refresh(l *lease) {
	l.expiry = time.Now().Add(time.Duration(l.ttl) * time.Second)
	e.lookAt(l.expiry)
}

// lookAt sees to it that expired leases are looked for at a moment.
func (e *Etcd) lookAt(at time.Time) {
	s := e.store
	if earliest := s.looked.Add(expiryPause); at.Before(earliest) {
		at = earliest
	}
	if s.asleep || e.isClosed() || !s.due.IsZero() && !at.Before(s.due) {
		return
	}
	s.due = at
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(time.Until(at), func() { e.expire(s) })
}

func (s *store) stopTimers() {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.due = time.Time{}
}

// expire ends leases that were not renewed. Each is a write like any other.
func (e *Etcd) expire(of *store) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.isClosed() || of != e.store || of.asleep || of.due.IsZero() || now.Before(of.due) {
		return
	}
	of.due, of.looked = time.Time{}, now
	var next time.Time
	over := []*lease{}
	for _, l := range of.leases {
		switch {
		case l.expiring:
		case !l.expiry.After(now):
			over = append(over, l)
		case next.IsZero() || l.expiry.Before(next):
			next = l.expiry
		}
	}
	if e.end(over) {
		next = now
	}
	if !next.IsZero() {
		e.lookAt(next)
	}
}

// end revokes leases that are over, the oldest first. It returns true if there
// are more of them than can be ended at once.
func (e *Etcd) end(over []*lease) bool {
	slices.SortFunc(over, func(a, b *lease) int { return a.expiry.Compare(b.expiry) })
	more := len(over) > expiredAtOnce
	for _, l := range over[:min(len(over), expiredAtOnce)] {
		l.expiring = true
		of := e.store
		e.submit(newWrite(func() (proto.Message, error) {
			if of == e.store && of.leases[l.id] == l {
				e.revoke(l)
			}
			return nil, nil
		}))
	}
	return more
}

// revoke ends a lease, and deletes its keys in one revision.
func (e *Etcd) revoke(l *lease) {
	c := e.store.change()
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		c.delete([]byte(key), nil)
	}
	delete(c.leases, l.id)
	l.to = c.revision()
	close(l.gone)
	e.commit(c)
}

// sleepLeases stops the clock of all leases, as when no member is up.
func (e *Etcd) sleepLeases() {
	e.store.asleep = true
	e.store.stopTimers()
}

// wakeLeases starts it again. Each lease has its whole TTL, as with a new leader.
func (e *Etcd) wakeLeases() {
	if !e.store.asleep {
		return
	}
	e.store.asleep = false
	for _, l := range e.store.leases {
		l.expiring = false
		e.refresh(l)
	}
}

func (l *lease) status() *pb.LeaseStatus { return &pb.LeaseStatus{ID: l.id} }
