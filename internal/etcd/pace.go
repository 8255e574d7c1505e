package etcd

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
)

const (
	// After a request that was refused for load, one request goes at a time, after a
	// wait between busyFirst and busyMax. etcd refuses when 5,000 writes wait. To
	// work them off takes it from half a second to ten. The first wait is between
	// busyFirst and twice that: a caller with 3 s has one more attempt in them.
	busyFirst = time.Second
	busyMax   = time.Minute

	// Each answer pays for a tenth of a repeat. A client begins with
	// repeatsAtFirst, for what is under way when a connection breaks, and saves
	// no more than repeatsMost.
	repeatsPerAnswer = 0.1
	repeatsAtFirst   = 20
	repeatsMost      = 100
)

// pace is how fast a client may ask. While etcd answers, nothing waits for it. A
// repeat has to be paid for by answers. While etcd is not well, or nothing pays,
// one request goes at a time, alone, and the others wait for its answer.
type pace struct {
	mu      sync.Mutex // guards all below
	why     error      // what is wrong with etcd, nil while it is well
	until   time.Time  // when the next request may go
	alone   bool       // one is under way
	changed chan struct{}
	unwell  worker.Backoff // after a request that a member could not serve
	busy    worker.Backoff // after one that was refused for load
	repeats float64
}

func newPace() *pace {
	return &pace{
		changed: make(chan struct{}), repeats: repeatsAtFirst,
		busy: worker.Backoff{First: busyFirst, Max: busyMax},
	}
}

// pass waits until a request may be sent, as long as ctx lives. It reports
// whether that request goes alone; report hears what it waits for.
func (p *pace) pass(ctx context.Context, again bool, report func(error)) (alone bool, err error) {
	for {
		alone, ok, until, changed, why := p.try(again)
		if ok {
			return alone, nil
		}
		if why != nil {
			report(why)
		}
		var soonest <-chan time.Time
		if !until.IsZero() {
			soonest = time.After(time.Until(until))
		}
		select {
		case <-soonest:
		case <-changed:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// try reports whether a request may be sent now; if not, when to try again.
func (p *pace) try(again bool) (alone, ok bool, until time.Time, changed <-chan struct{}, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.why == nil && !again:
		return false, true, until, nil, nil
	case p.why == nil && p.repeats >= 1:
		p.repeats--
		return false, true, until, nil, nil
	case p.alone:
		return false, false, until, p.changed, p.why
	case p.why != nil && time.Now().Before(p.until):
		return false, false, p.until, p.changed, p.why
	}
	p.alone = true
	return true, true, until, nil, nil
}

// answered notes that etcd has answered, and is well.
func (p *pace) answered(alone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.repeats = min(p.repeats+repeatsPerAnswer, repeatsMost)
	if p.why != nil || alone {
		p.why = nil
		p.unwell.Reset()
		p.busy.Reset()
		p.change(alone)
	}
}

// failed notes that etcd is not well, and has the next request wait. It reports
// whether that is news. If a refusal for load is news, nothing goes until the caller
// has measured etcd's backlog: see measured.
func (p *pace) failed(alone bool, why error) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why != nil && !alone {
		return false // it was sent before
	}
	p.why = why
	busy := KindOf(why) == Busy
	wait := &p.unwell
	if busy {
		wait = &p.busy
	}
	p.until = time.Now().Add(wait.Next())
	p.change(alone && !busy)
	p.alone = p.alone || busy
	return true
}

// measured notes how long etcd took to work off what waited there. A fleet that
// was refused together comes back over as long a time.
func (p *pace) measured(backlog time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if soonest := time.Now().Add(rand.N(backlog + 1)); soonest.After(p.until) {
		p.until = soonest
	}
	p.change(true)
}

// over notes that a request has ended without telling how etcd is.
func (p *pace) over(alone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if alone {
		p.change(true)
	}
}

// change wakes all that wait. p.mu is held.
func (p *pace) change(alone bool) {
	if alone {
		p.alone = false
	}
	close(p.changed)
	p.changed = make(chan struct{})
}
