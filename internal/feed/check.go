package feed

import (
	"context"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// check finds out whether a stream that brings nothing still follows etcd. It
// asks for progress on the stream, which a dead link does not answer. It reads
// one key, which a quorum has to confirm. The read tells what revision the
// store behind the stream must have reached, and whether etcd's history is the
// known one.
//
// A read that is answered while the progress request is not, or while progress
// stays at an older revision, is evidence against the stream's member. If
// neither is answered there is no evidence: etcd is slow, or away, and is
// waited for.
//
// A check belongs to the goroutine of Hub.run.
type check struct {
	stream *stream
	hub    *Hub
	timer  *time.Timer
	done   chan read // reads that were answered, or refused

	next   time.Time // when the next look is due, zero before the first
	spared time.Time // until then the process, which stood still, reads what has come

	since  time.Time // when the check under way began, zero while there is none
	early  bool      // nothing stood then
	proven time.Time // when the stream was last known to follow etcd

	asked time.Time // when progress was last asked for, zero once it is answered
	told  time.Time // when progress was last answered
	last  time.Time // as asked, and kept when it is answered; zero before the first
	ripe  bool      // a read had been answered then
	heard bool      // progress was answered in this check
	at    int64     // the highest revision that progress brought
	stuck time.Time // since when it brings no higher one, although it should
	same  int       // how often it was asked for and answered since then

	goal    int64 // the revision that the store must have reached
	read    bool  // a read was answered in this check
	refused int   // reads in this check that were refused
	reading []*worker.Worker
	readAt  time.Time // when the last read was sent
}

func newCheck(s *stream) *check {
	return &check{
		stream: s, hub: s.hub, proven: s.opened, timer: time.NewTimer(firstCheck),
		done: make(chan read, readsMost),
	}
}

// endReads ends the reads that are under way.
func (c *check) endReads() {
	for _, r := range c.reading {
		r.Stop()
	}
	c.reading = nil
}

// look does what there is to do at this moment. It returns why the stream is of
// no more use, if it is not.
func (c *check) look(ctx context.Context, now time.Time) error {
	c.tellSilence(now)
	if c.isStill() {
		return c.leave()
	}
	if c.since.IsZero() && !now.Before(c.due()) {
		c.begin(ctx, now)
	}
	var err error
	if !c.since.IsZero() {
		err = c.judge(ctx, now)
	}
	wait := lookEvery
	if c.since.IsZero() {
		wait = max(c.due().Sub(now), 0)
	}
	if now.Before(c.spared) {
		wait = min(wait, lookEvery)
	}
	c.timer.Reset(wait)
	c.next = now.Add(wait)
	return err
}

// due returns when the next check is to begin. A stream that lingers has nothing
// to check, and is looked at again soon.
func (c *check) due() time.Time {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	s := c.stream
	if s.isOpening() {
		return worker.Later(s.since, s.opened).Add(firstCheck)
	}
	if len(s.watches) == 0 {
		return time.Now().Add(lookEvery)
	}
	if c.last.IsZero() {
		return c.proven.Add(firstCheck)
	}
	return worker.Later(c.proven, s.moved).Add(checkInterval)
}

// begin begins a check. With one endpoint a member that answers is the one there
// is, so that a read tells nothing new.
func (c *check) begin(ctx context.Context, now time.Time) {
	c.since, c.heard, c.read, c.refused, c.same, c.stuck = now, false, false, 0, 0, now
	c.hub.mu.Lock()
	c.goal = c.hub.known.revision
	c.stream.checked = now
	standing := len(c.stream.watches) > 0
	c.hub.mu.Unlock()
	c.early = !standing
	deaf := c.hub.deaf >= deafAfter
	if standing && (!deaf || c.last.IsZero()) {
		c.ask(now)
	}
	if !standing || deaf || c.hub.conn.Members() > 1 {
		c.startRead(ctx, now)
	}
}

// ask asks for progress.
func (c *check) ask(now time.Time) {
	c.asked, c.last, c.ripe = now, now, c.read
	c.stream.asked.Store(true)
	c.stream.route.Asked()
	c.stream.wire.askProgress()
}

// answered notes an answer to that.
func (c *check) answered(header *pb.ResponseHeader) {
	now := time.Now()
	c.hub.deaf = 0
	if !c.asked.IsZero() {
		c.hub.trip = max(min(now.Sub(c.asked), onTime), c.hub.trip-c.hub.trip/tripForgets)
	}
	if header.Revision > c.at {
		c.at, c.stuck, c.same = header.Revision, now, 0
	} else if c.ripe {
		c.same++
	}
	c.heard, c.told, c.asked = true, now, time.Time{}
}

// judge says what is known by now.
func (c *check) judge(ctx context.Context, now time.Time) error {
	moved, opening, ahead := c.evidence()
	if c.early && !opening && !moved {
		c.since, c.early = time.Time{}, false // what stands now was not asked for progress
		c.proven = now
		return nil
	}
	patience := max(patienceLeast, patienceTimes*c.hub.trip)
	waited := now.Sub(c.since)
	reading := len(c.reading) > 0
	switch {
	case moved:
		c.over(now)
	case c.heard && c.at >= c.goal:
		if !reading {
			c.over(now)
			break
		}
		c.startRead(ctx, now) // at the next member
		if c.asked.IsZero() && now.Sub(c.told) >= checkInterval {
			c.ask(now) // etcd is slow to read: does this still stand?
		}
	case !c.read:
		if waited >= max(firstCheck, c.hub.trip*3/2) || c.heard {
			c.startRead(ctx, now)
		}
	case c.heard:
		if c.same >= 2 && now.Sub(c.stuck) >= patience {
			return c.leave()
		}
		if !c.asked.IsZero() && now.Sub(c.last) >= patience {
			return errNoSign // it has fallen silent meanwhile
		}
		if c.asked.IsZero() && (!c.ripe || now.Sub(c.last) >= askEvery) {
			c.ask(now)
		}
	case opening:
		if waited >= patience<<min(c.hub.unopened, 6) {
			c.hub.unopened++
			return errNotOpened
		}
	case c.hub.deaf >= deafAfter && (c.asked.IsZero() || waited >= patience):
		c.over(now) // the read stands for what this server does not answer
	case waited >= patience && ahead:
		return c.leave()
	case waited >= patience:
		c.hub.deaf++
		return errNoSign
	}
	return nil
}

// evidence returns whether the stream has moved: it brought events since the
// check began, or has nothing to check. It also returns whether the stream is
// being opened, and whether a watch on it is ahead of the member's store.
func (c *check) evidence() (moved, opening, ahead bool) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	s := c.stream
	standing := len(s.watches) > 0
	if standing {
		c.hub.unopened = 0
	}
	opening = s.isOpening()
	moved = s.moved.After(c.since) || !standing && !opening
	return moved, opening, s.isAhead()
}

// over ends a check that found the stream well.
func (c *check) over(now time.Time) {
	c.hub.still = 0
	c.since, c.proven, c.asked = time.Time{}, now, time.Time{}
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.hub.avoid = ""
	if c.stream.asked.CompareAndSwap(true, false) {
		c.stream.answeredAll()
	}
}

// isStill reports whether the stream leads to the member that was just left
// because its store stands still, or to one as far behind. A client that was
// not dialled by us cannot choose.
func (c *check) isStill() bool {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	return c.hub.still > 0 && c.hub.conn.Members() > 1 && c.stream.newest.GetRevision() == c.hub.still && c.hub.known.revision > c.hub.still
}

// leave leaves a member whose store stands still for another one.
func (c *check) leave() error {
	c.hub.mu.Lock()
	c.hub.still = c.stream.newest.GetRevision()
	c.hub.mu.Unlock()
	if c.hub.conn.Members() > 1 {
		c.stream.route.Leave()
	}
	return errStandsStill
}

// tellSilence tells the owners of all watches when etcd is silent, and when it
// is not any more.
func (c *check) tellSilence(now time.Time) {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	s := c.stream
	life := worker.Later(s.heard, s.life)
	quiet := now.Sub(life) >= silentAfter
	if quiet == s.quiet || quiet && c.isSpared(now, life) {
		return
	}
	s.quiet = quiet
	var why error
	if quiet {
		why = c.hub.conn.Why()
	}
	for _, w := range c.hub.all() {
		w.silent(quiet, life, why)
	}
}

// isSpared reports whether a silence since the last sign of life may be that of the
// process. A process that stood still is spared once for each sign of life.
func (c *check) isSpared(now, life time.Time) bool {
	if !c.next.IsZero() && now.Sub(c.next) > worker.StoodStill && !c.spared.After(life) {
		c.spared = now.Add(worker.AfterStandstill)
	}
	return now.Before(c.spared)
}
