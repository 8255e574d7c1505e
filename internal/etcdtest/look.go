package etcdtest

import (
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// KeyValue is a key as etcd holds it.
type KeyValue struct {
	Key, Value                           string
	Lease                                int64
	CreateRevision, ModRevision, Version int64
}

// Lease is one that is alive.
type Lease struct {
	ID     int64
	TTL    time.Duration
	Expiry time.Time
	Keys   []string // sorted
}

// Revision is that of the store.
func (e *Etcd) Revision() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.store.rev
}

// KeyValues are all keys with a prefix, sorted.
func (e *Etcd) KeyValues(prefix string) (all []KeyValue) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.store.under(prefix) {
		if kv := h.at(e.store.rev); kv != nil {
			all = append(all, keyValue(kv))
		}
	}
	return all
}

func (s *store) under(prefix string) []*history {
	if prefix == "" {
		return s.index
	}
	return s.keys([]byte(prefix), []byte(endOf(prefix)))
}

func keyValue(kv *mvccpb.KeyValue) KeyValue {
	return KeyValue{string(kv.Key), string(kv.Value), kv.Lease, kv.CreateRevision, kv.ModRevision, kv.Version}
}

// Keys are the keys with a prefix, sorted.
func (e *Etcd) Keys(prefix string) []string {
	all := []string{}
	for _, kv := range e.KeyValues(prefix) {
		all = append(all, kv.Key)
	}
	return all
}

// Values are the values of the keys with a prefix, in the order of the keys.
func (e *Etcd) Values(prefix string) []string {
	all := []string{}
	for _, kv := range e.KeyValues(prefix) {
		all = append(all, kv.Value)
	}
	return all
}

// CountKeys is how many keys there are with a prefix.
func (e *Etcd) CountKeys(prefix string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.store.under(prefix) {
		if h.at(e.store.rev) != nil {
			n++
		}
	}
	return n
}

// History is every version that a key ever had, oldest first. A deletion has
// the version 0.
func (e *Etcd) History(key string) (all []KeyValue) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.store.byKey[key]; h != nil {
		for _, kv := range h.versions {
			all = append(all, keyValue(kv))
		}
	}
	return all
}

// Leases are those that are alive, by id.
func (e *Etcd) Leases() (all []Lease) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(e.store.leases)) {
		l := e.store.leases[id]
		all = append(all, Lease{id, time.Duration(l.ttl) * time.Second, l.expiry, slices.Sorted(maps.Keys(l.keys))})
	}
	return all
}

// Pending is how many writes wait to be carried out.
func (e *Etcd) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.queue.pending()
}

// Put writes a key as somebody else would, at once. It returns the revision.
func (e *Etcd) Put(key, value string) int64 {
	return e.change(func(c *change) { c.put([]byte(key), []byte(value), 0) })
}

// PutAll writes keys as somebody else would, in one revision.
func (e *Etcd) PutAll(values map[string]string) int64 {
	return e.change(func(c *change) {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			c.put([]byte(key), []byte(values[key]), 0)
		}
	})
}

// Delete deletes a key as somebody else would, at once. It returns the revision.
func (e *Etcd) Delete(key string) int64 {
	return e.change(func(c *change) { c.delete([]byte(key), nil) })
}

// DeleteAll deletes all keys with a prefix as somebody else would.
func (e *Etcd) DeleteAll(prefix string) int64 {
	return e.change(func(c *change) { c.delete([]byte(prefix), []byte(endOf(prefix))) })
}

func (e *Etcd) change(do func(*change)) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.store.change()
	do(c)
	e.commit(c)
	return e.store.rev
}

// Revoke revokes a lease as somebody else would. It returns false if there is none.
func (e *Etcd) Revoke(id int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.store.leases[id]
	if l != nil {
		e.revoke(l)
	}
	return l != nil
}

// RevokeAll revokes all leases as somebody else would.
func (e *Etcd) RevokeAll() {
	for _, l := range e.Leases() {
		e.Revoke(l.ID)
	}
}
