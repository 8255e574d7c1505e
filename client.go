package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/log"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Client is what Registrar and Instancer need of etcd. It is exactly this for
// ever, so that programs may have doubles and wrappers of it. The one that
// NewClient returns is safe for concurrent use: it registers any number of
// services and watches any number of prefixes at a time.
type Client interface {
	// GetEntries returns the values of all keys that begin with the prefix, in
	// the order of the keys. The prefix is plain bytes: "/s/foo" matches
	// "/s/foobar/1" too, and "/s/foo/" does not. An empty prefix matches
	// every key. With etcd away it returns an error within the request
	// timeout (ClientOptions.HeaderTimeoutPerRequest).
	GetEntries(prefix string) ([]string, error)

	// WatchPrefix sends on ch once the watch of the prefix stands, and then
	// once for each change; while the receiver is busy, changes become one
	// signal. Upon each, call GetEntries for the whole set. It blocks until
	// the context of NewClient ends, whatever happens to etcd: after an
	// outage it goes on by itself. A signal without a change may come when
	// etcd is out of reach, so that GetEntries tells.
	WatchPrefix(prefix string, ch chan struct{})

	// Register publishes a service under a lease that is kept alive until
	// Deregister, or until the context of NewClient ends. A lease that is lost
	// is replaced, and a key that went away put back, without end. For a key
	// that is registered already it replaces the value without a gap; and it
	// takes over a key that another owner has.
	//
	// It returns ErrNoKey, ErrNoValue, or why etcd could not be written to,
	// within the request timeout; then nothing is registered by this call, and
	// it is not tried again: see Registrar for that.
	Register(s Service) error

	// Deregister removes a key that this client registered, and its lease. It
	// never removes what another owner has put there meanwhile. A key that
	// this client never registered is deleted as it is. A key that is not
	// there is no error. DeleteOptions of the service guard and widen this.
	//
	// It returns ErrNoKey, ErrCompareFailed, or why etcd could not be written
	// to, within the request timeout; then the lease is kept alive no more,
	// and ends the key by itself after its TTL.
	Deregister(s Service) error

	// LeaseID returns the lease of the service that was registered last, and 0
	// when there is none, or while it is lost.
	LeaseID() int64
}

// ClientOptions are the options of NewClient. All of them are optional. A
// duration that is zero or negative means the default, 3 s.
type ClientOptions struct {
	// Cert and Key are files with the certificate, and its key, that the
	// client authenticates with. CACert is a file with the certificates that
	// the servers' are checked against; the system's are used if it is empty.
	// Any of them turns on TLS for all endpoints. All are in PEM form, and are
	// read again at every handshake, so that they can be rotated.
	Cert   string
	Key    string
	CACert string

	// DialTimeout bounds the wait for a connection, if DialOptions hold
	// grpc.WithBlock. It bounds nothing else.
	DialTimeout time.Duration

	// DialKeepAlive is after how long without traffic a connection is probed.
	// grpc does so every 10 s at most. A probe has 3 s to be answered.
	DialKeepAlive time.Duration

	// HeaderTimeoutPerRequest bounds every request to etcd.
	HeaderTimeoutPerRequest time.Duration

	// DialOptions are passed to grpc, after this package's own, and so prevail:
	// interceptors (grpc.WithChainUnaryInterceptor and its like; the ones
	// without Chain replace clientv3's, and with them the authentication by
	// Username and Password), stats handlers, or grpc.WithBlock, which makes
	// NewClient wait. Transport credentials among them replace those of Cert,
	// Key and CACert. NewClient dials once more to find out whether they hold
	// grpc.WithBlock.
	DialOptions []grpc.DialOption

	// Username and Password authenticate with etcd, if both are set. They are
	// used at the first request, and whenever etcd wants them again.
	Username string
	Password string
}

// client is the Client of this package.
type client struct {
	cli       *clientv3.Client
	owned     bool            // cli is closed at the end
	ctx       context.Context // of NewClient: Client's methods have none
	cancel    context.CancelCauseFunc
	timeout   time.Duration // bounds every request
	link      *link
	monitor   *worker        // of the link, nil without a connection
	leases    pb.LeaseClient // takes leases with ids; nil if cli wraps its Lease
	heartbeat *heartbeat
	keys      *keyWatches

	mu            sync.Mutex // guards all below
	registrations map[string]*registration
	former        map[string][]clientv3.LeaseID // keys once registered, with the leases that could not be revoked
	latest        *registration
	closed        bool
}

var (
	errClosed         = errors.New("the client is closed")
	errClientv3Closed = errors.New("the clientv3 client was closed")
)

// NewClient returns a Client for the etcd members at the given endpoints, each
// host:port or a URL. It returns at once, and connects when it is first used,
// unless DialOptions hold grpc.WithBlock: then it returns when one endpoint is
// connected, or an error when none was within DialTimeout. Options that cannot
// work are an error at once that names the field.
//
// What clientv3 itself logs, to stderr, is discarded unless the environment
// variable ETCD_CLIENT_DEBUG is set, to a level as "warn".
//
// When ctx ends, everything that the client registered is deregistered within
// the request timeout, and its connections are closed. That is the only way to
// close a client.
func NewClient(ctx context.Context, machines []string, options ClientOptions) (Client, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	link := newLink()
	cli, err := dial(ctx, machines, options, link)
	if err != nil {
		return nil, err
	}
	return newClient(ctx, cli, link, true, options), nil
}

// NewClientFrom returns a Client on a clientv3 client that the caller has
// configured, and closes, after ctx has ended. One whose KV, Lease and Watcher
// are wrapped, by clientv3/namespace for example, works; close that one after
// Deregister and Instancer.Stop, since a namespace must not be closed while a
// watch of it begins. Of the options only HeaderTimeoutPerRequest is read.
//
// Set DialKeepAliveTime and DialKeepAliveTimeout in its configuration so that
// they add up to less than the TTL of what you register: grpc does not notice
// a silent link by itself. While it has no connection, grpc's back-off is cut
// short, so that what is registered comes back as soon as with NewClient.
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
	return newClient(ctx, cli, newLink(), false, options), nil
}

func newClient(ctx context.Context, cli *clientv3.Client, link *link, owned bool, options ClientOptions) *client {
	c := &client{
		cli: cli, owned: owned, timeout: orDefault(options.HeaderTimeoutPerRequest), link: link,
		registrations: map[string]*registration{}, former: map[string][]clientv3.LeaseID{},
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	background := context.WithoutCancel(ctx)
	if unwrapped(cli, cli.Lease, clientv3.NewLease(cli)) {
		c.leases = clientv3.RetryLeaseClient(cli)
	}
	c.heartbeat = newHeartbeat(background, cli)
	c.keys = newKeyWatches(background, cli)
	if conn := cli.ActiveConnection(); conn != nil {
		c.monitor = start(background, func(ctx context.Context) { c.link.monitor(ctx, conn) })
	}
	unfollow := context.AfterFunc(cli.Ctx(), func() { c.cancel(errClientv3Closed) })
	context.AfterFunc(c.ctx, func() {
		unfollow()
		c.close()
	})
	return c
}

// close ends everything in the order in which it depends on each other: the
// registrations, whose context has ended, release their leases; then the
// heartbeats end, and the connection.
func (c *client) close() {
	c.mu.Lock()
	c.closed = true
	var last []*registration
	for _, r := range c.registrations {
		last = append(last, r)
	}
	c.mu.Unlock()
	for _, r := range last {
		r.worker.stop()
	}
	c.keys.close()
	c.heartbeat.worker.stop()
	if c.monitor != nil {
		c.monitor.stop()
	}
	if c.owned {
		_ = c.cli.Close()
	}
}

// GetEntries implements Client.
func (c *client) GetEntries(prefix string) ([]string, error) {
	values := []string{}
	_, err := listPages(c.link, prefix, func(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
		ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
		defer cancel()
		return c.cli.KV.Get(ctx, key, opts...)
	}, func(page *clientv3.GetResponse, first bool) {
		if first {
			values = values[:0]
		}
		for _, kv := range page.Kvs {
			values = append(values, string(kv.Value))
		}
	})
	if err != nil {
		return nil, c.reason(err)
	}
	return values, nil
}

// WatchPrefix implements Client.
func (c *client) WatchPrefix(prefix string, ch chan struct{}) {
	pending := make(chan struct{}, 1)
	stands := false
	w := c.watchPrefix(prefix, log.NewNopLogger(), func(instances) {
		stands = true
		poke(pending)
	}, func(error) {
		if stands {
			poke(pending)
		}
	})
	defer w.stop()
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
func (c *client) watchPrefix(prefix string, logger log.Logger, update func(instances), fail func(error)) *worker {
	w := &watch{cli: c.cli, link: c.link, prefix: prefix, timeout: c.timeout, logger: logger, update: update, fail: fail}
	return start(c.ctx, w.run)
}

// LeaseID implements Client.
func (c *client) LeaseID() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.latest == nil {
		return 0
	}
	return c.latest.lease.Load()
}

// reason replaces an error by why the client is closed, if it is.
func (c *client) reason(err error) error {
	if c.ctx.Err() == nil || errors.Is(err, ErrCompareFailed) {
		return err
	}
	return fmt.Errorf("%w: %w", errClosed, context.Cause(c.ctx))
}
