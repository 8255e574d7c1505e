package etcdtest

import (
	"context"
	"math"
	"path"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// bufferBytes is the size of the buffers of a connection.
const bufferBytes = 4 << 10

// newServer returns a gRPC server with the options and services of etcd's.
func newServer(m *Member, config Config) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.UnaryInterceptor(m.unary), grpc.StreamInterceptor(m.stream),
		grpc.MaxRecvMsgSize(maxRequestBytes + 512<<10), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.ReadBufferSize(bufferBytes), grpc.WriteBufferSize(bufferBytes),
		grpc.WaitForHandlers(true),
	}
	if config.MaxStreams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(config.MaxStreams))
	}
	s := grpc.NewServer(append(options, config.ServerOptions...)...)
	pb.RegisterKVServer(s, kvServer{Member: m})
	pb.RegisterLeaseServer(s, leaseServer{Member: m})
	pb.RegisterWatchServer(s, watchServer{Member: m})
	pb.RegisterAuthServer(s, authServer{Member: m})
	pb.RegisterClusterServer(s, clusterServer{Member: m})
	pb.RegisterMaintenanceServer(s, maintenanceServer{Member: m})
	return s
}

// unary is the way of a unary request through all that may happen to it.
func (m *Member) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method, now := path.Base(info.FullMethod), m.etcd.now()
	defer m.countStream(ctx)()
	if after, err := lateBy(now, m, method, req); after > 0 {
		m.etcd.journal.note(m, method)
		return nil, m.handleLate(ctx, req, handle, after, err)
	}
	if err := m.arrive(ctx, method, req); err != nil {
		return nil, err
	}
	if requiresLeader(ctx) && m.hasNoLeader() {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	if ctx.Err() != nil { // only a delay outlasts a caller
		ctx = detached(ctx)
	}
	resp, err := handle(ctx, req)
	if again := duration(now.Twice, m, method, req); again > 0 {
		m.handleAfter(ctx, req, handle, again)
	}
	m.delayAnswer(ctx, method, req)
	return resp, err
}

// arrive is the way of a request until it is carried out. It returns an error
// if it is not.
func (m *Member) arrive(ctx context.Context, method string, req any) error {
	m.etcd.journal.note(m, method)
	life := m.currentLife()
	if err := m.frozen.wait(ctx, m.etcd.closed); err != nil {
		return err
	}
	now := m.etcd.now()
	if now.Refuse != nil {
		if err := now.Refuse(m.index, method, req); err != nil {
			return err
		}
	}
	if d := duration(now.Delay, m, method, req); d > 0 && !m.etcd.sleep(d) || life != m.currentLife() {
		return rpctypes.ErrGRPCStopped
	}
	return nil
}

func (m *Member) delayAnswer(ctx context.Context, method string, req any) {
	if d := duration(m.etcd.now().DelayAnswer, m, method, req); d > 0 {
		m.etcd.sleepFor(ctx, d)
	}
}

func duration(hook func(int, string, any) time.Duration, m *Member, method string, req any) time.Duration {
	if hook == nil {
		return 0
	}
	return hook(m.index, method, req)
}

func lateBy(now *Settings, m *Member, method string, req any) (time.Duration, error) {
	if now.Late == nil {
		return 0, nil
	}
	return now.Late(m.index, method, req)
}

// handleLate answers a request at once, and carries it out afterwards.
func (m *Member) handleLate(ctx context.Context, req any, handle grpc.UnaryHandler, after time.Duration, err error) error {
	m.handleAfter(ctx, req, handle, after)
	if err != nil {
		return err
	}
	if c := connectionOf(ctx); c != nil {
		c.breakOff()
	}
	return status.Error(codes.Unavailable, "connection broken")
}

// handleAfter carries a request out later, with nobody who waits for the answer.
func (m *Member) handleAfter(ctx context.Context, req any, handle grpc.UnaryHandler, after time.Duration) {
	m.etcd.background(func() {
		if m.etcd.sleep(after) && m.isUp() {
			_, _ = handle(detached(ctx), req)
		}
	})
}

func connectionOf(ctx context.Context) *connection {
	if p, ok := peer.FromContext(ctx); ok {
		if a, ok := p.Addr.(clientAddress); ok {
			return a.of
		}
	}
	return nil
}

func (m *Member) countStream(ctx context.Context) (end func()) {
	if c := connectionOf(ctx); c != nil {
		return m.etcd.journal.stream(ctx, c)
	}
	return func() {}
}

func requiresLeader(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	sent := md.Get(rpctypes.MetadataRequireLeaderKey)
	return len(sent) > 0 && sent[0] == rpctypes.MetadataHasLeader
}

// stream is the way of a stream. Requests on it arrive one by one.
func (m *Member) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	defer m.countStream(stream.Context())()
	if err := m.arrive(stream.Context(), path.Base(info.FullMethod), nil); err != nil {
		return err
	}
	if !requiresLeader(stream.Context()) {
		return handle(server, stream)
	}
	needy, err := m.require(stream)
	if err != nil {
		return err
	}
	defer m.release(needy)
	return handle(server, needy)
}

// leaderless is a stream that ends when its member has no leader for a while.
type leaderless struct {
	grpc.ServerStream
	ctx context.Context
	end context.CancelCauseFunc
}

// Context returns a context whose error is why the stream was ended.
func (s *leaderless) Context() context.Context { return causeContext{s.ctx} }

type causeContext struct{ context.Context }

func (c causeContext) Err() error { return context.Cause(c.Context) }

func (m *Member) require(stream grpc.ServerStream) (*leaderless, error) {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	if m.alone {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	s := &leaderless{stream, ctx, cancel}
	m.bereaved[s] = true
	return s, nil
}

func (m *Member) release(s *leaderless) {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	delete(m.bereaved, s)
	s.end(nil)
}
