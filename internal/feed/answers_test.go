package feed

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// tampering is a stream whose answers are not what etcd said.
type tampering struct {
	grpc.ClientStream
	tamper func(*pb.WatchResponse) []*pb.WatchResponse
	queue  []*pb.WatchResponse
}

func (s *tampering) RecvMsg(m any) error {
	resp := m.(*pb.WatchResponse)
	for len(s.queue) == 0 {
		one := &pb.WatchResponse{}
		if err := s.ClientStream.RecvMsg(one); err != nil {
			return err
		}
		s.queue = s.tamper(one)
	}
	next := s.queue[0]
	s.queue = s.queue[1:]
	resp.Header, resp.WatchId, resp.Created, resp.Canceled = next.Header, next.WatchId, next.Created, next.Canceled
	resp.CompactRevision, resp.CancelReason, resp.Events = next.CompactRevision, next.CancelReason, next.Events
	return nil
}

// tamperWith has each stream's answers go through a function of its own.
func tamperWith(perStream func() func(*pb.WatchResponse) []*pb.WatchResponse) func(*etcd.Config, *clientv3.Config) {
	return func(_ *etcd.Config, c *clientv3.Config) {
		c.DialOptions = append(c.DialOptions, grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := open(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, err
			}
			return &tampering{ClientStream: stream, tamper: perStream()}, nil
		}))
	}
}

func TestAnswersThatNoEtcdGives_EndTheStreamAlone(t *testing.T) {
	header := &pb.ResponseHeader{ClusterId: 1, Revision: 1}
	for name, nonsense := range map[string]*pb.WatchResponse{
		"created twice":       {Header: header, WatchId: 1, Created: true},
		"unknown created":     {Header: header, WatchId: 99, Created: true},
		"negative created":    {Header: header, WatchId: -7, Created: true},
		"refused, not asked":  {Header: header, WatchId: -1, Created: true, Canceled: true, CancelReason: "etcdserver: permission denied"},
		"no header":           {WatchId: 1, Created: true},
		"unknown cancelled":   {WatchId: 99, Canceled: true, CancelReason: "whatever"},
		"standing cancelled":  {WatchId: 1, Canceled: true, CancelReason: "whatever"},
		"cancelled, no words": {WatchId: 1, Canceled: true},
		"empty":               {},
		"unknown events":      {WatchId: 77, Events: nil, CompactRevision: 5},
	} {
		virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
			streams := 0
			hub := connect(t, e, tamperWith(func() func(*pb.WatchResponse) []*pb.WatchResponse {
				streams++
				first, created := streams == 1, 0
				return func(resp *pb.WatchResponse) []*pb.WatchResponse {
					if resp.Header != nil {
						header.ClusterId = resp.Header.ClusterId
					}
					if resp.Created {
						created++
					}
					if first && created == 3 {
						created++
						return []*pb.WatchResponse{resp, nonsense}
					}
					return []*pb.WatchResponse{resp}
				}
			}))
			var all []*follower
			for i := range 3 {
				all = append(all, follow(t, hub, prefixed(fmt.Sprintf("/%d/", i), 1)))
			}
			after(time.Minute)
			for i, f := range all {
				if f.last.Err != nil && !f.last.Resumable {
					t.Logf("%s: %d ended with %v", name, i, f.last.Err)
					continue
				}
				e.Put(fmt.Sprintf("/%d/a", i), "1")
				after(time.Second)
				if f.heard() != fmt.Sprintf("/%d/a=1", i) {
					t.Errorf("%s: %d heard %q, %v", name, i, f.heard(), f.errs)
				}
			}
			if streams > 3 {
				t.Errorf("%s: %d streams", name, streams)
			}
		})
	}
}

func TestServerThatNumbersByItself_IsAskedOneByOne(t *testing.T) {
	for name, number := range map[string]func(int64) int64{
		"from 0":   func(id int64) int64 { return id },
		"from 5":   func(id int64) int64 { return id + 5 },
		"by tens":  func(id int64) int64 { return 10 * id },
		"from 1":   func(id int64) int64 { return id + 1 },
		"backward": func(id int64) int64 { return 1000 - id },
	} {
		virtually(t, etcdtest.Config{}, func(t *testing.T, e *etcdtest.Etcd) {
			hub := connect(t, e, tamperWith(func() func(*pb.WatchResponse) []*pb.WatchResponse {
				return func(resp *pb.WatchResponse) []*pb.WatchResponse {
					if resp.WatchId >= 0 {
						resp.WatchId = number(resp.WatchId)
					}
					return []*pb.WatchResponse{resp}
				}
			}))
			var all []*follower
			for i := range 10 {
				all = append(all, follow(t, hub, prefixed(fmt.Sprintf("/%d/", i), 1)))
			}
			after(20 * time.Second)
			for i, f := range all {
				e.Put(fmt.Sprintf("/%d/a", i), "1")
				after(10 * time.Millisecond)
				if f.heard() != fmt.Sprintf("/%d/a=1", i) {
					t.Errorf("%s: %d heard %q, %v", name, i, f.heard(), f.errs)
				}
			}
			if n := e.Count("Watch"); n > 2 {
				t.Errorf("%s: %d streams", name, n)
			}
		})
	}
}
