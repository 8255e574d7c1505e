package etcdv3

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ownership is what a registration knows of its key: a lease can live while
// the key is gone, or another's. A watch on the key tells, at no cost while
// nothing happens.
type ownership struct {
	trouble  error     // why the key is not ours as it should be, nil if it is
	revision int64     // of the last put or check: what is older is history
	leases   []int64   // all that the key was ever put under
	blind    bool      // the user may not read the key
	watch    *keyWatch // nil if there is none
}

// put notes that the key was put as it should be.
func (o *ownership) put(revision int64) { o.trouble, o.revision = nil, revision }

// leasesKept is how many leases a key is remembered to have been put under. A
// store that is restored from a snapshot can hold it under an old one.
const leasesKept = 16

// add notes a lease that the key is going to be put under.
func (o *ownership) add(lease clientv3.LeaseID) {
	if len(o.leases) == leasesKept {
		o.leases = slices.Delete(o.leases, 0, 1)
	}
	o.leases = append(o.leases, int64(lease))
}

// judge notes what the key was found to be at a revision; nil means gone.
func (r *registration) judge(kv *mvccpb.KeyValue, revision int64) {
	if revision < r.owned.revision {
		return
	}
	r.owned.revision = revision
	switch {
	case kv == nil:
		r.owned.trouble = errKeyDeleted
	case kv.Lease == r.lease.Load() && string(kv.Value) == r.service.Value:
		r.owned.trouble = nil
	case kv.Lease != 0 && slices.Contains(r.owned.leases, kv.Lease):
		r.owned.trouble = errKeyChanged
	default:
		r.owned.trouble = errKeyTaken
	}
}

// claim puts the key unless another owner has it, which it notes. It fails
// only if etcd does.
func (r *registration) claim(ctx context.Context) error {
	put := clientv3.OpPut(r.key, r.service.Value, clientv3.WithLease(r.tenure.id))
	for found := int64(0); ; { // the revision of what is to be replaced, 0 for nothing
		compare := clientv3.Compare(clientv3.ModRevision(r.key), "=", found)
		resp, err := r.client.commit(ctx, []clientv3.Cmp{compare}, put, clientv3.OpGet(r.key))
		if errors.Is(err, rpctypes.ErrPermissionDenied) {
			return r.claimBlindly(ctx)
		}
		if err != nil {
			return err
		}
		if resp.Succeeded {
			r.owned.put(resp.Header.GetRevision())
			return nil
		}
		kvs := resp.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 {
			found = 0
			continue
		}
		r.owned.revision = 0 // as in checkKey
		r.judge(kvs[0], resp.Header.GetRevision())
		if r.owned.trouble != errKeyChanged {
			return nil
		}
		found = kvs[0].ModRevision
	}
}

// claimBlindly puts the key for a user that may write it, but not read it.
func (r *registration) claimBlindly(ctx context.Context) error {
	revision, err := r.client.put(ctx, r.service, r.tenure.id)
	if err == nil {
		r.owned.put(revision)
	}
	return err
}

// watchKey watches the key from where it is known. Where that fails, the next
// heartbeat tries again.
func (r *registration) watchKey(ctx context.Context) {
	r.unwatchKey()
	r.owned.watch = r.client.keys.watch(ctx, r.key, r.owned.revision+1)
}

// changes is where the watch tells what becomes of the key; nil without one.
func (o *ownership) changes() <-chan keyChange {
	if o.watch == nil {
		return nil
	}
	return o.watch.changes
}

// unwatchKey ends the watch, if there is one.
func (r *registration) unwatchKey() {
	if r.owned.watch != nil {
		r.client.keys.end(r.owned.watch)
	}
	r.owned.watch, r.owned.blind = nil, false
}

// keyChanged notes what happened to the key, or that the watch has ended.
func (r *registration) keyChanged(c keyChange) {
	if c.err != nil {
		r.unwatchKey()
		return
	}
	r.judge(c.kv, c.revision)
	r.tell(r.owned.trouble)
}

// checkKey looks at the key after a time without a watch, and reports whether
// it could.
func (r *registration) checkKey(ctx context.Context) bool {
	if r.owned.blind {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, r.client.timeout)
	defer cancel()
	resp, err := r.client.get(ctx, r.key)
	if err != nil {
		r.owned.blind = errors.Is(err, rpctypes.ErrPermissionDenied)
		return false
	}
	var kv *mvccpb.KeyValue
	if len(resp.Kvs) > 0 {
		kv = resp.Kvs[0]
	}
	r.owned.revision = 0 // this is the truth, even if revisions start over
	r.judge(kv, resp.Header.GetRevision())
	return true
}
