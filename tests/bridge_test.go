package tests

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// bridge stands between clients and one member, over TCP, and breaks what
// passes. The framework's own needs unix sockets, whose names collide when
// clusters run in parallel.
type bridge struct {
	listener net.Listener
	target   string

	mu      sync.Mutex // guards all below
	conns   map[net.Conn]struct{}
	silent  chan struct{} // closed when bytes pass; nil when they always do
	refuses bool
	delay   time.Duration
	closed  bool
	running sync.WaitGroup
}

func newBridge(t testing.TB, memberURL string) *bridge {
	t.Helper()
	u, err := url.Parse(memberURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{listener: listener, target: u.Host, conns: map[net.Conn]struct{}{}}
	b.running.Add(1)
	go b.accept()
	t.Cleanup(func() {
		b.speak()
		// What is created later ends earlier: all clients have been told to.
		eventually(t, 10*time.Second, "all clients close their connections", func() bool { return b.connections() == 0 })
		b.close()
	})
	return b
}

// endpoint is what clients connect to.
func (b *bridge) endpoint() string { return b.listener.Addr().String() }

func (b *bridge) accept() {
	defer b.running.Done()
	for {
		in, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		refuses := b.refuses || b.closed
		b.mu.Unlock()
		if refuses {
			in.Close()
			continue
		}
		b.running.Add(1)
		go b.serve(in)
	}
}

func (b *bridge) serve(in net.Conn) {
	defer b.running.Done()
	b.pass()
	out, err := net.Dial("tcp", b.target)
	if err != nil {
		in.Close()
		return
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		in.Close()
		out.Close()
		return
	}
	b.conns[in], b.conns[out] = struct{}{}, struct{}{}
	b.mu.Unlock()
	var both sync.WaitGroup
	both.Add(2)
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			defer both.Done()
			b.copy(pair[0], pair[1])
			in.Close()
			out.Close()
		}()
	}
	both.Wait()
	b.mu.Lock()
	delete(b.conns, in)
	delete(b.conns, out)
	b.mu.Unlock()
}

func (b *bridge) copy(from io.Reader, to io.Writer) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		b.pass()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// pass waits while the bridge is silent, or slow.
func (b *bridge) pass() {
	b.mu.Lock()
	silent, delay := b.silent, b.delay
	b.mu.Unlock()
	if silent != nil {
		<-silent
	}
	time.Sleep(delay)
}

// silence lets nothing pass, without a word to either side, until speak.
func (b *bridge) silence() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.silent == nil {
		b.silent = make(chan struct{})
	}
}

func (b *bridge) speak() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.silent != nil {
		close(b.silent)
		b.silent = nil
	}
}

// slow delays everything.
func (b *bridge) slow(by time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delay = by
}

// connections are how many clients hold.
func (b *bridge) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns) / 2
}

// drop breaks all connections.
func (b *bridge) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.conns {
		conn.Close()
	}
}

// cut breaks all connections, and takes no new ones until mend.
func (b *bridge) cut() {
	b.mu.Lock()
	b.refuses = true
	b.mu.Unlock()
	b.drop()
}

func (b *bridge) mend() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuses = false
}

func (b *bridge) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.listener.Close()
	b.speak()
	b.drop()
	b.running.Wait()
}
