package tests

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// journal is a logger that can be read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) logger() log.Logger { return log.NewLogfmtLogger(j) }
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// count returns how many lines hold a text.
func (j *journal) count(text string) (n int) {
	for _, line := range strings.Split(j.String(), "\n") {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// beatCounter sees the heartbeats of a client on their way out.
type beatCounter struct {
	mu    sync.Mutex
	beats map[int64][]time.Time
	opens map[string]int
}

func (b *beatCounter) option() grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.opens == nil {
			b.opens, b.beats = map[string]int{}, map[int64][]time.Time{}
		}
		b.opens[method]++
		return countedStream{s, b}, err
	})
}

type countedStream struct {
	grpc.ClientStream
	counter *beatCounter
}

func (s countedStream) SendMsg(m any) error {
	if req, ok := m.(*pb.LeaseKeepAliveRequest); ok {
		s.counter.mu.Lock()
		s.counter.beats[req.ID] = append(s.counter.beats[req.ID], time.Now())
		s.counter.mu.Unlock()
	}
	return s.ClientStream.SendMsg(m)
}

// callCounter counts the calls of one method of etcd that a client makes.
type callCounter struct {
	method string
	calls  atomic.Int64
}

func (c *callCounter) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if strings.HasSuffix(method, c.method) {
			c.calls.Add(1)
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	})
}

func (c *callCounter) count() int { return int(c.calls.Load()) }
