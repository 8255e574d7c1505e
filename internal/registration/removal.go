package registration

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Removal is what Deregister removes.
type Removal struct {
	Key          string
	PrevValue    string // when not empty, only if this is the value
	PrevRevision int64  // when not 0, only if this is the mod revision
	Recursive    bool   // all under Key + "/", too
}

func (m Removal) guarded() bool { return m.PrevValue != "" || m.PrevRevision != 0 }

// compare returns a CompareError if the guards name another value or revision than
// was found. A key that is not there is no error.
func (m Removal) compare(kv *mvccpb.KeyValue) error {
	if kv == nil || (m.PrevValue == "" || string(kv.Value) == m.PrevValue) &&
		(m.PrevRevision == 0 || kv.ModRevision == m.PrevRevision) {
		return nil
	}
	return &CompareError{kv.Value, kv.ModRevision}
}

// Deregister removes a key: what this client has registered with its lease, and
// so no other owner's; else the key as it is. It returns when that is done, or
// why it is not within the request timeout. Then it goes on, until etcd has
// answered, with what this client has registered. What it finds there else may be
// a later owner's.
func (b *Book) Deregister(m Removal) error {
	caller, leave := context.WithTimeout(context.Background(), b.conn.Timeout)
	defer leave()
	call := process.call()
	r, former := b.find(m.Key)
	if r != nil && !m.guarded() && !m.Recursive {
		r.remove(call)
		if !gone(caller, r) {
			return b.conn.Late(nil)
		}
		if r.key.sent || former || r.released != nil {
			return r.released
		}
	}
	var err error
	w := b.remove(func(ctx context.Context) {
		caller, leave := context.WithCancel(caller)
		defer leave()
		defer context.AfterFunc(ctx, leave)()
		err = b.removeAll(ctx, caller, m, call, r, former)
	})
	if !w.Ends(caller) {
		return b.conn.Late(nil)
	}
	return err
}

// find returns the registration of a key, and whether there was one before.
func (b *Book) find(key string) (r *registration, former bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, former = b.former[maphash.String(seed, key)]
	return b.current[key], former
}

// remove starts a removal, which the Book's end waits for.
func (b *Book) remove(life func(context.Context)) *worker.Worker {
	ctx, cancel := b.atTheEnd(b.ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	var w *worker.Worker
	start(context.WithoutCancel(ctx), &w, func(context.Context) {
		defer cancel()
		ctx, over := context.WithTimeout(ctx, removalMost)
		defer over()
		life(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.removals, w)
	})
	if b.closed {
		cancel()
	} else {
		b.removals[w] = struct{}{}
	}
	return w
}

// removalMost is how long a removal goes on that got no answer, unless what it
// removes is a registration.
const removalMost = time.Minute

// removeAll removes a key and what is under it, once the guards hold. What this
// client has not registered is removed while the caller waits.
func (b *Book) removeAll(ctx, caller context.Context, m Removal, call uint64, r *registration, former bool) error {
	ours := r != nil && !r.over() || former
	if m.guarded() && ours {
		if err := b.compare(ctx, m, r); err != nil {
			return err
		}
	}
	below := b.endBelow(m)
	var err error
	if r == nil {
		r = b.again(m.Key)
	}
	if r != nil {
		err = r.endIn(ctx)
		ours = former || err != nil || r.key.sent
	}
	if !ours {
		err = b.delete(caller, m, call)
	}
	for _, r := range below {
		err = errors.Join(err, r.endIn(ctx))
	}
	if m.Recursive && (err == nil || !errors.As(err, new(*CompareError))) {
		err = errors.Join(err, b.deleteUnder(caller, m.Key+"/"))
	}
	return err
}

// endBelow begins to end what this client has registered under key + "/", if
// that is to be removed.
func (b *Book) endBelow(m Removal) (below []*registration) {
	if !m.Recursive {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for other, r := range b.current {
		if strings.HasPrefix(other, m.Key+"/") {
			r.end(ErrReleased)
			below = append(below, r)
		}
	}
	return below
}

// endIn ends the registration, and returns what its release came to, or that ctx
// ended before.
func (r *registration) endIn(ctx context.Context) error {
	r.end(ErrReleased)
	if !gone(ctx, r) {
		return ctx.Err()
	}
	return r.released
}

// gone waits until the registration has ended, those before it, and those of other
// clients that they made end: a put of theirs may be on its way, and has to find no
// lease. It reports whether that was before ctx ended. No registration waits for
// another by itself.
func gone(ctx context.Context, r *registration) bool {
	for ; r != nil; r = r.before {
		if !r.worker.Ends(ctx) {
			return false
		}
		for _, other := range r.losers {
			if !other.worker.Ends(ctx) {
				return false
			}
		}
	}
	return true
}

// compare checks the guards for a key of ours, which is left to its lease: that
// deletes no other owner's. If they fail, a registration that still has the key
// lives on. One whose key is another owner's ends, and so cannot come back.
func (b *Book) compare(ctx context.Context, m Removal, r *registration) error {
	resp, err := b.read(ctx, m.Key)
	if err != nil {
		if r != nil { // leave the lease, and so the key, to run out
			r.forsake()
			_ = r.endIn(ctx)
		}
		return err
	}
	kv := first(resp.Kvs)
	err = m.compare(kv)
	if err != nil && r != nil && (kv.Lease == 0 || kv.Lease != r.leases.id.Load()) {
		_ = r.endIn(ctx)
	}
	return err
}

// read reads a key.
func (b *Book) read(ctx context.Context, key string) (*clientv3.GetResponse, error) {
	return etcd.Ask(ctx, b.conn, etcd.Ending, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return b.conn.KV.Get(ctx, key)
	})
}

// registered returns the registration that has put a key under a lease since a
// Deregister looked for one. It reports whether the registration's call came after
// that of Deregister.
func (b *Book) registered(key string, lease int64, call uint64) (r *registration, after bool) {
	b.mu.Lock()
	r = b.current[key]
	b.mu.Unlock()
	if r == nil || lease == 0 {
		return nil, false
	}
	has, after := process.hasPut(r, lease, call)
	if !has {
		return nil, false
	}
	return r, after
}

// delete deletes a key that this client never registered, and then ends what
// another client of this process holds of it. It deletes what it has read, so
// that a request which arrives late, or twice, deletes nothing else. A key that
// was created since the first look is a later owner's.
func (b *Book) delete(ctx context.Context, m Removal, call uint64) error {
	for looked := int64(0); ; {
		resp, err := b.read(ctx, m.Key)
		if errors.Is(err, rpctypes.ErrPermissionDenied) && !m.guarded() {
			return b.deleteBlindly(ctx, m.Key)
		}
		if err != nil {
			return err
		}
		kv := first(resp.Kvs)
		done := looked > 0 && kv.GetCreateRevision() > looked
		if err := m.compare(kv); err != nil && !done {
			return err
		}
		if r, after := b.registered(m.Key, kv.GetLease(), call); after {
			return nil
		} else if r != nil {
			r.remove(call)
			return r.endIn(ctx)
		}
		if !done {
			done, err = b.deleteAt(ctx, m.Key, kv.GetModRevision(), false)
		}
		if err != nil {
			return err
		}
		if done {
			return b.endElsewhere(ctx, place{resp.Header.GetClusterId(), m.Key}, call)
		}
		looked = cmp.Or(looked, resp.Header.GetRevision())
	}
}

// endElsewhere ends what another client of this process holds of a key.
func (b *Book) endElsewhere(ctx context.Context, at place, call uint64) error {
	if !b.conn.Plain() {
		return nil
	}
	var err error
	for _, other := range process.remove(b, at, call) {
		other.end(errElsewhere)
		err = errors.Join(err, other.endIn(ctx))
	}
	return err
}

// deleteBlindly deletes a key for a user that may not read it.
func (b *Book) deleteBlindly(ctx context.Context, key string) error {
	_, err := etcd.Ask(ctx, b.conn, etcd.Ending, func(ctx context.Context) (*clientv3.DeleteResponse, error) {
		return b.conn.KV.Delete(ctx, key)
	})
	return err
}

// deleteUnder deletes all keys with a prefix, as long as none of them is newer
// than the list of them. If all that were there at the first look are gone, those
// that are there now are a later owner's.
func (b *Book) deleteUnder(ctx context.Context, prefix string) error {
	for looked := int64(0); ; {
		resp, err := etcd.Ask(ctx, b.conn, etcd.Ending, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return b.conn.KV.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(1), clientv3.WithMaxCreateRev(looked))
		})
		if err != nil || len(resp.Kvs) == 0 {
			return err
		}
		if done, err := b.deleteAt(ctx, prefix, resp.Header.GetRevision(), true); done || err != nil {
			return err
		}
		looked = cmp.Or(looked, resp.Header.GetRevision())
	}
}

// deleteAt deletes a key, or all with a prefix, unless there is a newer one than
// of a revision. It reports whether it did.
func (b *Book) deleteAt(ctx context.Context, key string, revision int64, prefix bool) (bool, error) {
	guard := clientv3.Compare(clientv3.ModRevision(key), "<", revision+1)
	var opts []clientv3.OpOption
	if prefix {
		guard, opts = guard.WithPrefix(), []clientv3.OpOption{clientv3.WithPrefix()}
	}
	resp, err := etcd.Ask(ctx, b.conn, etcd.Ending, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return b.conn.KV.Txn(ctx).If(guard).Then(clientv3.OpDelete(key, opts...)).Commit()
	})
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}
