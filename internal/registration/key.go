package registration

import (
	"context"
	"errors"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/lease"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// key is what a registration knows of its key: a lease can live while the key is
// gone, or another's. A watch on the key tells, at no cost while nothing happens.
// It belongs to the goroutine of its registration.
type key struct {
	conn *etcd.Conn
	hub  *feed.Hub
	name string

	sent     bool        // a put may have left for etcd
	trouble  error       // why the key is not ours as it should be, nil if it is
	revision int64       // of the last put or check: what is older is history
	found    version     // what the next put replaces, as far as is known
	unsure   *version    // what a put has replaced, or has not: it got no answer; nil if there is none
	loose    loosePut    // the last that may be carried out late
	blind    time.Time   // until then, the user is taken for one who may not read the key
	watch    *feed.Watch // nil if there is none
}

// loosePut is a put that got no answer, of a key that was not there, or without a
// comparison. The former, carried out late, does nothing unless the key is not
// there again.
type loosePut struct {
	value string
	lease clientv3.LeaseID // 0 if there is none
}

// mayReturn reports whether an earlier value may be put under a lease by a
// request that is on its way. Another value needs another lease then.
func (k *key) mayReturn(l *lease.Lease, value string) bool {
	return l != nil && k.loose.lease == l.ID && k.loose.value != value
}

// version is one of a key, zero if the key is not there.
type version struct{ created, modified, number int64 }

func versionOf(kv *mvccpb.KeyValue) version {
	return version{kv.GetCreateRevision(), kv.GetModRevision(), kv.GetVersion()}
}

// next returns the version that a put makes at a revision.
func (v version) next(revision int64) version {
	if v == (version{}) {
		v.created = revision
	}
	return version{v.created, revision, v.number + 1}
}

// isTwoBefore reports whether a version was replaced more than once before a later
// one. A key that was not there was made after a revision.
func (v version) isTwoBefore(later version, after int64) bool {
	return later.number > v.number+1 &&
		(later.created == v.created || v.number == 0 && later.created > after)
}

// put puts the value under a lease. Every put compares the revision that it
// replaces: if a put arrives late, or twice, it does nothing. If another owner has
// the key, mayReplace says why it stays there, nil if it does not. It stays, too,
// if that owner may have written it after a put of ours that got no answer.
func (k *key) put(ctx context.Context, value string, l *lease.Lease, knows func(int64) bool, mayReplace func(int64) error) error {
	put := clientv3.OpPut(k.name, value, clientv3.WithLease(l.ID))
	replace := func(ctx context.Context, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
		guard := clientv3.Compare(clientv3.ModRevision(k.name), "=", k.found.modified)
		return k.conn.KV.Txn(ctx).If(guard).Then(then...).Else(clientv3.OpGet(k.name)).Commit()
	}
	for {
		k.sent = true
		givenUp := false // by etcd, which may have carried it out all the same: a read tells
		resp, err := etcd.Ask(ctx, k.conn, etcd.Writing, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			if givenUp {
				if resp, err := replace(ctx); err != nil || !resp.Succeeded {
					return resp, err
				}
			}
			resp, err := replace(ctx, put)
			givenUp = etcd.TimedOut(err)
			if mayBeLate(err) {
				replaced := k.found
				k.unsure = &replaced
				if k.found == (version{}) {
					k.loose = loosePut{value, l.ID}
				}
			}
			return resp, err
		})
		if errors.Is(err, rpctypes.ErrPermissionDenied) {
			return k.putBlindly(ctx, value, l)
		}
		if err != nil {
			return err
		}
		if resp.Succeeded {
			k.has(k.found.next(resp.Header.GetRevision()))
			return nil
		}
		kv := first(resp.Responses[0].GetResponseRange().GetKvs())
		if kv != nil && kv.Lease == int64(l.ID) && string(kv.Value) == value { // put before, without an answer
			k.has(versionOf(kv))
			return nil
		}
		if kv != nil && !knows(kv.Lease) {
			switch err := mayReplace(kv.Lease); {
			case err == ErrKeyTaken, err == nil && k.unsure != nil && k.unsure.isTwoBefore(versionOf(kv), l.Since()):
				err = ErrKeyTaken
				k.trouble, k.revision, k.unsure = err, resp.Header.GetRevision(), nil
				return nil
			case err != nil:
				return err
			}
		}
		k.found = versionOf(kv)
	}
}

// mayBeLate reports whether a put that ended with an error may be carried out yet,
// or was.
func mayBeLate(err error) bool {
	if err == nil || etcd.KindOf(err) == etcd.Refusal {
		return false
	}
	return etcd.KindOf(err) != etcd.Busy || etcd.TimedOut(err)
}

// putBlindly puts the key for a user that may write it, but not read it, and so
// not compare it either.
func (k *key) putBlindly(ctx context.Context, value string, l *lease.Lease) error {
	resp, err := etcd.Ask(ctx, k.conn, etcd.Writing, func(ctx context.Context) (*clientv3.PutResponse, error) {
		resp, err := k.conn.KV.Put(ctx, k.name, value, clientv3.WithLease(l.ID))
		if mayBeLate(err) {
			k.loose = loosePut{value, l.ID}
		}
		return resp, err
	})
	if err != nil {
		return err
	}
	k.has(k.found.next(resp.Header.GetRevision()))
	return nil
}

// has notes that the key is as it should be since a version.
func (k *key) has(v version) { k.trouble, k.revision, k.found, k.unsure = nil, v.modified, v, nil }

// check reads the key after a time without a watch.
func (k *key) check(ctx context.Context, judge func(kv *mvccpb.KeyValue) error) error {
	if k.isBlind() {
		return nil
	}
	resp, err := etcd.Ask(ctx, k.conn, etcd.Reading, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return k.conn.KV.Get(ctx, k.name)
	})
	if err != nil {
		k.refused(err)
		return err
	}
	kv := first(resp.Kvs)
	// A read counts even if its revision is lower: etcd's revisions may have
	// started over.
	k.trouble, k.revision, k.found = judge(kv), resp.Header.GetRevision(), versionOf(kv)
	return nil
}

// changed notes the last of some events, unless it is older than what is known.
func (k *key) changed(events []*mvccpb.Event, judge func(kv *mvccpb.KeyValue) error) {
	for _, e := range events {
		if e.Kv.GetModRevision() <= k.revision {
			continue
		}
		k.revision = e.Kv.ModRevision
		if e.Type == mvccpb.Event_DELETE {
			k.trouble, k.found = judge(nil), version{}
		} else {
			k.trouble, k.found = judge(e.Kv), versionOf(e.Kv)
		}
	}
}

// follow watches the key from where it is known. Where that fails, the next
// heartbeat tries again.
func (k *key) follow(ctx context.Context) {
	k.unfollow()
	k.watch = k.hub.Watch(context.WithoutCancel(ctx), feed.Interest{Key: k.name, From: k.revision})
}

func (k *key) unfollow() {
	if k.watch != nil {
		k.watch.End()
	}
	k.watch, k.blind = nil, time.Time{}
}

// refused notes that the user may not read the key, if an error says so. The role
// may be granted again: after a while the next heartbeat tries.
func (k *key) refused(err error) {
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		k.blind = time.Now().Add(refusedMax)
	}
}

func (k *key) isBlind() bool { return time.Now().Before(k.blind) }

// news is poked when there is something to take from the watch.
func (k *key) news() <-chan struct{} {
	if k.watch == nil {
		return nil
	}
	return k.watch.News()
}

// first returns the first of some keys, nil if there is none.
func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}
