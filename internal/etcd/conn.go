// Package etcd is one etcd, as it is asked. Each request is made until it is
// answered, at a pace that the answers set, by way of members that answer, with
// one token. It knows what errors mean, and when the connection was lost. It
// knows neither leases nor watches, and is given no state of a life.
package etcd

import (
	"context"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Config is what a Conn is made of.
type Config struct {
	Username, Password string
	Timeout            time.Duration  // how long a caller waits at most
	Metrics            *meter.Metrics // nil for none
}

// Conn is the connection to one etcd, which everything of a client shares. It is
// safe for concurrent use.
type Conn struct {
	Client  *clientv3.Client
	Timeout time.Duration
	Metrics *meter.Metrics

	// KV is where keys are read and written. If the KV of Client is wrapped, as by
	// clientv3/namespace, it is that one. Else it is a KV that repeats nothing by
	// itself.
	KV clientv3.KV

	// Leases is where leases are taken, nil if Client wraps its Lease otherwise than
	// by clientv3/namespace.
	Leases pb.LeaseClient

	// Writes is the queue of requests that change etcd, and Lists the queue of
	// requests whose answers are long.
	Writes, Lists *Queue

	ctx      context.Context // from Open to Close
	cancel   context.CancelFunc
	dialled  bool // with DialOptions, and so with members that can be picked
	plain    bool // neither KV nor Lease is wrapped
	tokens   *tokens
	members  *members
	pace     *pace
	link     *link
	alive    atomic.Int64 // when etcd last answered, in nanoseconds since 1970
	reasons  *reasons
	comparer *worker.Worker
	monitor  *worker.Worker
}

// NewConn returns a Conn that Open connects to a client.
func NewConn(config Config) *Conn {
	c := &Conn{Timeout: config.Timeout, Metrics: config.Metrics}
	if c.Metrics == nil {
		c.Metrics = meter.None
	}
	c.tokens = &tokens{conn: c, name: config.Username, password: config.Password}
	c.members = newMembers(c)
	c.pace = newPace()
	c.reasons = newReasons()
	c.Writes, c.Lists = newQueue(c.Metrics, c.reasons), newQueue(c.Metrics, c.reasons)
	c.link = &link{broken: make(chan struct{}), conns: map[*heardConn]struct{}{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// DialOptions returns the options with which a client is balanced over the members
// that answer, and has one token.
func (c *Conn) DialOptions() []grpc.DialOption {
	c.dialled = true
	return []grpc.DialOption{
		grpc.WithDisableServiceConfig(), // of clientv3's resolver: round_robin
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithChainUnaryInterceptor(c.unary),
		grpc.WithChainStreamInterceptor(c.stream),
	}
}

// Wrap counts what arrives on a connection that is being made in a handshake, and
// notes its end.
func (c *Conn) Wrap(handshake context.Context, raw net.Conn) net.Conn {
	name := memberOf(handshake)
	if name == "" {
		return raw
	}
	c.members.mu.Lock()
	bytes := &c.members.member(name).bytes
	c.members.mu.Unlock()
	h := &heardConn{Conn: raw, bytes: bytes, link: c.link, began: time.Now()}
	c.link.begins(h)
	return h
}

// Open begins to follow the connection of a client, until Close.
func (c *Conn) Open(cli *clientv3.Client) {
	c.Client, c.KV = cli, cli.KV
	c.heard(time.Now())
	conn := cli.ActiveConnection()
	if conn == nil {
		return
	}
	plain := Unwrapped(cli, cli.KV, clientv3.NewKV(cli))
	if plain {
		c.KV = clientv3.NewKVFromKVClient(pb.NewKVClient(eager{conn}), cli)
	}
	direct := Unwrapped(cli, cli.Lease, clientv3.NewLease(cli))
	if direct || Unwrapped(cli, cli.Lease, namespace.NewLease(cli.Lease, "")) { // which changes no id
		c.Leases = pb.NewLeaseClient(eager{conn})
	}
	c.plain = plain && direct
	c.monitor = worker.Start(c.ctx, func(ctx context.Context) { c.link.monitor(ctx, conn, !c.dialled) })
	if c.dialled && c.Members() > 1 {
		c.comparer = worker.Start(c.ctx, c.members.run)
	}
}

// eager has a request fail where there is nobody to send it to, with grpc's reason.
// clientv3 has it wait without one. Ask waits, and tells.
type eager struct{ *grpc.ClientConn }

func (e eager) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return e.ClientConn.Invoke(ctx, method, args, reply, append(opts, grpc.WaitForReady(false))...)
}

// Close ends what Open began, and returns when nothing of it is left.
func (c *Conn) Close() {
	c.cancel()
	c.tokens.close()
	for _, w := range []*worker.Worker{c.comparer, c.monitor} {
		if w != nil {
			w.Stop()
		}
	}
}

// Unwrapped reports whether what a connected client uses is of the kind that
// clientv3 makes for it.
func Unwrapped(cli *clientv3.Client, used, made any) bool {
	return cli.ActiveConnection() != nil && reflect.TypeOf(used) == reflect.TypeOf(made)
}

// Members returns how many endpoints there are.
func (c *Conn) Members() int { return max(1, len(c.Client.Endpoints())) }

// Alive returns when etcd last gave any answer.
func (c *Conn) Alive() time.Time { return time.Unix(0, c.alive.Load()) }

// Why returns why etcd gave no answer lately, nil if an answer came since. For
// work that waits for its turn, and was not sent, there is no other reason.
func (c *Conn) Why() error {
	_, why := c.reasons.now()
	return Explain(why)
}

// Compares reports whether members are compared. If they are, a silent member is
// left without the help of its users.
func (c *Conn) Compares() bool { return c.comparer != nil }

func (c *Conn) heard(now time.Time) {
	c.alive.Store(now.UnixNano())
	c.reasons.answered()
}

// unary is a client interceptor: it sends the token along, and once more with
// another one if etcd refuses it. A read that compares members does not wait
// for a token. The member that is to give one may be the silent one. etcd
// refuses a read without a token only after a quorum has confirmed the read.
func (c *Conn) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if c.tokens.name == "" || method == pb.Auth_Authenticate_FullMethodName {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if r, _ := ctx.Value(routeKey{}).(*Route); r.choosy() {
		return invoke(withToken(ctx, c.tokens.now()), method, req, reply, cc, opts...)
	}
	for {
		token, err := c.tokens.get(ctx, cc)
		if err != nil {
			return err
		}
		err = invoke(withToken(ctx, token), method, req, reply, cc, opts...)
		if !c.tokens.judge(token, err) {
			return err
		}
	}
}

// stream is a client interceptor that sends the token along. A stream ends when
// etcd refuses it, and is then opened anew: see TokenRefused.
func (c *Conn) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := c.tokens.get(ctx, cc)
	if err != nil {
		return nil, err
	}
	stream, err := open(withToken(ctx, token), desc, cc, method, opts...)
	if c.tokens.name == "" || err != nil {
		return stream, err
	}
	return tokenStream{stream, c.tokens, token}, nil
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// tokenStream hears what etcd says to the token of a stream.
type tokenStream struct {
	grpc.ClientStream
	tokens *tokens
	token  string
}

func (s tokenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	said := err
	if resp, ok := m.(*pb.WatchResponse); ok && err == nil && resp.Canceled {
		said = tokenError(resp.CancelReason)
	}
	s.tokens.judge(s.token, said)
	return err
}

// Plain reports whether keys and leases are etcd's own, and not those of a
// namespace that a client wraps around them.
func (c *Conn) Plain() bool { return c.plain }
