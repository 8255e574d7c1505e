package etcdv3

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

const (
	defaultTimeout = 3 * time.Second

	// keepAliveTimeout is how long a ping on a silent connection waits for its
	// answer. grpc sends no ping more often than every 10 s, so a silent link
	// is found within 13 s; its own default of 20 s would make that 30.
	keepAliveTimeout = 3 * time.Second

	// reconnectMax bounds grpc's wait between attempts to connect, which is
	// two minutes by default, and connectTimeout one attempt, by default 20 s.
	reconnectMax   = 1500 * time.Millisecond
	connectTimeout = 3 * time.Second

	// noToken stands in for a token until the first request fetches one. etcd
	// refuses it, and clientv3 then authenticates and asks again.
	noToken = "not-authenticated-yet"
)

// dial returns a clientv3 client for the options. It does not wait for etcd,
// unless the dial options hold grpc.WithBlock.
func dial(ctx context.Context, machines []string, options ClientOptions, link *link) (*clientv3.Client, error) {
	endpoints, err := parseEndpoints(machines)
	if err != nil {
		return nil, err
	}
	transport, err := transportCredentials(endpoints, options)
	if err != nil {
		return nil, err
	}
	dialOptions := append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: backoffFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithChainUnaryInterceptor(link.note),
	}, options.DialOptions...)
	if len(options.DialOptions) > 0 {
		if err := probe(ctx, endpoints, orDefault(options.DialTimeout), dialOptions); err != nil {
			return nil, err
		}
	}
	return newClientv3(ctx, endpoints, options, dialOptions)
}

// newClientv3 constructs the clientv3 client. The user's context is not its
// context: the leases are revoked after the one ends and before the other does.
//
// clientv3.New authenticates, and so waits for etcd, when it is given a user
// and a password. With a token it does not; and it takes user and password
// afterwards, from the fields that it exports for them.
func newClientv3(ctx context.Context, endpoints []member, options ClientOptions, dialOptions []grpc.DialOption) (*clientv3.Client, error) {
	config := clientv3.Config{
		Context:              context.WithoutCancel(ctx),
		DialKeepAliveTime:    orDefault(options.DialKeepAlive),
		DialKeepAliveTimeout: keepAliveTimeout,
		DialOptions:          dialOptions,
	}
	if os.Getenv("ETCD_CLIENT_DEBUG") == "" {
		// clientv3 writes a line for every attempt that fails, to stderr. A
		// change of state is told once, to the loggers of this package.
		config.Logger = zap.NewNop()
	}
	for _, e := range endpoints {
		config.Endpoints = append(config.Endpoints, e.text)
	}
	authenticates := options.Username != "" && options.Password != ""
	if authenticates {
		config.Token = noToken
	}
	cli, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("create etcd client: %w", err)
	}
	if authenticates {
		cli.Token, cli.Username, cli.Password = "", options.Username, options.Password
	}
	return cli, nil
}

// orDefault is what a duration of ClientOptions means.
func orDefault(d time.Duration) time.Duration {
	if d <= 0 {
		return defaultTimeout
	}
	return d
}

// member is one endpoint of etcd, as the user wrote it and taken apart.
type member struct {
	text    string
	scheme  string // http, https, unix, unixs, or empty
	address string // what grpc dials
	host    string // what a certificate is checked against
}

func parseEndpoints(machines []string) ([]member, error) {
	if len(machines) == 0 {
		return nil, errors.New("machines is empty: give at least one etcd endpoint, as \"10.0.0.1:2379\"")
	}
	endpoints := make([]member, len(machines))
	for i, machine := range machines {
		e, err := parseEndpoint(strings.TrimSpace(machine))
		if err != nil {
			return nil, fmt.Errorf("machines[%d]: %w; give host:port, http://host:port or https://host:port", i, err)
		}
		endpoints[i] = e
	}
	return endpoints, nil
}

// parseEndpoint takes one endpoint apart. Its errors hold no part of an
// endpoint that could be a password.
func parseEndpoint(text string) (member, error) {
	if text == "" {
		return member{}, errors.New("the endpoint is empty")
	}
	if scheme, path, ok := strings.Cut(text, ":"); ok && (scheme == "unix" || scheme == "unixs") {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return member{}, errors.New("the endpoint is a unix socket without a path")
		}
		return member{text: text, scheme: scheme, address: "unix:" + path, host: path[strings.LastIndex(path, "/")+1:]}, nil
	}
	scheme, address := "", text
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		switch {
		case err != nil:
			return member{}, errors.New("the endpoint is not a URL that can be read")
		case u.User != nil:
			return member{}, errors.New("the endpoint holds a user: use ClientOptions.Username and Password")
		case u.Scheme != "http" && u.Scheme != "https":
			return member{}, fmt.Errorf("the endpoint's scheme %q is not known", u.Scheme)
		}
		scheme, address = u.Scheme, u.Host
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, " \t\r\n/@?#\\") {
		return member{}, errors.New("the endpoint is not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return member{}, errors.New("the endpoint's port is not a number from 1 to 65535")
	}
	return member{text: text, scheme: scheme, address: address, host: host}, nil
}

// transportCredentials decides between TLS and plaintext, once for all
// endpoints: one of them in the clear would give away what the others hide.
func transportCredentials(endpoints []member, options ClientOptions) (credentials.TransportCredentials, error) {
	wanted := options.CACert != "" || options.Cert != "" || options.Key != ""
	secure, plain := wanted, ""
	for _, e := range endpoints {
		switch e.scheme {
		case "https", "unixs":
			secure = true
		case "http":
			plain = e.address
		}
	}
	switch {
	case secure && plain != "" && wanted:
		return nil, fmt.Errorf("endpoint %q is http, but CACert, Cert or Key ask for TLS: write https, or leave the TLS options empty", plain)
	case secure && plain != "":
		return nil, fmt.Errorf("endpoint %q is http, but another one is https: use one scheme for all", plain)
	case !secure:
		return insecure.NewCredentials(), nil
	}
	files := tlsFiles{ca: options.CACert, cert: options.Cert, key: options.Key}
	if _, err := files.load(); err != nil {
		return nil, err
	}
	return &rotatingTLS{TransportCredentials: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), files: files}, nil
}

// tlsFiles name the files of ClientOptions that TLS is configured from.
type tlsFiles struct{ ca, cert, key string }

// load reads the files. Without a CA the system's roots are trusted.
func (f tlsFiles) load() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if (f.cert == "") != (f.key == "") {
		return nil, errors.New("the options Cert and Key belong together: set both, or neither")
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("option CACert: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if len(bytes.TrimSpace(pem)) == 0 || !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("option CACert: %s holds no certificate in PEM form", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("options Cert and Key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// rotatingTLS reads the certificate files again at every handshake, so that
// rotated ones are used without a restart. A handshake that meets files in the
// middle of their rotation fails, and grpc tries again.
type rotatingTLS struct {
	credentials.TransportCredentials
	files tlsFiles
}

func (r *rotatingTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := r.files.load()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

func (r *rotatingTLS) Clone() credentials.TransportCredentials {
	return &rotatingTLS{TransportCredentials: r.TransportCredentials.Clone(), files: r.files}
}

// probe waits until one endpoint is connected, if the dial options hold
// grpc.WithBlock: clientv3 ignores that one since 3.6. A dial option cannot be
// looked into, but DialContext still honours it.
func probe(ctx context.Context, endpoints []member, timeout time.Duration, dialOptions []grpc.DialOption) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	machines := manual.NewBuilderWithScheme("etcdv3")
	state := resolver.State{}
	for _, e := range endpoints {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: e.address, ServerName: e.host})
	}
	machines.InitialState(state)
	all := append([]grpc.DialOption{
		grpc.WithResolvers(machines),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
	}, dialOptions...)
	//lint:ignore SA1019 it is kept through all of grpc 1.x, and nothing else honours WithBlock
	conn, err := grpc.DialContext(ctx, machines.Scheme()+":///etcd", all...)
	if err != nil {
		return fmt.Errorf("no endpoint could be reached within DialTimeout (%v): %w", timeout, err)
	}
	return conn.Close()
}
