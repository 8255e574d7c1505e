package etcdv3

import (
	"math"
	"slices"
	"strings"
)

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
	return s.appendTo(make([]string, 0, s.len))
}

func (s instances) appendTo(all []string) []string {
	for _, chunk := range s.chunks {
		all = append(all, chunk...)
	}
	return all
}

// draft is a copy of a set that nobody has got yet. It can become a copy of
// another version of the set, for no more than what is different there.
type draft struct {
	set instances
	all []string
}

// become returns the draft as a copy of s, or a new one: there was none, or it
// has no room.
func (d *draft) become(s instances) *draft {
	if d == nil || cap(d.all) < s.len {
		return &draft{set: s, all: s.strings()}
	}
	from, to := d.set.chunks, s.chunks
	head, tail := 0, 0 // instances in the chunks that both begin, and end, with
	for len(from) > 0 && len(to) > 0 && sameChunk(from[0], to[0]) {
		head += len(to[0])
		from, to = from[1:], to[1:]
	}
	for len(from) > 0 && len(to) > 0 && sameChunk(from[len(from)-1], to[len(to)-1]) {
		tail += len(to[len(to)-1])
		from, to = from[:len(from)-1], to[:len(to)-1]
	}
	all := d.all[:max(len(d.all), s.len)]
	copy(all[s.len-tail:], d.all[len(d.all)-tail:])
	clear(all[s.len:])
	all = all[:s.len]
	for _, chunk := range to {
		head += copy(all[head:], chunk)
	}
	return &draft{set: s, all: all}
}

// withRoom returns a draft of s that has room for some more.
func (s instances) withRoom() *draft {
	return &draft{set: s, all: s.appendTo(make([]string, 0, s.len+s.len/64))}
}

func sameChunk(a, b []string) bool { return len(a) == len(b) && &a[0] == &b[0] }

// equal reports whether two sets hold the same. Two versions of one set share
// most chunks, which makes it cheap.
func (s instances) equal(other instances) bool {
	if s.len != other.len {
		return false
	}
	var mine, theirs []string // what is left of the two chunks that are compared
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
