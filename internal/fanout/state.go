package fanout

import (
	"github.com/go-kit/kit/sd"

	"github.com/kitsd/etcdv3/internal/instances"
)

// state is what is known: the last set, if there ever was one, and why that set
// may be stale, if it may.
type state struct {
	set     instances.Set
	known   bool
	err     error
	version int // counts the states
}

// event is the state as go-kit passes it on: a set or an error, never both.
func (s state) event() sd.Event {
	if s.err != nil || !s.known {
		return sd.Event{Err: s.err}
	}
	return sd.Event{Instances: s.set.Strings()}
}

// same reports whether a subscriber that saw one state would learn nothing from
// the other.
func (s state) same(other state) bool {
	if s.err != nil || other.err != nil {
		return s.err != nil && other.err != nil && s.err.Error() == other.err.Error()
	}
	return s.known == other.known && s.set.Equal(other.set)
}

// after returns what a subscriber gets next, given the last state that it saw,
// or nil if there is no news. An error comes after the set that it may make
// stale. If that set was never seen, the set comes first, as a state of its
// own.
func (s state) after(seen *state) *state {
	if s.err != nil && s.known && (seen == nil || !seen.known || !seen.set.Equal(s.set)) {
		return &state{set: s.set, known: true, version: s.version - 1}
	}
	if seen != nil && s.same(*seen) {
		return nil
	}
	return &s
}
