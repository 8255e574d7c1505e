package etcdtest

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
)

// Config is what a cluster is from its start on.
type Config struct {
	Members    int    // 1 if zero
	MaxStreams uint32 // on a connection at one time; unlimited if zero
	Settings          // to begin with

	// ServerOptions are further ones for the gRPC servers: TLS, for example.
	ServerOptions []grpc.ServerOption
}

// Etcd is a cluster in memory. Its methods may be called from any goroutine.
type Etcd struct {
	members  []*Member
	settings atomic.Pointer[Settings]
	setting  sync.Mutex // held while the settings change
	journal  journal
	next     atomic.Uint64 // member that Address connects to

	mu    sync.Mutex // guards all of them
	store *store
	auth  users
	queue queue
	sync  *syncTimer

	core    station // where passwords are checked
	wire    station // where answers to Range are written
	closed  chan struct{}
	closing sync.Once
	work    sync.WaitGroup // goroutines of this cluster
}

// Start is [New] for a test: the cluster closes when the test ends.
func Start(t testing.TB, config Config) *Etcd {
	e := New(config)
	t.Cleanup(e.Close)
	return e
}

// New starts a cluster. The caller closes it.
func New(config Config) *Etcd {
	e := &Etcd{closed: make(chan struct{}), core: newStation(), wire: newStation()}
	settings := config.Settings
	e.settings.Store(&settings)
	e.journal.init()
	e.store = newStore(firstCluster)
	e.auth.init()
	e.queue.wake = make(chan struct{}, 1)
	e.sync = newSyncTimer(e)
	for i := range max(config.Members, 1) {
		e.members = append(e.members, newMember(e, i, config))
	}
	e.work.Go(e.writeOneAfterAnother)
	for _, m := range e.members {
		e.work.Go(func() { _ = m.server.Serve(m.listener) })
	}
	return e
}

// Close ends the cluster. It returns when nothing of it runs any more.
func (e *Etcd) Close() {
	e.closing.Do(func() {
		close(e.closed)
		for _, m := range e.members {
			m.Break()
			m.server.Stop()
		}
		e.mu.Lock()
		e.store.stopTimers()
		e.sync.stop()
		e.mu.Unlock()
	})
	e.work.Wait()
}

func (e *Etcd) isClosed() bool {
	select {
	case <-e.closed:
		return true
	default:
		return false
	}
}

// Endpoints are the addresses of the members: m0:2379, m1:2379 and so on.
func (e *Etcd) Endpoints() []string {
	all := make([]string, len(e.members))
	for i, m := range e.members {
		all[i] = m.Address()
	}
	return all
}

// Address is one address in front of all members, as that of a virtual IP. Each
// connection to it goes to the next member that is up.
func (e *Etcd) Address() string { return "etcd:2379" }

// Member returns the i-th member, counted from 0.
func (e *Etcd) Member(i int) *Member { return e.members[i] }

// Members are all members.
func (e *Etcd) Members() []*Member { return e.members }

// Dialer is the dial option that makes a client connect to this cluster.
func (e *Etcd) Dialer() grpc.DialOption { return grpc.WithContextDialer(e.dial) }

// DialOptions are the dialer and buffers of 4 kB instead of 32 kB. A fleet of
// thousands of clients fits into memory with them.
func (e *Etcd) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		e.Dialer(),
		grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes),
	}
}

// find returns the member that an address belongs to, nil if there is none.
func (e *Etcd) find(to string) *Member {
	if _, after, schemed := strings.Cut(to, "://"); schemed {
		to = after
	}
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		host = to
	}
	if host == "etcd" {
		return e.balanced()
	}
	i, err := strconv.Atoi(strings.TrimPrefix(host, "m"))
	if err != nil || !strings.HasPrefix(host, "m") || i < 0 || i >= len(e.members) {
		return nil
	}
	return e.members[i]
}

func (e *Etcd) balanced() (m *Member) {
	for range e.members {
		m = e.members[int(e.next.Add(1)-1)%len(e.members)]
		if m.isUp() {
			return m
		}
	}
	return m
}

// background runs something that ends with the cluster, and outlives who asked.
func (e *Etcd) background(do func()) {
	if !e.isClosed() {
		e.work.Go(do)
	}
}

// detached is the context of a request that goes on without its caller.
func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
