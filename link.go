package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// link tells when a client has lost its last connection to etcd, and why it
// finds none. clientv3 resumes a watch behind that without a word, and cannot
// know whether the etcd that it resumes at is still the one that it lost.
type link struct {
	mu     sync.Mutex    // guards broken
	broken chan struct{} // closed, and replaced, at every loss
	cause  atomic.Value  // a string: why the last request found no connection
}

// note is a client interceptor. It keeps the reason that grpc gives when a
// request waits in vain for a connection, which clientv3 replaces by "context
// deadline exceeded".
func (l *link) note(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err == nil {
		if l.cause.Load() != "" {
			l.cause.Store("")
		}
	} else if _, cause, ok := strings.Cut(status.Convert(err).Message(), "latest balancer error: "); ok {
		l.cause.Store(cause)
	}
	return err
}

// explain adds to an error of etcd what to do about it, and why there is no
// connection if that is the matter.
func (l *link) explain(err error) error {
	cause, _ := l.cause.Load().(string)
	if cause != "" && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %s", explain(err), cause)
	}
	return explain(err)
}

func newLink() *link {
	l := &link{broken: make(chan struct{})}
	l.cause.Store("")
	return l
}

// lost returns a channel that is closed at the next loss.
func (l *link) lost() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// reconnectEvery is how often a connection that fails is tried again. grpc's own
// back-off grows to two minutes, for a client that somebody else configured.
const reconnectEvery = reconnectMax

// monitor follows the state of a connection until ctx ends. It tells everybody
// of a loss, and has grpc connect again soon.
func (l *link) monitor(ctx context.Context, conn *grpc.ClientConn) {
	for ctx.Err() == nil {
		state := conn.GetState()
		if state == connectivity.TransientFailure {
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

// announce tells everybody of a loss.
func (l *link) announce() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.broken)
	l.broken = make(chan struct{})
}
