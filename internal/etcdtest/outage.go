package etcdtest

import (
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// patience is how long a member is without a leader until it ends the streams
// that require one: three election timeouts of a second.
const patience = 3 * time.Second

// Stall makes the member's disk stand still. It goes on answering serializable
// reads, progress requests and renewals, with the revision that it had. What
// needs the others waits for [Member.Unstall], and watches hear nothing.
func (m *Member) Stall() { m.lag(func() { m.stalled = true }) }

// Unstall lets the member catch up. The writes that it held are carried out,
// whoever still waits for them.
func (m *Member) Unstall() { m.lag(func() { m.stalled = false }) }

// LoseLeader cuts the member off from the others. Streams that require a leader
// end after a while, and what needs the others waits for [Member.FindLeader].
func (m *Member) LoseLeader() {
	m.lag(func() {
		m.alone = true
		m.election = time.AfterFunc(patience, m.endBereaved)
	})
}

// FindLeader brings the member back to the others.
func (m *Member) FindLeader() {
	m.lag(func() {
		m.alone = false
		if m.election != nil {
			m.election.Stop()
		}
	})
}

func (m *Member) endBereaved() {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	if m.alone && !m.etcd.isClosed() {
		for s := range m.bereaved {
			s.end(rpctypes.ErrGRPCNoLeader)
		}
	}
}

func (m *Member) hasNoLeader() bool {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	return m.alone
}

func (m *Member) currentLife() int {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	return m.life
}

// lags reports whether the member's store stands still. The cluster's mutex is held.
func (m *Member) lags() bool { return m.stalled || m.alone }

// lag changes whether the member's store stands still.
func (m *Member) lag(change func()) {
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	before := m.lags()
	if !before {
		m.at, m.lastToken = m.etcd.store.rev, m.etcd.auth.tokens
	}
	change()
	switch {
	case m.lags():
		m.fresh.shut()
	case before:
		m.catchUp()
		m.fresh.unshut()
	}
	if !m.stalled {
		for _, w := range m.held {
			m.etcd.submit(w)
		}
		m.held = nil
	}
}

// catchUp tells the member's watches what happened since its store stood still.
func (m *Member) catchUp() {
	for stream := range m.streams {
		for _, w := range stream.watchers {
			if w.synced && !w.compacted {
				w.next = max(w.next, m.at+1)
				m.etcd.catchUp(w)
			}
		}
	}
}

// Stop ends all members. Writes that wait are lost, and leases do not age.
func (e *Etcd) Stop() {
	for _, m := range e.members {
		m.Down()
	}
}

// Start starts all members again. Each lease has its whole TTL.
func (e *Etcd) Start() {
	for _, m := range e.members {
		m.Up()
	}
}

// rest sees to it that leases do not age while no member is up.
func (e *Etcd) rest() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.members {
		if m.isUp() {
			e.wakeLeases()
			return
		}
	}
	e.sleepLeases()
	e.loseWrites()
}

// Wipe replaces the store by an empty one whose revisions start over, as that
// of a cluster which was set up anew. Its id is another one unless keepID is
// set. All connections break; users stay.
func (e *Etcd) Wipe(keepID bool) {
	e.replace(func(old *store) *store {
		if keepID {
			return newStore(old.cluster)
		}
		return newStore(old.cluster + 1)
	})
}

// Restore replaces the store by what it was at a revision, as that of a cluster
// restored from a backup. Each lease of then has its whole TTL. The cluster's id
// is another one unless keepID is set. All connections break.
func (e *Etcd) Restore(rev int64, keepID bool) {
	e.replace(func(old *store) *store {
		s := newStore(old.cluster)
		if !keepID {
			s.cluster++
		}
		s.recall(old, rev)
		return s
	})
}

func (e *Etcd) replace(with func(*store) *store) {
	e.mu.Lock()
	old := e.store
	old.stopTimers()
	e.loseWrites()
	e.store = with(old)
	e.store.term, e.store.asleep = old.term+1, old.asleep
	e.store.lastID = old.lastID // no etcd gives an id again: they hold the time
	for _, l := range old.leases {
		close(l.gone)
	}
	for _, l := range e.store.leases {
		e.refresh(l)
	}
	for _, m := range e.members {
		m.at = e.store.rev
	}
	e.mu.Unlock()
	for _, m := range e.members {
		m.Break()
	}
}

// recall fills an empty store with what another one was at a revision.
func (s *store) recall(old *store, rev int64) {
	s.rev = min(rev, old.rev)
	for _, l := range old.ever {
		if l.from <= rev && (l.to == 0 || l.to > rev) {
			again := &lease{id: l.id, ttl: l.ttl, gone: make(chan struct{}), from: l.from}
			s.leases[l.id], s.ever = again, append(s.ever, again)
		}
	}
	c := s.change()
	for _, event := range old.log {
		if event.Kv.ModRevision <= rev {
			c.replay(event)
		}
	}
}

func (c *change) replay(event *mvccpb.Event) {
	if h := c.byKey[string(event.Kv.Key)]; h != nil {
		if old := h.at(event.Kv.ModRevision); old != nil {
			c.detach(old)
		}
	}
	c.add(event.Kv)
	if event.Type == mvccpb.Event_PUT {
		c.attach(event.Kv)
	}
	c.log = append(c.log, event)
}

// Compact makes the revisions below one unreadable.
func (e *Etcd) Compact(rev int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.store.compact(rev)
	e.sync.arm()
	return err
}
