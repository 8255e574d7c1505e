package dial

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// transportCredentials decides between TLS and plaintext, once for all
// endpoints: one of them in the clear would give away what the others hide.
func transportCredentials(endpoints []member, o Options) (credentials.TransportCredentials, error) {
	wanted := o.CACert != "" || o.Cert != "" || o.Key != ""
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
	files := tlsFiles{ca: o.CACert, cert: o.Cert, key: o.Key}
	if _, err := files.load(); err != nil {
		return nil, err
	}
	return &rotatingTLS{TransportCredentials: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), files: files}, nil
}

// tlsFiles name the files of Options that TLS is configured from.
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

// rotatingTLS reads the certificate files again at every handshake, so rotated
// ones are used without a restart. If a handshake meets files in the middle of
// their rotation, it fails and grpc tries again.
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

// wrapping puts something around each connection before its handshake.
type wrapping struct {
	credentials.TransportCredentials
	wrap func(handshake context.Context, conn net.Conn) net.Conn
}

func (w wrapping) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return w.TransportCredentials.ClientHandshake(ctx, authority, w.wrap(ctx, conn))
}

func (w wrapping) Clone() credentials.TransportCredentials {
	return wrapping{w.TransportCredentials.Clone(), w.wrap}
}

// guarded closes a connection that brings nothing for firstByte.
func guarded(_ context.Context, conn net.Conn) net.Conn {
	return guardedConn{conn, time.AfterFunc(firstByte, func() { _ = conn.Close() })}
}

type guardedConn struct {
	net.Conn
	late *time.Timer
}

func (g guardedConn) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if n > 0 {
		g.late.Stop()
	}
	return n, err
}

func (g guardedConn) Close() error {
	g.late.Stop()
	return g.Conn.Close()
}
