package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// link tells when a client has lost its last connection to etcd. A watch must
// know: it may be another etcd that answers next.
type link struct {
	mu     sync.Mutex              // guards all below
	broken chan struct{}           // closed, and replaced, at every loss
	conns  map[*heardConn]struct{} // that are there, or being made
}

// youngFor is how long a connection may lead to another etcd than the others did.
// Who restarts the members of one etcd in turn takes longer for each.
const youngFor = time.Second

// begins notes a connection.
func (l *link) begins(c *heardConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
}

// ends notes that a connection has ended. If it was the last but for young ones, that
// is a loss, too: nothing says that those lead to the same etcd.
func (l *link) ends(c *heardConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, is := l.conns[c]; !is {
		return
	}
	delete(l.conns, c)
	young := func(c *heardConn) bool { return time.Since(c.began) < youngFor }
	if young(c) || c.read.Load() == 0 {
		return
	}
	for other := range l.conns {
		if !young(other) {
			return
		}
	}
	if len(l.conns) > 0 { // else monitor tells
		l.tell()
	}
}

// Lost returns a channel that is closed when the last connection is lost next.
func (c *Conn) Lost() <-chan struct{} {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.link.broken
}

// reconnectEvery is how often a connection that fails is tried again. The back-off
// of a client that somebody else configured grows to two minutes.
const reconnectEvery = 1500 * time.Millisecond

// monitor follows the state of a connection until ctx ends. It tells everybody
// of a loss. A client of our own connects again soon by itself; another one is
// hurried. To hurry it, grpc 1.85 reads a map without its lock. That can end a
// process whose connection goes idle at that moment.
func (l *link) monitor(ctx context.Context, conn *grpc.ClientConn, hurry bool) {
	for ctx.Err() == nil {
		state := conn.GetState()
		if hurry && state == connectivity.TransientFailure {
			soon, cancel := context.WithTimeout(ctx, reconnectEvery)
			if !conn.WaitForStateChange(soon, state) {
				conn.ResetConnectBackoff()
			}
			cancel()
			continue
		}
		if conn.WaitForStateChange(ctx, state) && state == connectivity.Ready {
			l.announce()
		}
	}
}

func (l *link) announce() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell()
}

// tell does so. l.mu is held.
func (l *link) tell() {
	close(l.broken)
	l.broken = make(chan struct{})
}

// connected waits until there is a connection, for no longer than a time. It
// asks nobody, and so costs etcd nothing.
func (c *Conn) connected(ctx context.Context, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	conn := c.Client.ActiveConnection()
	if conn == nil {
		<-ctx.Done()
		return
	}
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return
		}
		if state == connectivity.Idle {
			conn.Connect()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// errConnecting says that no answer could come.
var errConnecting = errors.New("there is no connection to etcd yet: no endpoint answers, or its name is not resolved")

func (c *Conn) isConnected() bool {
	conn := c.Client.ActiveConnection()
	return conn == nil || conn.GetState() == connectivity.Ready
}
