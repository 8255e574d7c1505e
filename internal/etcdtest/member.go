package etcdtest

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Member is one server of a cluster.
type Member struct {
	etcd     *Etcd
	index    int
	server   *grpc.Server
	listener *listener

	line    line
	silence gate // nobody connects
	frozen  gate // nothing is carried out
	fresh   gate // the store stands still

	mu          sync.Mutex // guards all below
	connections map[*connection]struct{}
	down        bool
	mute, ice   bool // silent, frozen

	// Guarded by the cluster's mutex.
	life      int                  // how often it was started
	stalled   bool                 // its disk stands still
	alone     bool                 // it has no leader
	at        int64                // revision at which its store stands still
	held      []*write             // writes that the stalled disk holds
	tokens    map[string]*token    // that it knows
	lastToken uint64               // that it had heard of when its store stood still
	streams   map[*watching]bool   // watch streams
	bereaved  map[*leaderless]bool // streams that require a leader
	election  *time.Timer          // until streams without a leader end
}

func newMember(e *Etcd, index int, config Config) *Member {
	m := &Member{
		etcd: e, index: index, connections: map[*connection]struct{}{}, tokens: map[string]*token{},
		streams: map[*watching]bool{}, bereaved: map[*leaderless]bool{},
	}
	m.listener = &listener{address(m.Address()), make(chan net.Conn), e.closed}
	m.line.link.Store(&Link{})
	m.server = newServer(m, config)
	return m
}

// Address is the member's endpoint.
func (m *Member) Address() string { return fmt.Sprintf("m%d:2379", m.index) }

// SetLink changes what the member's connections are like.
func (m *Member) SetLink(link Link) {
	m.line.link.Store(&link)
}

// SetLinks changes the links of all members.
func (e *Etcd) SetLinks(link Link) {
	for _, m := range e.members {
		m.SetLink(link)
	}
}

// Silence makes the member's links silent, both ways. Connections stay, bytes
// wait for [Member.Speak], and who connects waits, too.
func (m *Member) Silence() {
	m.silence.shut()
	m.hold(func() { m.mute = true })
}

// Speak ends a silence: what waited is delivered.
func (m *Member) Speak() {
	m.silence.unshut()
	m.hold(func() { m.mute = false })
}

// Freeze makes the process stand still. It answers nothing, and carries nothing
// out; its kernel still accepts connections.
func (m *Member) Freeze() {
	m.frozen.shut()
	m.hold(func() { m.ice = true })
}

// Thaw lets a frozen process go on where it stood.
func (m *Member) Thaw() {
	m.frozen.unshut()
	m.hold(func() { m.ice = false })
}

func (m *Member) hold(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	if before, after := m.line.held.Swap(m.mute || m.ice), m.mute || m.ice; !before || after {
		return
	}
	for c := range m.connections {
		c.thaw()
	}
}

// Break closes all connections to the member.
func (m *Member) Break() {
	m.mu.Lock()
	all := slices.Collect(maps.Keys(m.connections))
	m.mu.Unlock()
	for _, c := range all {
		c.breakOff()
	}
}

// Down ends the member's process: connections break and are refused.
func (m *Member) Down() {
	m.mu.Lock()
	m.down = true
	m.mu.Unlock()
	m.Break()
	m.die()
	m.etcd.rest()
}

// Up starts the member's process again. It knows no token.
func (m *Member) Up() {
	m.mu.Lock()
	m.down = false
	m.mu.Unlock()
	m.etcd.rest()
}

// Restart ends the member's process and starts it again at once.
func (m *Member) Restart() {
	m.Down()
	m.Up()
}

// die forgets what the process had in memory.
func (m *Member) die() {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	m.life++
	clear(m.tokens)
	for _, w := range m.held {
		m.etcd.queue.drop(w)
	}
	m.held = nil
}

func (m *Member) isUp() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.down
}

// Connections is how many are open to this member now.
func (m *Member) Connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.connections)
}

func (m *Member) forget(c *connection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.connections, c)
}
