package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("connection refused")

// network is a resolver and a network in memory.
type network struct {
	addresses []string                 // of each name
	answers   map[string]time.Duration // after how long an address connects; others are silent
	refuses   map[string]bool          // at once

	mu      sync.Mutex // guards all below
	started []string   // in order, each with the time since the network began
	began   time.Time
	pending int // attempts under way
	open    int // connections that nobody has closed
}

// counted is a connection that tells when it is closed.
type counted struct {
	net.Conn
	name  string
	close func()
}

func (c counted) Close() error {
	c.close()
	return nil
}

func (n *network) racer() racer {
	n.began = time.Now()
	return racer{
		lookup: func(context.Context, string) (all []net.IPAddr, err error) {
			for _, a := range n.addresses {
				all = append(all, net.IPAddr{IP: net.ParseIP(a)})
			}
			return all, nil
		},
		connect: n.connect,
	}
}

func (n *network) count(pending, open int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending += pending
	n.open += open
}

func (n *network) connect(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.started = append(n.started, fmt.Sprint(address, " ", time.Since(n.began)))
	n.mu.Unlock()
	n.count(1, 0)
	defer n.count(-1, 0)
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if n.refuses[host] {
		return nil, fmt.Errorf("dial %s %s: %w", network, address, errRefused)
	}
	var connected <-chan time.Time
	if after, ok := n.answers[host]; ok {
		connected = time.After(after)
	}
	select {
	case <-connected:
		n.count(0, 1)
		return counted{name: address, close: func() { n.count(0, -1) }}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// left fails unless the given number of connections is open and no attempt under way.
func (n *network) left(t *testing.T, open int) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pending != 0 || n.open != open {
		t.Errorf("%d attempts are under way and %d connections open, want none and %d", n.pending, n.open, open)
	}
}

func TestRacer(t *testing.T) {
	for name, test := range map[string]struct {
		network *network
		address string
		winner  string // empty if none
		took    time.Duration
		started []string
	}{
		"two of three are silent": {
			&network{addresses: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, answers: map[string]time.Duration{"10.0.0.3": 30 * time.Millisecond}},
			"etcd:2379", "10.0.0.3:2379", 530 * time.Millisecond,
			[]string{"10.0.0.1:2379 0s", "10.0.0.2:2379 250ms", "10.0.0.3:2379 500ms"},
		},
		"the first answers late, but first": {
			&network{addresses: []string{"10.0.0.1", "10.0.0.2"}, answers: map[string]time.Duration{"10.0.0.1": 300 * time.Millisecond, "10.0.0.2": time.Second}},
			"etcd:2379", "10.0.0.1:2379", 300 * time.Millisecond,
			[]string{"10.0.0.1:2379 0s", "10.0.0.2:2379 250ms"},
		},
		"the second overtakes": {
			&network{addresses: []string{"10.0.0.1", "10.0.0.2"}, answers: map[string]time.Duration{"10.0.0.1": 2 * time.Second, "10.0.0.2": time.Millisecond}},
			"etcd:2379", "10.0.0.2:2379", 251 * time.Millisecond,
			[]string{"10.0.0.1:2379 0s", "10.0.0.2:2379 250ms"},
		},
		"the first answers before the second is tried": {
			&network{addresses: []string{"10.0.0.1", "10.0.0.2"}, answers: map[string]time.Duration{"10.0.0.1": 249 * time.Millisecond}},
			"etcd:2379", "10.0.0.1:2379", 249 * time.Millisecond,
			[]string{"10.0.0.1:2379 0s"},
		},
		"one that is refused does not delay": {
			&network{addresses: []string{"::1", "10.0.0.1", "10.0.0.2"}, refuses: map[string]bool{"::1": true, "10.0.0.1": true}, answers: map[string]time.Duration{"10.0.0.2": 0}},
			"etcd:2379", "10.0.0.2:2379", 0,
			[]string{"[::1]:2379 0s", "10.0.0.1:2379 0s", "10.0.0.2:2379 0s"},
		},
		"all are silent": {
			&network{addresses: []string{"10.0.0.1", "10.0.0.2"}},
			"etcd:2379", "", connectTimeout,
			[]string{
				"10.0.0.1:2379 0s", "10.0.0.2:2379 250ms", "10.0.0.1:2379 2.25s", "10.0.0.2:2379 2.5s",
				"10.0.0.1:2379 4.5s", "10.0.0.2:2379 4.75s", "10.0.0.1:2379 6.75s", "10.0.0.2:2379 7s",
			},
		},
		"an address is not looked up": {
			&network{addresses: []string{"10.0.0.1", "10.0.0.2"}, answers: map[string]time.Duration{"192.0.2.1": time.Second}},
			"192.0.2.1:2379", "192.0.2.1:2379", time.Second,
			[]string{"192.0.2.1:2379 0s"},
		},
		"an address with a zone": {
			&network{answers: map[string]time.Duration{"fe80::1%eth0": 0}},
			"[fe80::1%eth0]:2379", "[fe80::1%eth0]:2379", 0,
			[]string{"[fe80::1%eth0]:2379 0s"},
		},
		"this host": {
			&network{answers: map[string]time.Duration{"": 0}},
			":2379", ":2379", 0,
			[]string{":2379 0s"},
		},
		"a name without an address": {&network{}, "etcd:2379", "", 0, nil},
		"a unix socket, as clientv3 has it": {
			&network{answers: map[string]time.Duration{"/run/etcd sock": 0}},
			"unix:///run/etcd%20sock", "/run/etcd sock", 0,
			[]string{"/run/etcd sock 0s"},
		},
		"a unix socket, as the probe has it": {
			&network{answers: map[string]time.Duration{"/run/etcd": 0}},
			"unix:/run/etcd", "/run/etcd", 0,
			[]string{"/run/etcd 0s"},
		},
		"a unix socket that is no URL": {
			&network{answers: map[string]time.Duration{"/run/100%": 0}},
			"unix:///run/100%", "/run/100%", 0,
			[]string{"/run/100% 0s"},
		},
		"a relative unix socket": {
			&network{answers: map[string]time.Duration{"etcd.sock": 0}},
			"unix:etcd.sock", "etcd.sock", 0,
			[]string{"etcd.sock 0s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), connectTimeout)
				defer cancel()
				n := test.network
				r := n.racer()
				conn, err := r.dial(ctx, test.address)
				if took := time.Since(n.began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if fmt.Sprint(n.started) != fmt.Sprint(test.started) {
					t.Errorf("tried %q, want %q", n.started, test.started)
				}
				if test.winner == "" {
					if err == nil || conn != nil {
						t.Errorf("%v, %v", conn, err)
					}
					n.left(t, 0)
					return
				}
				if err != nil || conn.(counted).name != test.winner {
					t.Fatalf("%v, %v, want %s", conn, err, test.winner)
				}
				n.left(t, 1)
				conn.Close()
				n.left(t, 0)
			})
		})
	}
}

func TestRacer_ManyAddresses_AllAreTriedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: map[string]time.Duration{"10.0.0.99": time.Second}}
		for i := range 100 {
			n.addresses = append(n.addresses, fmt.Sprint("10.0.0.", i))
		}
		ctx, cancel := context.WithTimeout(t.Context(), connectTimeout)
		defer cancel()
		conn, err := n.racer().dial(ctx, "etcd:2379")
		if err != nil || conn.(counted).name != "10.0.0.99:2379" {
			t.Errorf("%v, %v", conn, err)
		}
		if took := time.Since(n.began); took > connectTimeout/2+time.Second {
			t.Errorf("took %v", took)
		}
		n.left(t, 1)
	})
}

func TestRacer_SeveralConnect_OneIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{
			addresses: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"},
			answers:   map[string]time.Duration{"10.0.0.1": 600 * time.Millisecond, "10.0.0.2": 350 * time.Millisecond, "10.0.0.3": 100 * time.Millisecond},
		}
		if _, err := n.racer().dial(t.Context(), "etcd:2379"); err != nil {
			t.Error(err)
		}
		n.left(t, 1)
	})
}

func TestRacer_AllRefuse_TheFirstErrorIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{addresses: []string{"10.0.0.1", "10.0.0.2"}, refuses: map[string]bool{"10.0.0.1": true, "10.0.0.2": true}}
		_, err := n.racer().dial(t.Context(), "etcd:2379")
		if !errors.Is(err, errRefused) || err.Error() != "dial tcp 10.0.0.1:2379: connection refused" {
			t.Error(err)
		}
		if took := time.Since(n.began); took != 0 {
			t.Errorf("took %v", took)
		}
		n.left(t, 0)
	})
}

func TestRacer_CancelledMeanwhile_LeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{addresses: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, answers: map[string]time.Duration{"10.0.0.3": time.Second}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		time.AfterFunc(600*time.Millisecond, cancel)
		if conn, err := n.racer().dial(ctx, "etcd:2379"); !errors.Is(err, context.Canceled) {
			t.Error(conn, err)
		}
		n.left(t, 0)
	})
}

func TestRacer_NameIsUnknown_TellsTheName(t *testing.T) {
	r := racer{lookup: func(_ context.Context, host string) ([]net.IPAddr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}}
	for _, r := range []racer{r, (&network{}).racer()} {
		_, err := r.dial(t.Context(), "etcd.invalid:2379")
		var unknown *net.DNSError
		if !errors.As(err, &unknown) || err.Error() != "dial tcp: lookup etcd.invalid: no such host" {
			t.Error(err)
		}
	}
	if _, err := r.dial(t.Context(), "no port"); err == nil {
		t.Error("an address without a port is none")
	}
}
