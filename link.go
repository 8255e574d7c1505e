package etcdv3

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// link tells when a client has lost its last connection to etcd. clientv3
// resumes a watch behind that without a word, and cannot know whether the etcd
// that it resumes at is still the one that it lost.
type link struct {
	mu     sync.Mutex    // guards broken
	broken chan struct{} // closed, and replaced, at every loss
}

func newLink() *link { return &link{broken: make(chan struct{})} }

// lost returns a channel that is closed at the next loss.
func (l *link) lost() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// monitor follows the state of a connection until ctx ends.
func (l *link) monitor(ctx context.Context, conn *grpc.ClientConn) {
	for {
		state := conn.GetState()
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
		if state == connectivity.Ready {
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
