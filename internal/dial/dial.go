// Package dial goes from options to a clientv3 client: endpoints, TLS, user,
// waiting. Its errors name the field of ClientOptions.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/kitsd/etcdv3/internal/worker"
)

// DefaultTimeout is what a duration of Options means if it is zero or negative.
const DefaultTimeout = 3 * time.Second

const (
	// keepAliveTimeout is how long a ping on a silent connection waits for its
	// answer. grpc sends a ping every 10 s at most, so a silent link is found
	// within 13 s. With grpc's own default of 20 s that would be 30.
	keepAliveTimeout = 3 * time.Second

	// reconnectMax bounds grpc's wait between attempts to connect, a fifth more with
	// jitter. By default grpc waits for up to two minutes. All is promised to be well
	// 5 s after etcd is back: an attempt may just have begun whose packets were lost,
	// and takes firstByte.
	reconnectMax = time.Second
)

// Options are the fields of ClientOptions that a connection is made from.
type Options struct {
	Cert          string
	Key           string
	CACert        string
	DialTimeout   time.Duration
	DialKeepAlive time.Duration
	DialOptions   []grpc.DialOption
	Username      string
	Password      string
}

// Format prints the options as fmt does, but hides the password.
func (o Options) Format(f fmt.State, verb rune) {
	type shown Options
	if o.Password != "" {
		o.Password = "(hidden)"
	}
	fmt.Fprintf(f, fmt.FormatString(f, verb), shown(o))
}

// Own is what the caller adds to each connection, beside the user's options.
type Own struct {
	// Options come after those of this package, and before the user's, which
	// prevail.
	Options []grpc.DialOption

	// Wrap returns what takes the place of a connection before its handshake:
	// under TLS it sees what is encrypted. The context is that of the handshake,
	// which tells the attributes of the address. If Wrap is nil, or the user's
	// DialOptions hold transport credentials, nothing is wrapped. If a handshake
	// fails, grpc may close conn instead of the wrapper.
	Wrap func(handshake context.Context, conn net.Conn) net.Conn
}

// Dial returns a clientv3 client for the options. It does not wait for etcd,
// unless the user's DialOptions hold grpc.WithBlock. User and password are only
// checked here: clientv3 gets neither, so Own.Options have to authenticate.
//
// The client's context is not ctx but keeps its values: work at the end needs the
// client after ctx has ended. Close ends it.
func Dial(ctx context.Context, machines []string, o Options, own Own) (*clientv3.Client, error) {
	return dialThrough(ctx, machines, o, own, newRacer())
}

// dialThrough is Dial with a resolver and a network of the caller's.
func dialThrough(ctx context.Context, machines []string, o Options, own Own, through racer) (*clientv3.Client, error) {
	endpoints, err := parseEndpoints(machines)
	if err != nil {
		return nil, err
	}
	if (o.Username == "") != (o.Password == "") {
		return nil, errors.New("the options Username and Password belong together: set both, or neither")
	}
	transport, err := transportCredentials(endpoints, o)
	if err != nil {
		return nil, err
	}
	link := link{credentials: wrapping{transport, guarded}, timeout: connectTimeout}
	if !proxied(endpoints) {
		link.dial = through.dial
	}
	if len(o.DialOptions) > 0 {
		if err := probe(ctx, endpoints, OrDefault(o.DialTimeout), link, o.DialOptions); err != nil {
			return nil, err
		}
	}
	if own.Wrap != nil {
		link.credentials = wrapping{link.credentials, own.Wrap}
	}
	all := append(append(link.options(), own.Options...), o.DialOptions...)
	return newClientv3(ctx, endpoints, OrDefault(o.DialKeepAlive), all)
}

// link is how connections are made.
type link struct {
	credentials credentials.TransportCredentials
	dial        func(ctx context.Context, address string) (net.Conn, error) // nil: as grpc does
	timeout     time.Duration                                               // of one attempt
}

func (l link) options() []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(l.credentials),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: worker.BackoffFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: l.timeout,
		}),
	}
	if l.dial != nil {
		options = append(options, grpc.WithContextDialer(l.dial))
	}
	return options
}

func newClientv3(ctx context.Context, endpoints []member, keepAlive time.Duration, options []grpc.DialOption) (*clientv3.Client, error) {
	config := clientv3.Config{
		Context:              context.WithoutCancel(ctx),
		DialKeepAliveTime:    keepAlive,
		DialKeepAliveTimeout: keepAliveTimeout,
		DialOptions:          options,
	}
	if os.Getenv("ETCD_CLIENT_DEBUG") == "" {
		// clientv3 writes a line to stderr for every attempt that fails. A change
		// of state is told once, to the loggers of this module.
		config.Logger = zap.NewNop()
	}
	for _, e := range endpoints {
		config.Endpoints = append(config.Endpoints, e.text)
	}
	cli, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("create etcd client: %w", err)
	}
	return cli, nil
}

// OrDefault returns what a duration of Options means.
func OrDefault(d time.Duration) time.Duration {
	if d <= 0 {
		return DefaultTimeout
	}
	return d
}
