package etcdtest

import (
	"bytes"
	"sort"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// firstCluster is the id of a new cluster. One that is wiped has the next.
const firstCluster = 0xcdf818194e3a8c32

// store is what the members share: keys in all their versions, and leases. It
// is guarded by the mutex of its Etcd.
type store struct {
	cluster   uint64
	term      uint64
	rev       int64
	compacted int64 // revisions below it are gone; -1 at first
	index     []*history
	byKey     map[string]*history
	log       []*mvccpb.Event // all that ever happened, in order
	lessor
}

// history is a key with its versions, oldest first. A version that is no
// version, 0, is a deletion.
type history struct {
	key      string
	versions []*mvccpb.KeyValue
}

func newStore(cluster uint64) *store {
	s := &store{cluster: cluster, term: 2, rev: 1, compacted: -1, byKey: map[string]*history{}}
	s.lessor.init()
	return s
}

// at returns the version of a revision, nil if the key was not there.
func (h *history) at(rev int64) *mvccpb.KeyValue {
	i := len(h.versions) - 1
	if i >= 0 && h.versions[i].ModRevision > rev {
		i = sort.Search(len(h.versions), func(i int) bool { return h.versions[i].ModRevision > rev }) - 1
	}
	if i < 0 || h.versions[i].Version == 0 {
		return nil
	}
	return h.versions[i]
}

// since returns the versions from a revision to another.
func (h *history) since(from, to int64) []*mvccpb.KeyValue {
	first := sort.Search(len(h.versions), func(i int) bool { return h.versions[i].ModRevision >= from })
	last := sort.Search(len(h.versions), func(i int) bool { return h.versions[i].ModRevision > to })
	return h.versions[first:last]
}

// keys returns the histories in a range of etcd's requests. If end is empty it
// is one key, and if it is a zero byte all from key on.
func (s *store) keys(key, end []byte) []*history {
	if len(end) == 0 {
		if h := s.byKey[string(key)]; h != nil {
			return []*history{h}
		}
		return nil
	}
	first := s.find(string(key))
	if isOpen(end) {
		return s.index[first:]
	}
	return s.index[first:max(first, s.find(string(end)))]
}

// find is the place of a key in the index.
func (s *store) find(key string) int {
	return sort.Search(len(s.index), func(i int) bool { return s.index[i].key >= key })
}

// isOpen reports whether a range's end means that it has none.
func isOpen(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// contains reports whether a key is in a range of etcd's requests.
func contains(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case isOpen(end):
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}

// change is a write under way. All of it has one revision.
type change struct {
	*store
	events []*mvccpb.Event
}

func (s *store) change() *change { return &change{store: s} }

// revision is that of the change if it changed something, else the last one.
func (c *change) revision() int64 {
	if len(c.events) > 0 {
		return c.rev + 1
	}
	return c.rev
}

func (c *change) get(key []byte) *mvccpb.KeyValue {
	if h := c.byKey[string(key)]; h != nil {
		return h.at(c.revision())
	}
	return nil
}

func (c *change) put(key, value []byte, lease int64) {
	rev := c.rev + 1
	kv := &mvccpb.KeyValue{Key: key, Value: value, Lease: lease, Version: 1, CreateRevision: rev, ModRevision: rev}
	if old := c.get(key); old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		c.detach(old)
	}
	c.add(kv)
	c.attach(kv)
	c.events = append(c.events, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv})
}

// delete removes the keys in a range and returns what they were.
func (c *change) delete(key, end []byte) (gone []*mvccpb.KeyValue) {
	for _, h := range c.keys(key, end) {
		if old := h.at(c.rev + 1); old != nil {
			gone = append(gone, old)
			c.detach(old)
			kv := &mvccpb.KeyValue{Key: old.Key, ModRevision: c.rev + 1}
			h.versions = append(h.versions, kv)
			c.events = append(c.events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv})
		}
	}
	return gone
}

// add appends a version to the history of its key.
func (s *store) add(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	h := s.byKey[key]
	if h == nil {
		h = &history{key: key}
		s.byKey[key] = h
		i := s.find(key)
		s.index = append(s.index, nil)
		copy(s.index[i+1:], s.index[i:])
		s.index[i] = h
	}
	h.versions = append(h.versions, kv)
}

// commit ends a change. It returns what happened in it.
func (c *change) commit() []*mvccpb.Event {
	c.rev = c.revision()
	c.log = append(c.log, c.events...)
	return c.events
}

// events returns what happened to a range from a revision to another.
func (s *store) events(key, end []byte, from, to int64) (all []*mvccpb.Event) {
	if len(end) == 0 {
		if h := s.byKey[string(key)]; h != nil {
			for _, kv := range h.since(from, to) {
				all = append(all, eventOf(kv))
			}
		}
		return all
	}
	first := sort.Search(len(s.log), func(i int) bool { return s.log[i].Kv.ModRevision >= from })
	for _, e := range s.log[first:] {
		if e.Kv.ModRevision > to {
			break
		}
		if contains(e.Kv.Key, key, end) {
			all = append(all, e)
		}
	}
	return all
}

func eventOf(kv *mvccpb.KeyValue) *mvccpb.Event {
	if kv.Version == 0 {
		return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv}
	}
	return &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv}
}
