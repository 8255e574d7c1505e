package etcdv3

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// virtualBeats is what heartbeats talk to: streams that answer after a delay,
// or not at all.
type virtualBeats struct {
	mu     sync.Mutex // guards all below
	delay  func(stream int) (d time.Duration, answered bool)
	opens  []time.Time
	sent   []time.Time
	stuck  bool // opening, or sending, takes for ever
	failed bool // opening fails
	lost   bool // the lease is not known
}

// virtualStream is one of them.
type virtualStream struct {
	beats   *virtualBeats
	number  int
	ctx     context.Context
	answers chan *pb.LeaseKeepAliveResponse
}

// answersAfter makes every stream answer after a delay.
func answersAfter(d time.Duration) func(int) (time.Duration, bool) {
	return func(int) (time.Duration, bool) { return d, true }
}

func isSilent(int) (time.Duration, bool) { return 0, false }

// heartbeat returns one on the double. It ends with the test.
func (b *virtualBeats) heartbeat(t *testing.T) *heartbeat {
	t.Helper()
	h := &heartbeat{open: b.open, leases: map[clientv3.LeaseID]*lease{}, wake: make(chan struct{}, 1)}
	h.worker = start(context.Background(), h.run)
	t.Cleanup(h.worker.stop)
	return h
}

func (b *virtualBeats) open(ctx context.Context) (beatStream, error) {
	b.mu.Lock()
	b.opens = append(b.opens, time.Now())
	s := &virtualStream{beats: b, number: len(b.opens), ctx: ctx, answers: make(chan *pb.LeaseKeepAliveResponse, 1000)}
	stuck, failed := b.stuck, b.failed
	b.mu.Unlock()
	if stuck {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if failed {
		return nil, errors.New("there is no etcd")
	}
	return s, nil
}

func (s *virtualStream) Send(in *pb.LeaseKeepAliveRequest) error {
	b := s.beats
	b.mu.Lock()
	b.sent = append(b.sent, time.Now())
	d, answered := b.delay(s.number)
	out := &pb.LeaseKeepAliveResponse{ID: in.ID, TTL: 10}
	if b.lost {
		out.TTL = 0
	}
	stuck := b.stuck
	b.mu.Unlock()
	if stuck {
		<-s.ctx.Done()
		return s.ctx.Err()
	}
	if answered {
		time.AfterFunc(d, func() { s.answers <- out })
	}
	return nil
}

func (s *virtualStream) Recv() (*pb.LeaseKeepAliveResponse, error) {
	select {
	case out := <-s.answers:
		return out, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// change changes the double, and opened and beaten count what it saw.
func (b *virtualBeats) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *virtualBeats) opened() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.opens)
}

func (b *virtualBeats) beaten() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sent)
}
