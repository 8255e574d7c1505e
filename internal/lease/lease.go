package lease

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// Beats are due at multiples of half the heartbeat, counted from one moment for
	// all leases. A thousand leases with the same heartbeat then cost two writes in
	// each. For that a lease's first beat comes up to half a heartbeat early. A lease
	// that was renewed out of turn returns to the grid by a sixteenth a beat at most.
	grid   = 2
	nudged = 16

	// mostTTL is the longest TTL that etcd grants, in seconds.
	mostTTL = 9_000_000_000
)

// Lease is one lease that a keeper renews. It is safe for concurrent use.
type Lease struct {
	ID   clientv3.LeaseID
	TTL  int64       // in seconds, as it was asked for
	News <-chan Beat // holds the newest beat that is news

	in     store // that it was granted in
	keeper *Keeper
	news   chan Beat
	all    atomic.Bool // every answer is news

	// keeper.mu guards all below.
	every    time.Duration
	ttl      time.Duration // as etcd gave it
	next     moment        // when the next beat is due
	answered moment        // when etcd was last seen to hold it
	asked    bool          // a beat was sent on this stream, and not answered
	resumed  bool          // a stream was lost since the last answer
	silent   bool          // the owner was told so
	told     string        // what else the owner was told, in short
	refusal  *refusal      // nil if etcd renews it like others
}

// Cluster returns which etcd granted the lease, 0 if a proxy does not tell.
func (l *Lease) Cluster() uint64 { return l.in.cluster }

// Since returns the revision that etcd had then.
func (l *Lease) Since() int64 { return l.in.revision }

// Beat is what became of a lease's heartbeats. The owner hears what is news to it:
// a thousand services that are well need not be told so every second. A beat
// without Lost and Err was answered, and takes back what was told before.
type Beat struct {
	Lost    bool  // there is no such lease any more
	Silent  bool  // no beat was answered for as long as the lease lives
	Resumed bool  // it was answered on a new stream, after one that was lost
	Err     error // why etcd refuses to renew it, told at once, or why it is silent
}

// keep renews a lease from now on. Its TTL counts from the moment at which it was
// asked for.
func (k *Keeper) keep(l *Lease, asked moment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l.keeper, l.news = k, make(chan Beat, 1)
	l.News, l.answered = l.news, asked
	k.leases[l.ID] = l
	if silent := asked + l.ttl; silent < k.listen {
		k.listen = silent
		worker.Poke(k.hark)
	}
	k.beatAt(l, l.after(asked, l.every/grid))
}

// beatAt sets when a lease's next beat is due. k.mu is held.
func (k *Keeper) beatAt(l *Lease, at moment) {
	l.next = at
	if at < k.look {
		k.look = at
		worker.Poke(k.wake)
	}
}

// after returns when the beat after this one is due: a heartbeat later, or up
// to most earlier to be on the grid.
func (l *Lease) after(beat moment, most time.Duration) moment {
	return beat + l.every - min(beat%(l.every/grid), most)
}

// Alive says that etcd was seen to hold the lease. The heartbeat is this one from
// now on.
func (l *Lease) Alive(every time.Duration) {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leases[l.ID] != l {
		return
	}
	l.answered = k.now()
	l.takeBack()
	if l.every != every {
		l.every = every
		k.beatAt(l, l.answered)
	}
}

// Expect has the owner hear of every answer, or of news alone.
func (l *Lease) Expect(all bool) { l.all.Store(all) }

// Drop renews the lease no longer.
func (l *Lease) Drop() {
	k := l.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leases[l.ID] == l {
		delete(k.leases, l.ID)
	}
}

// renewed notes what etcd answered to a beat, with a TTL in seconds. It reports
// whether there is such a lease. k.mu is held.
func (k *Keeper) renewed(l *Lease, ttl int64) bool {
	l.asked = false
	if ttl <= 0 {
		delete(k.leases, l.ID)
		l.tell(Beat{Lost: true, Resumed: l.resumed})
		return false
	}
	news := l.resumed || l.silent || l.told != "" || l.all.Load()
	resumed := l.resumed
	l.answered, l.ttl = k.now(), seconds(ttl)
	l.resumed, l.silent, l.told = false, false, ""
	if news {
		l.tell(Beat{Resumed: resumed})
	}
	return true
}

// wiped notes that a store has taken the place of the one in which leases were
// granted, and reports whether any was. None of them needs to be asked about:
// etcd would answer one after the other, each after the writes that wait. k.mu is
// held.
func (k *Keeper) wiped(now store) (any bool) {
	for _, l := range k.leases {
		if l.in.contradicts(now) {
			any = true
			delete(k.leases, l.ID)
			l.tell(Beat{Lost: true, Resumed: l.resumed})
		}
	}
	return any
}

// tellErr tells the owner why the lease is not renewed, unless the owner knows.
func (l *Lease) tellErr(silent bool, err error) {
	short := etcd.Word(err)
	switch {
	case errors.Is(err, errUnanswered): // for how long is no news
		short = errUnanswered.Error()
	case etcd.TokenRefused(err):
		short = err.Error()
	}
	if l.told == short && l.silent == silent {
		return
	}
	l.told, l.silent = short, silent
	l.tell(Beat{Silent: silent, Err: etcd.Explain(err)})
}

// takeBack takes back what the owner was told of silence and refusals.
func (l *Lease) takeBack() {
	l.silent, l.told = false, ""
	select {
	case b := <-l.news:
		if b.Silent, b.Err = false, nil; b != (Beat{}) {
			l.news <- b
		}
	default:
	}
}

// tell passes news on to the owner, in place of what was not taken yet.
// keeper.mu is held, so that the channel has room.
func (l *Lease) tell(b Beat) {
	select {
	case old := <-l.news:
		b.Resumed = b.Resumed || old.Resumed
	default:
	}
	l.news <- b
}

func seconds(ttl int64) time.Duration { return time.Duration(min(ttl, mostTTL)) * time.Second }
