package registration

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/lease"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leasesKept is how many leases a key is remembered to have been put under. A
// store that is restored from a snapshot can hold it under an old one.
const leasesKept = 16

// leases are those that one key was put under. What etcd granted is kept from
// one attempt to the next. It belongs to the goroutine of its registration, but
// for id.
type leases struct {
	conn   *etcd.Conn
	keeper *lease.Keeper
	id     atomic.Int64       // of the lease that is held, 0 if none is
	held   *lease.Lease       // the key is under it, as far as is known; nil if none is
	next   *lease.Lease       // that was granted, and the key is to be put under; nil if none is
	loose  []clientv3.LeaseID // not kept alive, and not known to be revoked
}

// take returns the lease to put the key under. The lease that is held will do if it
// has the TTL that is wanted. Else the lease was granted before, or is granted now.
// A lease that is unfit will not do.
func (l *leases) take(ctx context.Context, s Service, unfit func(*lease.Lease) bool) (*lease.Lease, error) {
	if l.held != nil && l.held.TTL == s.TTL && !unfit(l.held) {
		l.giveUpNext()
		return l.held, nil
	}
	if l.next != nil && l.next.TTL == s.TTL && !unfit(l.next) {
		return l.next, nil
	}
	l.giveUpNext()
	granted, err := l.keeper.Grant(ctx, s.TTL, s.Every)
	if err != nil {
		return nil, err
	}
	l.next = granted
	return granted, nil
}

// hold notes that the key is under a lease, and gives the lease before it back.
func (l *leases) hold(ctx context.Context, now *lease.Lease) {
	before := l.held
	if now == l.next {
		l.next = nil
	}
	l.held = now
	l.id.Store(int64(now.ID))
	if before == nil || before == now {
		return
	}
	before.Drop()
	ctx, cancel := context.WithTimeout(ctx, l.conn.Timeout/4)
	defer cancel()
	if l.keeper.Revoke(ctx, before.ID) != nil {
		l.letGo(before.ID)
	}
}

// letGo leaves a lease to its TTL, or to the end of the registration. A put that is
// on its way may still bring the key under it.
func (l *leases) letGo(id clientv3.LeaseID) {
	if len(l.loose) == leasesKept {
		l.loose = slices.Delete(l.loose, 0, 1)
	}
	l.loose = append(l.loose, id)
}

// lose notes that etcd knows a lease no more.
func (l *leases) lose(gone *lease.Lease) {
	gone.Drop()
	if gone == l.next {
		l.next = nil
	}
	if gone == l.held {
		l.held = nil
		l.id.Store(0)
	}
}

// giveUpNext lets a lease go that was granted for nothing. If a late put brings the
// key under it, the next heartbeat of the lease that is held takes the key back.
func (l *leases) giveUpNext() {
	if l.next != nil {
		l.next.Drop()
		l.letGo(l.next.ID)
		l.next = nil
	}
}

// end returns the leases to revoke, and keeps none alive. One that was let go comes
// first if a late put may bring the key under it: the put finds that there, or else
// no lease.
func (l *leases) end(late clientv3.LeaseID) (first, then []clientv3.LeaseID) {
	for _, id := range l.loose {
		if id == late {
			first = append(first, id)
		} else {
			then = append(then, id)
		}
	}
	for _, one := range []*lease.Lease{l.held, l.next} {
		if one != nil {
			one.Drop()
			then = append(then, one.ID)
		}
	}
	l.held, l.next, l.loose = nil, nil, nil
	l.id.Store(0)
	return first, then
}

// news is where the heartbeats of the lease that is held tell what is new.
func (l *leases) news() <-chan lease.Beat {
	if l.held == nil {
		return nil
	}
	return l.held.News
}
