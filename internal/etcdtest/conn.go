package etcdtest

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one end of a connection between a client and a member.
type conn struct {
	in, out       *pipe
	local, remote net.Addr
	closing       sync.Once
	closed        func() // what the member does when it ends, nil at the client
}

func (c *conn) Read(b []byte) (int, error)         { return c.in.Read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.out.Write(b) }
func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return c.remote }
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(&c.in.read, t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setDeadline(&c.out.write, t); return nil }
func (c *conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.read, t)
	c.out.setDeadline(&c.out.write, t)
	return nil
}

func (c *conn) Close() error {
	c.in.stop()
	c.out.end()
	if c.closed != nil {
		c.closing.Do(c.closed)
	}
	return nil
}

// connection is both ends of one. Its address names the client's end, and so
// finds the connection of a request.
type connection struct {
	member         *Member
	client, server *conn

	streams map[context.Context]struct{} // guarded by the member's journal
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// clientAddress is where a member sees a client.
type clientAddress struct{ of *connection }

func (clientAddress) Network() string { return "tcp" }
func (clientAddress) String() string  { return "client" }

func newConnection(m *Member) *connection {
	up, down := newPipe(&m.line), newPipe(&m.line)
	c := &connection{member: m, streams: map[context.Context]struct{}{}}
	at := address(m.Address())
	c.client = &conn{in: down, out: up, local: address("client"), remote: at}
	c.server = &conn{in: up, out: down, local: at, remote: clientAddress{c}}
	c.server.closed = func() { m.forget(c) }
	return c
}

// breakOff ends a connection at both ends at once, with nothing delivered.
func (c *connection) breakOff() {
	c.client.in.stop()
	c.client.out.stop()
	c.client.out.end()
	c.server.out.end()
	c.server.Close()
}

func (c *connection) thaw() {
	c.client.in.thaw()
	c.client.out.thaw()
}

// listener hands a member's new connections to its gRPC server.
type listener struct {
	address address
	arrive  chan net.Conn
	closed  <-chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arrive:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.address }

var errRefused = os.NewSyscallError("connect", syscall.ECONNREFUSED)

func dialError(to string, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: address(to), Err: err}
}

// dial connects to an address, as the dialer of a client does.
func (e *Etcd) dial(ctx context.Context, to string) (net.Conn, error) {
	m := e.find(to)
	if m == nil {
		host, _, _ := net.SplitHostPort(to)
		return nil, dialError(to, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true})
	}
	if err := m.connectable(ctx); err != nil {
		return nil, dialError(to, err)
	}
	c, err := m.connect(ctx)
	if err != nil {
		return nil, dialError(to, err)
	}
	return c, nil
}

// connectable waits as long as the first packet of a connection takes.
func (m *Member) connectable(ctx context.Context) error {
	if err := m.silence.wait(ctx, m.etcd.closed); err != nil {
		return ctxOr(ctx, errRefused)
	}
	if rtt := m.line.link.Load().RTT; rtt > 0 {
		select {
		case <-time.After(rtt):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func ctxOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (m *Member) connect(ctx context.Context) (net.Conn, error) {
	c := newConnection(m)
	m.mu.Lock()
	if m.down || m.etcd.isClosed() {
		m.mu.Unlock()
		return nil, errRefused
	}
	m.connections[c] = struct{}{}
	m.mu.Unlock()
	select {
	case m.listener.arrive <- c.server:
		return c.client, nil
	case <-ctx.Done():
	case <-m.etcd.closed:
	}
	c.breakOff()
	return nil, ctxOr(ctx, errors.New("connection reset by peer"))
}
