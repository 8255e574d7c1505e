package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3/internal/dial"
	"github.com/kitsd/etcdv3/internal/discovery"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/registration"
	"github.com/kitsd/etcdv3/internal/worker"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Client is what Registrar and Instancer need of etcd. It has these five methods
// for ever, so that programs may have doubles and wrappers of it. The Client that
// NewClient returns is safe for concurrent use: it registers any number of
// services and watches any number of prefixes at a time.
type Client interface {
	// GetEntries returns the values of all keys that begin with the prefix, in
	// the order of the keys. The prefix is plain bytes: "/s/foo" matches
	// "/s/foobar/1" too, and "/s/foo/" does not. An empty prefix matches
	// every key. If etcd has not answered within the request timeout
	// (ClientOptions.HeaderTimeoutPerRequest), the error wraps
	// context.DeadlineExceeded, and the reason if it is known.
	GetEntries(prefix string) ([]string, error)

	// WatchPrefix sends on ch once the watch of the prefix stands, and then
	// once for each change. While the receiver is busy, changes become one
	// signal. Upon each signal, call GetEntries for the whole set. WatchPrefix
	// blocks until the context of NewClient ends, whatever happens to etcd:
	// after an outage it goes on by itself. When etcd is out of reach, a signal
	// may come without a change: GetEntries then returns the error.
	WatchPrefix(prefix string, ch chan struct{})

	// Register publishes a service under a lease that is kept alive until
	// Deregister, or until the context of NewClient ends. A lease that is lost
	// is replaced, and a key that went away put back, without end. If this
	// client has registered the key already, the value is replaced without a
	// gap. If another client of this process has it, or another process, the
	// key is taken over.
	//
	// It returns ErrNoKey, ErrNoValue, or within the request timeout why etcd
	// could not be written to. Then nothing is registered by this call, and
	// nothing is tried again: see Registrar for that. An attempt without an
	// answer leaves no key behind. It leaves at worst a lease without a key,
	// until that lease's TTL is over.
	Register(s Service) error

	// Deregister removes a key that this client registered, and its lease. It
	// never removes what another owner has put there meanwhile. A key that
	// this client never registered is deleted as it is. A key that is not
	// there is no error. DeleteOptions of the service guard and widen this.
	//
	// It returns ErrNoKey, ErrCompareFailed, or within the request timeout why
	// etcd could not be written to. Then the lease is kept alive no more: the
	// key goes when etcd answers again, and after the lease's TTL at the
	// latest. A request that arrives late, or twice, brings no key back. A key
	// that this client never registered stays, since it may be a later owner's
	// by then.
	Deregister(s Service) error

	// LeaseID returns the lease of the service that was registered last. It is
	// 0 when there is no such service, or while its lease is lost.
	LeaseID() int64
}

// ClientOptions are the options of NewClient. All of them are optional. A
// duration that is zero or negative means the default, 3 s.
type ClientOptions struct {
	// Cert and Key are files with the certificate, and its key, that the
	// client authenticates with: set both, or neither. CACert is a file with the
	// certificates that the servers' are checked against; if it is empty, the
	// system's are used. Any of the three turns on TLS for all endpoints. The
	// files are in PEM form, and are read again at every handshake, so that they
	// can be rotated.
	Cert   string
	Key    string
	CACert string

	// DialTimeout bounds the wait of NewClient for a connection, if DialOptions
	// hold grpc.WithBlock. It bounds nothing else.
	DialTimeout time.Duration

	// DialKeepAlive is after how long without traffic grpc probes a connection.
	// Less than 10 s means 10 s there. A probe has 3 s to be answered.
	DialKeepAlive time.Duration

	// HeaderTimeoutPerRequest bounds how long a caller waits for etcd, in each
	// method of Client, Registrar and Instancer. What a Registrar or an
	// Instancer does in the background may wait longer for its answer.
	HeaderTimeoutPerRequest time.Duration

	// DialOptions are passed to grpc, after this package's own, and so prevail:
	// interceptors, stats handlers, or grpc.WithBlock, which makes NewClient
	// wait. Authentication works with interceptors of both kinds. Those with
	// Chain in their name (grpc.WithChainUnaryInterceptor) see the token among
	// the outgoing metadata: let them not log it. The others see no token.
	// Transport credentials among the options replace those of Cert, Key and
	// CACert. If there is any option, NewClient dials once more to find out
	// whether grpc.WithBlock is among them.
	DialOptions []grpc.DialOption

	// Username and Password authenticate with etcd. One without the other is an
	// error of NewClient. They are used once at the first request, and again
	// when etcd refuses the token that it gave for them.
	Username string
	Password string

	// Metrics are what the client counts for an operator. Nil means none.
	Metrics *Metrics
}

// client is the Client of this package.
type client struct {
	conn *etcd.Conn
	hub  *feed.Hub
	book *registration.Book
	ctx  context.Context // of NewClient: Client's methods have none
}

var errClientv3Closed = errors.New("the clientv3 client was closed")

// NewClient returns a Client for the etcd members at the given endpoints, each
// host:port, a URL, or a unix socket. It returns at once, and connects when it is
// first used. If DialOptions hold grpc.WithBlock, it returns when one endpoint is
// connected, or an error when none was within DialTimeout. Options that cannot
// work are an error at once, which names the field. A list of endpoints in one
// string is such an error; an empty endpoint among others is skipped.
//
// What clientv3 itself logs, to stderr, is discarded unless the environment
// variable ETCD_CLIENT_DEBUG is set, to a level as "warn".
//
// When ctx ends, everything that the client registered is deregistered within
// the request timeout, and its connections are closed. That is the only way to
// close a client. One client is enough for a process: services and prefixes
// share its connections, its token and its streams.
func NewClient(ctx context.Context, machines []string, options ClientOptions) (Client, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	conn := etcd.NewConn(etcd.Config{
		Username: options.Username, Password: options.Password,
		Timeout: dial.OrDefault(options.HeaderTimeoutPerRequest), Metrics: (*meter.Metrics)(options.Metrics),
	})
	cli, err := dial.Dial(ctx, machines, dial.Options{
		Cert: options.Cert, Key: options.Key, CACert: options.CACert,
		DialTimeout: options.DialTimeout, DialKeepAlive: options.DialKeepAlive,
		DialOptions: options.DialOptions, Username: options.Username, Password: options.Password,
	}, dial.Own{Options: conn.DialOptions(), Wrap: conn.Wrap})
	if err != nil {
		return nil, err
	}
	return newClient(ctx, conn, cli, cli.Close), nil
}

// NewClientFrom returns a Client on a clientv3 client that the caller has
// configured, and closes after ctx has ended. Of the options only
// HeaderTimeoutPerRequest and Metrics are read.
//
// A clientv3 client whose KV, Lease and Watcher are wrapped, as
// clientv3/namespace does, works. Close it after Deregister and Instancer.Stop: a
// namespace must not be closed while a watch of it begins.
//
// Set DialKeepAliveTime and DialKeepAliveTimeout in the configuration of cli,
// so that they add up to less than the TTL of what you register. Without them
// grpc does not notice a silent link. While there is no connection, grpc's
// back-off is cut short: what is registered comes back as soon as with
// NewClient.
//
// A client of NewClient has more: it compares its members, and leaves a silent
// member at once. It has one token, where clientv3 authenticates at each stream.
func NewClientFrom(ctx context.Context, cli *clientv3.Client, options ClientOptions) (Client, error) {
	if cli == nil || cli.KV == nil || cli.Lease == nil || cli.Watcher == nil || cli.Ctx() == nil {
		return nil, errors.New("cli is nil or has no KV, Lease or Watcher: make it with clientv3.New")
	}
	if cli.Ctx().Err() != nil {
		return nil, errClientv3Closed
	}
	if ctx == nil {
		ctx = context.Background()
	}
	conn := etcd.NewConn(etcd.Config{
		Timeout: dial.OrDefault(options.HeaderTimeoutPerRequest), Metrics: (*meter.Metrics)(options.Metrics),
	})
	return newClient(ctx, conn, cli, nil), nil
}

// newClient returns a client on a connection. At its end the client calls closeIt,
// if that is not nil.
func newClient(ctx context.Context, conn *etcd.Conn, cli *clientv3.Client, closeIt func() error) *client {
	ctx, cancel := context.WithCancelCause(ctx)
	meter.Begin(conn.Metrics, registration.Losses, etcd.Reasons)
	conn.Open(cli)
	hub := feed.New(conn)
	c := &client{conn: conn, hub: hub, book: registration.NewBook(ctx, conn, hub), ctx: ctx}
	unfollow := context.AfterFunc(cli.Ctx(), func() { cancel(errClientv3Closed) })
	context.AfterFunc(ctx, func() {
		unfollow()
		// Registrations release their leases first. Then the streams end, and the
		// connection.
		c.book.Close()
		c.hub.Close()
		c.conn.Close()
		if closeIt != nil {
			_ = closeIt()
		}
	})
	return c
}

// Format implements fmt.Formatter: a client is printed as its endpoints, so that
// no log holds a password.
func (c *client) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "etcdv3.Client(%s)", strings.Join(c.conn.Client.Endpoints(), ","))
}

// GetEntries implements Client.
func (c *client) GetEntries(prefix string) ([]string, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.conn.Timeout)
	defer cancel()
	values, err := discovery.Values(ctx, c.conn, prefix)
	return values, c.reason(err)
}

// WatchPrefix implements Client.
func (c *client) WatchPrefix(prefix string, ch chan struct{}) {
	pending := make(chan struct{}, 1)
	stands := false
	w := c.watchPrefix(prefix, log.NewNopLogger(), func(instances.Set) {
		stands = true
		worker.Poke(pending)
	}, func(error) {
		if stands {
			worker.Poke(pending)
		}
	})
	defer w.Stop()
	for {
		select {
		case <-pending:
		case <-c.ctx.Done():
			return
		}
		for sent := false; !sent; {
			select {
			case ch <- struct{}{}:
				sent = true
			case <-pending: // the receiver is busy: one signal for both
			case <-c.ctx.Done():
				return
			}
		}
	}
}

// watchPrefix starts the watch of a prefix, which its owner stops, and the
// client's context does.
func (c *client) watchPrefix(prefix string, logger log.Logger, update func(instances.Set), fail func(error)) *worker.Worker {
	return discovery.Watch(c.ctx, c.conn, c.hub, prefix, logger, update, fail)
}

// Register implements Client.
func (c *client) Register(s Service) error { return c.register(s, false, registration.Observer{}) }

// register registers a service. With keep it goes on trying until Deregister where
// Register returns an error. The observer hears of all that becomes of it.
func (c *client) register(s Service, keep bool, observe registration.Observer) error {
	if err := s.check(); err != nil {
		return err
	}
	every, ttl := s.TTL.timing()
	err := c.book.Register(registration.Service{Key: s.Key, Value: s.Value, Every: every, TTL: ttl}, keep, observe)
	if err != nil {
		return fmt.Errorf("register %q: %w", s.Key, c.reason(etcd.Explain(err)))
	}
	return nil
}

// Deregister implements Client.
func (c *client) Deregister(s Service) error {
	if s.Key == "" {
		return ErrNoKey
	}
	removal := registration.Removal{Key: s.Key}
	if o := s.DeleteOptions; o != nil {
		if o.PrevIndex > math.MaxInt64 {
			return fmt.Errorf("deregister %q: DeleteOptions.PrevIndex %d is no revision: they end at %d", s.Key, o.PrevIndex, int64(math.MaxInt64))
		}
		removal.PrevValue, removal.PrevRevision, removal.Recursive = o.PrevValue, int64(o.PrevIndex), o.Recursive
	}
	err := c.book.Deregister(removal)
	if found := (*registration.CompareError)(nil); errors.As(err, &found) {
		return fmt.Errorf("deregister %q: %w: %w", s.Key, ErrCompareFailed, err)
	}
	if err != nil {
		return fmt.Errorf("deregister %q: %w", s.Key, c.reason(etcd.Explain(err)))
	}
	return nil
}

// LeaseID implements Client.
func (c *client) LeaseID() int64 { return c.book.Lease() }

// reason replaces an error by why the client is closed, if it is.
func (c *client) reason(err error) error {
	if err == nil || c.ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", registration.ErrClosed, context.Cause(c.ctx))
}
