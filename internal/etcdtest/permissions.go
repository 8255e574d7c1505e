package etcdtest

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const root = "root"

// may returns an error if a user may not do something to a whole range.
func (u *users) may(by caller, key, end []byte, granted func(Permission) bool) error {
	switch {
	case !u.enabled:
		return nil
	case by == (caller{}):
		return rpctypes.ErrGRPCUserEmpty
	case by.revision < u.revision:
		return rpctypes.ErrGRPCAuthOldRevision
	case u.byName[by.name] == nil:
		return rpctypes.ErrGRPCPermissionDenied
	case by.name == root || u.byName[by.name].covers(string(key), string(end), granted):
		return nil
	}
	return rpctypes.ErrGRPCPermissionDenied
}

func (u *users) mayRead(by caller, key, end []byte) error {
	return u.may(by, key, end, func(p Permission) bool { return p.Read })
}

func (u *users) mayWrite(by caller, key, end []byte) error {
	return u.may(by, key, end, func(p Permission) bool { return p.Write })
}

// covers reports whether the permissions cover a range without a gap.
func (u *user) covers(key, end string, granted func(Permission) bool) bool {
	if end == "" {
		end = key + "\x00"
	}
	for at := key; ; {
		next := u.reaches(at, granted)
		switch {
		case next == "\x00" || end != "\x00" && next >= end:
			return true
		case next <= at:
			return false
		}
		at = next
	}
}

// reaches returns up to where one permission covers the keys from key on.
func (u *user) reaches(key string, granted func(Permission) bool) (end string) {
	for _, p := range u.may {
		if !granted(p) || key < p.Key {
			continue
		}
		upTo := p.End
		if upTo == "" {
			upTo = p.Key + "\x00"
		}
		if upTo == "\x00" {
			return upTo
		}
		end = max(end, upTo)
	}
	return end
}

func (e *Etcd) mayPut(by caller, r *pb.PutRequest) error {
	if err := e.auth.mayWrite(by, r.Key, nil); err != nil {
		return err
	}
	if err := e.mayPutAll(by, e.store.leases[r.Lease]); err != nil {
		return err
	}
	if r.PrevKv {
		return e.auth.mayRead(by, r.Key, nil)
	}
	return nil
}

// mayPutAll returns an error if a user may not write all keys of a lease.
func (e *Etcd) mayPutAll(by caller, l *lease) error {
	if l == nil || by.name == root {
		return nil
	}
	for key := range l.keys {
		if err := e.auth.mayWrite(by, []byte(key), nil); err != nil {
			return err
		}
	}
	return nil
}

func (e *Etcd) mayDelete(by caller, r *pb.DeleteRangeRequest) error {
	if err := e.auth.mayWrite(by, r.Key, r.RangeEnd); err != nil || !r.PrevKv {
		return err
	}
	return e.auth.mayRead(by, r.Key, r.RangeEnd)
}

// mayTxn returns an error if a user may not do all that a transaction could do.
func (e *Etcd) mayTxn(by caller, r *pb.TxnRequest) error {
	for _, c := range r.Compare {
		if err := e.auth.mayRead(by, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := e.mayDo(by, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Etcd) mayDo(by caller, op *pb.RequestOp) error {
	switch u := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return e.auth.mayRead(by, u.RequestRange.Key, u.RequestRange.RangeEnd)
	case *pb.RequestOp_RequestPut:
		return e.mayPut(by, u.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return e.mayDelete(by, u.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return e.mayTxn(by, u.RequestTxn)
	}
	return nil
}

// mayRenew returns an error if a user may not write all keys of a lease to renew.
func (m *Member) mayRenew(ctx context.Context, id int64) error {
	if err := m.named(ctx); err != nil {
		return err
	}
	by, err := m.callerOf(ctx)
	if err != nil {
		return err
	}
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	return m.etcd.mayPutAll(by, m.etcd.store.leases[id])
}
