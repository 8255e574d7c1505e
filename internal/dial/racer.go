package dial

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
)

const (
	// connectTimeout bounds one attempt of grpc to connect to an endpoint,
	// which takes three round trips with TLS. Those may take 2.5 s each. grpc's
	// default is 20 s.
	connectTimeout = 8 * time.Second

	// connectAgain is when an address that does not answer is tried once more
	// beside that. The system sends its packet again after 1 s, 3 s and 7 s: a link
	// that heals meanwhile would wait. To an etcd that is there it costs nothing.
	connectAgain = 2 * time.Second
	roundsMost   = int(connectTimeout / connectAgain)

	// firstByte is how long a connection may bring nothing at all: a process
	// that stands still takes connections, and says nothing on them.
	firstByte = 3500 * time.Millisecond

	// stagger is the wait before the next address of a name is tried beside those
	// under way. net.Dialer tries one address at a time and gives a silent one
	// two seconds: the third would come too late.
	stagger = 250 * time.Millisecond
)

// racer dials the addresses of a name side by side. The first that connects wins.
// When one fails, the next is tried at once.
type racer struct {
	lookup  func(ctx context.Context, host string) ([]net.IPAddr, error)
	connect func(ctx context.Context, network, address string) (net.Conn, error)
}

// newRacer returns a racer on the system's resolver and network. As with grpc's
// own dialer, TCP keep-alives are on and timed by the operating system.
func newRacer() racer {
	system := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}}
	return racer{lookup: net.DefaultResolver.LookupIPAddr, connect: system.DialContext}
}

// dial connects to an address as grpc has it: host:port, or a unix socket.
func (r racer) dial(ctx context.Context, address string) (net.Conn, error) {
	if path, ok := socket(address); ok {
		return r.connect(ctx, "unix", path)
	}
	addresses, err := r.addresses(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return r.first(ctx, addresses)
}

// socket returns the path of a unix socket, as grpc reads it.
func socket(address string) (path string, ok bool) {
	path, ok = strings.CutPrefix(address, "unix:")
	if !ok || !strings.HasPrefix(path, "/") {
		return path, ok
	}
	if u, err := url.Parse(address); err == nil && u.Path != "" {
		return u.Path, true
	}
	return strings.TrimPrefix(path, "//"), true
}

// addresses returns what to dial for host:port: every address of a name.
func (r racer) addresses(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return []string{address}, nil
	}
	all, err := r.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	addresses := make([]string, len(all))
	for i, ip := range all {
		addresses[i] = net.JoinHostPort(ip.String(), port)
	}
	return addresses, nil
}

// answer is the end of one attempt.
type answer struct {
	conn net.Conn
	err  error
}

// first returns the first connection, and closes all others. If every address
// fails, it returns the first error. Addresses that do not answer are tried
// again, all of them each time, within half of the time that there is.
func (r racer) first(ctx context.Context, addresses []string) (conn net.Conn, err error) {
	most := roundsMost * len(addresses)
	pause := min(stagger, connectAgain/2/time.Duration(len(addresses)), timeLeft(ctx)/2/time.Duration(len(addresses)))
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer, most)
	var attempts []*worker.Worker
	defer func() {
		cancel()
		for _, a := range attempts {
			<-a.Done()
		}
		close(answers)
		for late := range answers {
			if late.conn != nil {
				_ = late.conn.Close()
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	for failed := 0; ; {
		select {
		case <-next.C:
			address := addresses[len(attempts)%len(addresses)]
			attempts = append(attempts, worker.Start(ctx, func(ctx context.Context) {
				conn, err := r.connect(ctx, "tcp", address)
				answers <- answer{conn, err}
			}))
			switch n := len(attempts); {
			case n%len(addresses) > 0:
				next.Reset(pause)
			case n < most:
				next.Reset(connectAgain)
			}
		case a := <-answers:
			if a.err == nil {
				return a.conn, nil
			}
			if err == nil {
				err = a.err
			}
			if failed++; failed >= len(addresses) && failed == len(attempts) {
				return nil, err
			}
			if len(attempts)%len(addresses) > 0 {
				next.Reset(0)
			}
		}
	}
}

// timeLeft returns how long an attempt to connect may take.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return connectTimeout
}

// proxied reports whether the environment names a proxy for an endpoint. grpc
// then has to dial by itself: given a dialer, it ignores HTTPS_PROXY. The proxy
// is who resolves the name.
func proxied(endpoints []member) bool {
	for _, e := range endpoints {
		if _, unix := socket(e.address); unix {
			continue
		}
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: e.address}})
		if proxy != nil || err != nil {
			return true
		}
	}
	return false
}
