package etcdv3

import "slices"

// entries are the keys and values under a prefix, and the instances that
// follow from them: the values, sorted and each of them once. Changes cost no
// more than a chunk of the set, however large it is.
//
// It belongs to one goroutine. What instances returns is immutable and may be
// shared.
type entries struct {
	values   map[string]string // by key
	repeated map[string]int    // keys beyond the first, by value, where there are any
	sorted   instances
	loaded   []string // the values until sort, in the order of the keys, which is often theirs
}

// newEntries returns a set that holds nothing, with room for n keys.
func newEntries(n int) *entries {
	return &entries{values: make(map[string]string, n), repeated: map[string]int{}, loaded: make([]string, 0, n)}
}

// load puts a key while the set is being filled; sort makes it whole.
func (e *entries) load(key, value []byte) {
	both := string(key) + string(value) // one allocation for two strings
	e.values[both[:len(key)]] = both[len(key):]
	e.loaded = append(e.loaded, both[len(key):])
}

// sort derives the instances after the last load.
func (e *entries) sort() {
	all := e.loaded
	e.loaded = nil
	slices.Sort(all)
	unique := all[:0]
	for i, value := range all {
		if i > 0 && value == all[i-1] {
			e.repeated[value]++
			continue
		}
		unique = append(unique, value)
	}
	e.sorted = newInstances(unique)
}

// put applies a key that was written.
func (e *entries) put(key, value []byte) {
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

// delete applies a key that went away.
func (e *entries) delete(key []byte) {
	old, known := e.values[string(key)]
	if !known {
		return
	}
	delete(e.values, string(key))
	e.removeInstance(old)
}

func (e *entries) addInstance(value string) {
	with, added := e.sorted.with(value)
	if !added {
		e.repeated[value]++
	}
	e.sorted = with
}

func (e *entries) replaceInstance(old, value string) {
	if e.repeated[old] == 0 {
		if with, ok := e.sorted.replaced(old, value); ok {
			e.sorted = with
			return
		}
	}
	e.removeInstance(old)
	e.addInstance(value)
}

func (e *entries) removeInstance(value string) {
	if n := e.repeated[value]; n > 1 {
		e.repeated[value] = n - 1
		return
	} else if n == 1 {
		delete(e.repeated, value)
		return
	}
	e.sorted = e.sorted.without(value)
}
