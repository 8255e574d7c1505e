package etcdtest

import (
	"context"
	"sync"
	"time"
)

// journal is what arrived at a cluster, and when.
type journal struct {
	mu          sync.Mutex
	arrivals    map[string][]arrival
	rangeBytes  int64
	mostStreams int
}

// arrival is kept small: an hour of a fleet has millions.
type arrival struct {
	at     int64 // nanoseconds since 1970
	member int32
}

func (j *journal) init() { j.arrivals = map[string][]arrival{} }

func (j *journal) note(m *Member, method string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.arrivals[method] = append(j.arrivals[method], arrival{time.Now().UnixNano(), int32(m.index)})
}

func (j *journal) wrote(bytes int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rangeBytes += int64(bytes)
}

// stream counts one more on a connection, until the function that it returns is
// called or ctx ends.
func (j *journal) stream(ctx context.Context, c *connection) (end func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for other := range c.streams {
		if other.Err() != nil {
			delete(c.streams, other)
		}
	}
	c.streams[ctx] = struct{}{}
	j.mostStreams = max(j.mostStreams, len(c.streams))
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(c.streams, ctx)
	}
}

// Count is how many requests of a method arrived since the start or the last
// [Etcd.Forget], refused ones included. See [Settings] for the names.
func (e *Etcd) Count(method string) int {
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	return len(e.journal.arrivals[method])
}

// Counts are the counts of all methods.
func (e *Etcd) Counts() map[string]int {
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	all := make(map[string]int, len(e.journal.arrivals))
	for method, arrivals := range e.journal.arrivals {
		all[method] = len(arrivals)
	}
	return all
}

// Times are the moments at which the requests of a method arrived.
func (e *Etcd) Times(method string) []time.Time {
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	all := make([]time.Time, len(e.journal.arrivals[method]))
	for i, a := range e.journal.arrivals[method] {
		all[i] = time.Unix(0, a.at)
	}
	return all
}

// Forget starts all counts over.
func (e *Etcd) Forget() {
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	e.journal.init()
	e.journal.rangeBytes, e.journal.mostStreams = 0, 0
}

// RangeBytes is the size of all answers to Range together.
func (e *Etcd) RangeBytes() int64 {
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	return e.journal.rangeBytes
}

// MostStreams is the largest number of streams that a connection had at one
// time, unary requests included.
func (e *Etcd) MostStreams() int {
	e.journal.mu.Lock()
	defer e.journal.mu.Unlock()
	return e.journal.mostStreams
}

// Connections is how many are open now.
func (e *Etcd) Connections() (n int) {
	for _, m := range e.members {
		n += m.Connections()
	}
	return n
}

// Count is how many requests of a method arrived at this member.
func (m *Member) Count(method string) (n int) {
	j := &m.etcd.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, a := range j.arrivals[method] {
		if a.member == int32(m.index) {
			n++
		}
	}
	return n
}
