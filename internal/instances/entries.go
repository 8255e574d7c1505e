package instances

import (
	"maps"
	"slices"
)

// Entries are the keys and values under a prefix, and the instances that follow
// from them: the values, sorted, each once. A change costs no more than a chunk
// of the set, however large the set is.
//
// Entries belong to one goroutine. The Set that they return is immutable and may
// be shared.
type Entries struct {
	values   map[string]string // by key
	repeated map[string]int    // keys beyond the first, by value, where there are any
	sorted   Set
	loaded   []string // the values until Sort, in the order of the keys: often sorted already
}

// mostRoom bounds the room that is made in advance: a count that no etcd would
// give must not end the process.
const mostRoom = 1 << 20

// NewEntries returns entries that hold nothing, with room for about n keys. A
// negative n counts as zero.
func NewEntries(n int) *Entries {
	n = min(max(n, 0), mostRoom)
	return &Entries{values: make(map[string]string, n), repeated: map[string]int{}, loaded: make([]string, 0, n)}
}

// Load adds a key while the entries are being filled. Sort makes the Set whole.
func (e *Entries) Load(key, value []byte) {
	both := string(key) + string(value) // one allocation for two strings
	e.values[both[:len(key)]] = both[len(key):]
	e.loaded = append(e.loaded, both[len(key):])
}

// Sort derives the Set after the last Load. It is called once, before any Put or
// Delete.
func (e *Entries) Sort() {
	all := e.loaded
	e.loaded = nil
	if len(all) != len(e.values) { // a key was loaded twice, which etcd never answers
		all = slices.Collect(maps.Values(e.values))
	}
	slices.Sort(all)
	unique := all[:0]
	for i, value := range all {
		if i > 0 && value == all[i-1] {
			e.repeated[value]++
			continue
		}
		unique = append(unique, value)
	}
	e.sorted = FromSorted(unique)
}

// Put applies a key that was written.
func (e *Entries) Put(key, value []byte) {
	old, known := e.values[string(key)]
	if known && old == string(value) {
		return
	}
	fresh := string(value)
	e.values[string(key)] = fresh
	if known {
		e.replaceInstance(old, fresh)
	} else {
		e.addInstance(fresh)
	}
}

// Delete applies a key that went away.
func (e *Entries) Delete(key []byte) {
	old, known := e.values[string(key)]
	if !known {
		return
	}
	delete(e.values, string(key))
	e.removeInstance(old)
}

// Set returns the instances as they are now.
func (e *Entries) Set() Set { return e.sorted }

// SameKeys reports whether both hold the same keys with the same values.
func (e *Entries) SameKeys(other *Entries) bool { return maps.Equal(e.values, other.values) }

func (e *Entries) addInstance(value string) {
	with, added := e.sorted.with(value)
	if !added {
		e.repeated[value]++
	}
	e.sorted = with
}

func (e *Entries) replaceInstance(old, value string) {
	if e.repeated[old] == 0 {
		if with, ok := e.sorted.replaced(old, value); ok {
			e.sorted = with
			return
		}
	}
	e.removeInstance(old)
	e.addInstance(value)
}

func (e *Entries) removeInstance(value string) {
	if n := e.repeated[value]; n > 1 {
		e.repeated[value] = n - 1
		return
	} else if n == 1 {
		delete(e.repeated, value)
		return
	}
	e.sorted = e.sorted.without(value)
}
