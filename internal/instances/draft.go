package instances

// A Draft is a copy of a set that nobody has got yet. It can become a copy of
// another version of the set; only what differs is copied then.
type Draft struct {
	set Set
	all []string
}

// WithRoom returns a draft of the set that has room for some more instances.
func (s Set) WithRoom() *Draft {
	return &Draft{set: s, all: s.appendTo(make([]string, 0, s.len+s.len/64))}
}

// Strings returns the copy. Become changes it, so whoever gives the copy away
// gives up the draft.
func (d *Draft) Strings() []string { return d.all }

// Become returns a copy of s in the memory of the draft. The draft is void then. If
// d is nil, or has no room, the copy has memory of its own.
func (d *Draft) Become(s Set) *Draft {
	if d == nil || cap(d.all) < s.len {
		return &Draft{set: s, all: s.Strings()}
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
	return &Draft{set: s, all: all}
}
