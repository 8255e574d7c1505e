package registration

import (
	"context"
	"errors"
	"slices"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/lease"
	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// attempt is one attempt to register, in a turn of its own, which lasts until
// etcd has answered. It fails only if etcd refuses, or ctx ends. There is
// something to hold then: the key, or a lease for it while another owner has it.
func (r *registration) attempt(ctx context.Context, s Service, report func(error)) error {
	ctx = etcd.WithReport(ctx, report)
	leave, err := r.book.conn.Writes.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	l, err := r.place(ctx, s)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // lost since its last beat
		l, err = r.place(ctx, s)
	}
	if err != nil {
		if !r.over() { // else the end is the reason
			report(etcd.Explain(err))
		}
		return err
	}
	l.Alive(s.Every)
	r.leases.hold(ctx, l)
	if r.key.trouble == nil {
		r.takeOver = false
	}
	return r.claimed(l.Cluster())
}

// place puts the key under a lease, and returns that.
func (r *registration) place(ctx context.Context, s Service) (*lease.Lease, error) {
	l, err := r.leases.take(ctx, s, func(l *lease.Lease) bool { return r.key.mayReturn(l, s.Value) })
	if err != nil {
		return nil, err
	}
	cluster := l.Cluster()
	if !r.book.conn.Plain() {
		cluster = 0
	}
	process.put(r, cluster, int64(l.ID))
	if err := r.yield(0); err != nil {
		return nil, err
	}
	err = r.key.put(ctx, s.Value, l, r.knows, r.mayReplace)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		r.leases.lose(l)
		r.key.found = version{}
	}
	return l, err
}

// knows reports whether this registration ever put the key under a lease.
func (r *registration) knows(lease int64) bool {
	has, _ := process.hasPut(r, lease, 0)
	return has
}

// mayReplace returns why a key that is under a lease which this registration does
// not know may not be put.
func (r *registration) mayReplace(lease int64) error {
	err := r.yield(lease)
	if err == nil && !r.takeOver {
		err = ErrKeyTaken
	}
	return err
}

// yield ends the registration if a later call, of another client, has the key or
// has removed it, and returns that. The key is under a lease, 0 for none.
func (r *registration) yield(lease int64) error {
	if !r.book.conn.Plain() || !process.isLate(r, lease) {
		return nil
	}
	r.end(errElsewhere)
	return errElsewhere
}

// claimed ends what another client of this process holds of the key, or this
// registration, if it is the other one that was called last.
func (r *registration) claimed(cluster uint64) error {
	if cluster == 0 || !r.book.conn.Plain() {
		return nil
	}
	losers, taken := process.take(r, cluster)
	if !taken {
		r.end(errElsewhere)
		return errElsewhere
	}
	r.endElsewhere(losers)
	return nil
}

// endElsewhere ends registrations of other clients, and remembers those that are
// not over yet.
func (r *registration) endElsewhere(losers []*registration) {
	r.losers = slices.DeleteFunc(append(r.losers, losers...), func(other *registration) bool {
		other.end(errElsewhere)
		return worker.IsClosed(other.worker.Done())
	})
}
