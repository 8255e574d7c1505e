// Package instances is the instances that follow from keys and values: sorted,
// each once, in immutable versions that share what is equal. It starts no
// goroutine and knows no etcd.
package instances

import (
	"math"
	"slices"
	"strings"
)

// chunkSize is about how many of n instances are in a chunk. A change copies one
// chunk and the list of chunks, which costs least when both are equally long. A
// chunk that has grown to twice the size is split.
func chunkSize(n int) int { return 16 + int(math.Sqrt(float64(n))) }

// A Set is an immutable sorted set of strings, in chunks that successive versions
// of the set share. Its zero value is the empty set.
type Set struct {
	chunks [][]string // none is empty
	len    int
}

// FromSorted takes over a sorted slice without duplicates.
func FromSorted(sorted []string) Set {
	set := Set{len: len(sorted)}
	for chunk := range slices.Chunk(sorted, chunkSize(len(sorted))) {
		set.chunks = append(set.chunks, chunk)
	}
	return set
}

// Len returns how many instances the set holds.
func (s Set) Len() int { return s.len }

// Strings returns the set as a slice that belongs to the caller. It is never nil.
func (s Set) Strings() []string {
	return s.appendTo(make([]string, 0, s.len))
}

func (s Set) appendTo(all []string) []string {
	for _, chunk := range s.chunks {
		all = append(all, chunk...)
	}
	return all
}

// Equal reports whether two sets hold the same. Two versions of one set share
// most chunks, so to compare them is cheap.
func (s Set) Equal(other Set) bool {
	if s.len != other.len {
		return false
	}
	var mine, theirs []string // what is left of the two chunks under comparison
	for i, j := 0, 0; ; {
		if len(mine) == 0 && len(theirs) == 0 && i < len(s.chunks) && j < len(other.chunks) &&
			sameChunk(s.chunks[i], other.chunks[j]) {
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

func sameChunk(a, b []string) bool { return len(a) == len(b) && &a[0] == &b[0] }

// find returns the chunk, and the place in the chunk, where value is or belongs.
func (s Set) find(value string) (chunk, place int, found bool) {
	chunk, found = slices.BinarySearchFunc(s.chunks, value, func(c []string, v string) int { return strings.Compare(c[0], v) })
	if found || len(s.chunks) == 0 {
		return chunk, 0, found
	}
	chunk = max(chunk-1, 0)
	place, found = slices.BinarySearch(s.chunks[chunk], value)
	return chunk, place, found
}

// with returns the set with value added, and whether value is new in it.
func (s Set) with(value string) (Set, bool) {
	chunk, place, found := s.find(value)
	if found {
		return s, false
	}
	if len(s.chunks) == 0 {
		return Set{chunks: [][]string{{value}}, len: 1}, true
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

// without returns the set with value removed.
func (s Set) without(value string) Set {
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

// replaced returns the set with value in the place of old, if both belong into one
// chunk: then that chunk is copied once.
func (s Set) replaced(old, value string) (Set, bool) {
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
func (s Set) replace(chunk, length int, by ...[]string) Set {
	chunks := make([][]string, 0, len(s.chunks)+1)
	chunks = append(append(append(chunks, s.chunks[:chunk]...), by...), s.chunks[chunk+1:]...)
	return Set{chunks: chunks, len: length}
}
