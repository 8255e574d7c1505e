package etcdv3

import (
	"math"
	"slices"
	"strings"
)

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
	both := string(append(key[:len(key):len(key)], value...)) // one allocation for two strings
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

// chunkSize is about how many of n instances are in a chunk. A change copies
// one chunk, and the list of chunks: that is least when they are as long as each
// other. A chunk that has grown to twice the size is split.
func chunkSize(n int) int { return 16 + int(math.Sqrt(float64(n))) }

// instances is an immutable sorted set of strings, in chunks that successive
// versions of the set share.
type instances struct {
	chunks [][]string // none is empty
	len    int
}

// newInstances takes over a sorted slice without duplicates.
func newInstances(sorted []string) instances {
	set := instances{len: len(sorted)}
	for chunk := range slices.Chunk(sorted, chunkSize(len(sorted))) {
		set.chunks = append(set.chunks, chunk)
	}
	return set
}

// find returns the chunk, and the place in it, where value is or belongs.
func (s instances) find(value string) (chunk, place int, found bool) {
	chunk, found = slices.BinarySearchFunc(s.chunks, value, func(c []string, v string) int { return strings.Compare(c[0], v) })
	if found || len(s.chunks) == 0 {
		return chunk, 0, found
	}
	chunk = max(chunk-1, 0)
	place, found = slices.BinarySearch(s.chunks[chunk], value)
	return chunk, place, found
}

// with returns the set with value in it, and whether it was not in it before.
func (s instances) with(value string) (instances, bool) {
	chunk, place, found := s.find(value)
	if found {
		return s, false
	}
	if len(s.chunks) == 0 {
		return instances{chunks: [][]string{{value}}, len: 1}, true
	}
	old := s.chunks[chunk]
	grown := make([]string, 0, len(old)+1)
	grown = append(append(append(grown, old[:place]...), value), old[place:]...)
	if len(grown) < 2*chunkSize(s.len) {
		return s.replace(chunk, s.len+1, grown), true
	}
	half := len(grown) / 2
	return s.replace(chunk, s.len+1, grown[:half:half], grown[half:]), true
}

// without returns the set with value not in it.
func (s instances) without(value string) instances {
	chunk, place, found := s.find(value)
	if !found {
		return s
	}
	old := s.chunks[chunk]
	if len(old) == 1 {
		return s.replace(chunk, s.len-1)
	}
	shrunk := make([]string, 0, len(old)-1)
	return s.replace(chunk, s.len-1, append(append(shrunk, old[:place]...), old[place+1:]...))
}

// replaced returns the set with value in it, and old not, if both have their
// places in one chunk, which is then copied once.
func (s instances) replaced(old, value string) (instances, bool) {
	chunk, from, found := s.find(old)
	other, to, exists := s.find(value)
	if !found || exists || chunk != other {
		return s, false
	}
	changed := slices.Clone(s.chunks[chunk])
	if from < to {
		to--
		copy(changed[from:to], changed[from+1:])
	} else {
		copy(changed[to+1:from+1], changed[to:from])
	}
	changed[to] = value
	return s.replace(chunk, s.len, changed), true
}

// replace returns the set of the given length with other chunks in a chunk's place.
func (s instances) replace(chunk, length int, by ...[]string) instances {
	chunks := make([][]string, 0, len(s.chunks)+1)
	chunks = append(append(append(chunks, s.chunks[:chunk]...), by...), s.chunks[chunk+1:]...)
	return instances{chunks: chunks, len: length}
}

// strings returns the set as a slice that belongs to the caller. It is never nil.
func (s instances) strings() []string {
	all := make([]string, 0, s.len)
	for _, chunk := range s.chunks {
		all = append(all, chunk...)
	}
	return all
}

// equal reports whether two sets hold the same. Two versions of one set share
// most chunks, which makes it cheap.
func (s instances) equal(other instances) bool {
	if s.len != other.len {
		return false
	}
	var mine, theirs []string // what is left of the two chunks that are compared
	for i, j := 0, 0; ; {
		if len(mine) == 0 && len(theirs) == 0 && i < len(s.chunks) && j < len(other.chunks) &&
			len(s.chunks[i]) == len(other.chunks[j]) && &s.chunks[i][0] == &other.chunks[j][0] {
			i, j = i+1, j+1
			continue
		}
		if len(mine) == 0 {
			if i == len(s.chunks) {
				return true
			}
			mine, i = s.chunks[i], i+1
		}
		if len(theirs) == 0 {
			theirs, j = other.chunks[j], j+1
		}
		n := min(len(mine), len(theirs))
		if !slices.Equal(mine[:n], theirs[:n]) {
			return false
		}
		mine, theirs = mine[n:], theirs[n:]
	}
}
