package etcdtest

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// socketBytes is what a direction of a connection holds before its writer
	// has to wait, as the buffers of a socket do.
	socketBytes = 256 << 10

	// packetBytes is what a link with a bandwidth delivers at one moment.
	packetBytes = 4 << 10

	// thawPause is the time between packets that were held, as they arrive. So a
	// request that its caller gave up meanwhile is carried out before the cancellation
	// arrives: the worst case. All packets together take thawMost at the most.
	thawPause = time.Millisecond
	thawMost  = 100 * time.Millisecond
)

// Link is what the connections to a member are like. The zero value takes no time.
type Link struct {
	RTT            time.Duration // a byte takes half of it in each direction
	BytesPerSecond int           // of each connection, in each direction; 0 is unlimited
	Drops          bool          // what is sent is lost, as by a proxy that connects all the same
}

// line is what all connections to a member share.
type line struct {
	held atomic.Bool // bytes stay where they are, in both directions
	link atomic.Pointer[Link]
}

// pipe is one direction of a connection. Bytes arrive in order, each when it is
// due, and none while the line is held.
type pipe struct {
	line *line

	mu     sync.Mutex // guards all below
	cond   sync.Cond
	queue  []packet
	size   int       // bytes in the queue
	free   time.Time // when the link has sent what was written before
	ended  bool      // the writer closed: the end follows the queue
	endDue time.Time // when the end arrives
	closed bool      // the reader closed
	read   deadline
	write  deadline
	timer  *time.Timer // for the packet that is due next
}

type packet struct {
	bytes []byte
	due   time.Time // zero for at once
}

func newPipe(l *line) *pipe {
	p := &pipe{line: l}
	p.cond.L = &p.mu
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, io.ErrClosedPipe
		case p.arrived():
			return p.take(b), nil
		case p.ended && len(p.queue) == 0 && p.isDue(p.endDue):
			return 0, io.EOF
		case p.read.over():
			return 0, os.ErrDeadlineExceeded
		}
		p.cond.Wait()
	}
}

// arrived reports whether there is something to read.
func (p *pipe) arrived() bool { return len(p.queue) > 0 && p.isDue(p.queue[0].due) }

// isDue reports whether a moment has come. If not, the reader is woken then.
func (p *pipe) isDue(due time.Time) bool {
	if due.IsZero() || p.line.held.Load() {
		return !p.line.held.Load()
	}
	wait := time.Until(due)
	if wait > 0 {
		p.wakeAfter(wait)
	}
	return wait <= 0
}

// thaw delivers what was held, one packet after another.
func (p *pipe) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, pause := time.Now(), min(thawPause, thawMost/time.Duration(len(p.queue)+1))
	for i := range p.queue {
		if p.queue[i].due.Before(at) {
			p.queue[i].due = at
		}
		at = p.queue[i].due.Add(pause)
	}
	if p.free.Before(at) {
		p.free = at
	}
	p.endDue = at
	p.cond.Broadcast()
}

func (p *pipe) wakeAfter(d time.Duration) {
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.wake)
		return
	}
	p.timer.Reset(d)
}

func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cond.Broadcast()
}

func (p *pipe) take(b []byte) int {
	n := copy(b, p.queue[0].bytes)
	if p.queue[0].bytes = p.queue[0].bytes[n:]; len(p.queue[0].bytes) == 0 {
		p.queue[0].bytes = nil
		if p.queue = p.queue[1:]; len(p.queue) == 0 {
			p.queue = nil
		}
	}
	if full := p.size >= socketBytes; full {
		p.cond.Broadcast()
	}
	p.size -= n
	return n
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.ended:
			return 0, io.ErrClosedPipe
		case p.closed && !p.line.held.Load():
			return 0, io.ErrClosedPipe
		case p.closed: // nobody will read it, and nobody could tell
			return len(b), nil
		case p.size < socketBytes:
			p.send(b)
			return len(b), nil
		case p.write.over():
			return 0, os.ErrDeadlineExceeded
		}
		p.cond.Wait()
	}
}

func (p *pipe) send(b []byte) {
	link := *p.line.link.Load()
	if link.Drops {
		return
	}
	whole := append([]byte(nil), b...)
	p.size += len(whole)
	if link.BytesPerSecond <= 0 {
		p.queue = append(p.queue, packet{whole, p.dueAfter(link, 0)})
		whole = nil
	}
	for len(whole) > 0 {
		n := min(len(whole), packetBytes)
		p.queue = append(p.queue, packet{whole[:n:n], p.dueAfter(link, n)})
		whole = whole[n:]
	}
	p.cond.Broadcast()
}

// dueAfter returns when the next n bytes arrive that are written now.
func (p *pipe) dueAfter(link Link, n int) time.Time {
	now := time.Now()
	if link == (Link{}) && !p.free.After(now) {
		return time.Time{}
	}
	if p.free.Before(now) {
		p.free = now
	}
	if n > 0 {
		p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(link.BytesPerSecond))
	}
	due := p.free.Add(link.RTT / 2)
	if last := len(p.queue) - 1; last >= 0 && p.queue[last].due.After(due) {
		return p.queue[last].due
	}
	return due
}

// end is the close of the writer: the reader finds the end after what was written.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended, p.endDue = true, p.dueAfter(*p.line.link.Load(), 0)
	p.write.clear()
	p.cond.Broadcast()
}

// stop is the close of the reader. What is on the way is lost.
func (p *pipe) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.queue, p.size = true, nil, 0
	p.read.clear()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.cond.Broadcast()
}

// deadline is one of a net.Conn.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) clear() { d.set(time.Time{}, nil) }

func (d *deadline) set(at time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), wake)
	}
}

func (p *pipe) setDeadline(d *deadline, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.set(at, p.wake)
	p.cond.Broadcast()
}
