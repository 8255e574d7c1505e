package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Manner is how a request is made.
type Manner int

const (
	// Writing is the manner of what is done in a turn of Conn.Writes.
	Writing Manner = iota

	// Reading is the manner of a short read.
	Reading

	// Listing is the manner of what is done in a turn of Conn.Lists.
	Listing

	// Ending is the manner of what frees etcd of something: to revoke a lease, to
	// delete a key. Its caller waits, so that the request ignores the client's pace.
	Ending
)

const (
	// An ending that has failed for long is tried again after a tenth of that time, up
	// to endingMost. A client with ten thousand of them then asks a thousand times a
	// second.
	endingMost = 10 * time.Second

	// A request that has no answer after unansweredMost is followed by a read. If
	// that is answered, the answer is lost, as by a proxy, and the request is made
	// again. Of ten thousand clients whose etcd needs longer each asks for one read.
	// A page of a list may take listedMost before: it brings megabytes, and over a
	// link of 50 kB/s a read overtakes it.
	unansweredMost = time.Minute
	listedMost     = 10 * time.Minute

	// onItsWay is how long an answer may arrive after a later one.
	onItsWay = time.Second

	// A client whose request etcd has given up comes back within stalledMost of a
	// read being answered. A store that stood still has worked off what it held then,
	// and all have to be registered within 5 s.
	stalledMost = 4 * time.Second
)

type reportKey struct{}

// WithReport returns a context with which Ask, and Queue.Enter, tell why they go on
// waiting, each time that they learn of a reason. The function is called while they
// wait, and never twice at a time.
func WithReport(ctx context.Context, report func(error)) context.Context {
	return context.WithValue(ctx, reportKey{}, report)
}

// Ask makes a request until it is answered, with success or with a refusal, or
// until ctx ends. A request that got no answer is waited for as long as ctx
// lives, unless its connection breaks or its member is left. It may be carried
// out more than once: a write has to compare what it replaces.
//
// When ctx ends, the error is that of ctx, and wraps the reason that was known.
func Ask[T any](ctx context.Context, c *Conn, m Manner, request func(context.Context) (T, error)) (answer T, err error) {
	a := asking{conn: c, manner: m, began: time.Now()}
	a.report, _ = ctx.Value(reportKey{}).(func(error))
	for {
		alone, passed := a.pass(ctx)
		if !passed {
			return answer, a.ended(ctx)
		}
		began, answered := time.Now(), a.waits()
		answer, err = attempt(ctx, &a, request)
		answered()
		if err == nil || Refused(err) && ctx.Err() == nil {
			a.answered(alone, time.Since(began))
			return answer, err
		}
		if !a.failed(ctx, alone, err) {
			return answer, a.ended(ctx)
		}
	}
}

// attempt makes a request once, by way of a member that can be left. It notes
// whether the request may have left.
func attempt[T any](ctx context.Context, a *asking, request func(context.Context) (T, error)) (T, error) {
	c := a.conn
	routed, route := c.Route(clientv3.WithRequireLeader(ctx))
	defer route.End()
	route.list, route.prefer = a.manner == Listing, a.well
	under := underway(ctx)
	under.goes(route)
	defer under.goes(nil)
	route.Asked()
	most := unansweredMost
	if a.manner == Listing {
		most = listedMost
	}
	lost := time.AfterFunc(most, func() { c.giveUpIfLost(routed, route, most) })
	defer lost.Stop()
	answer, err := request(routed)
	if cause := context.Cause(routed); err != nil && (errors.Is(cause, ErrSilent) || errors.Is(cause, errLostAnswer)) {
		err = cause
	}
	if c.left(route, err) {
		if a.again {
			meter.Count(c.Metrics.Retries, 1)
		}
		meter.Count(c.Metrics.Requests, 1)
		a.again = true
	}
	err = rpctypes.Error(err)
	if err == nil || KindOf(err) == Refusal {
		route.Heard(false)
	}
	return answer, err
}

// giveUpIfLost gives up a request that has waited for as long, if etcd answers
// a read meanwhile. Such a read is answered after all that came before it. A
// list whose bytes arrive is not lost.
func (c *Conn) giveUpIfLost(ctx context.Context, route *Route, most time.Duration) {
	worker.Start(ctx, func(ctx context.Context) {
		for {
			var waited time.Duration
			sent, bytes := route.sent()
			if !sent.IsZero() {
				waited = time.Since(sent)
			}
			if waited >= most {
				if _, err := c.read(ctx, "", ""); err == nil && worker.Sleep(ctx, onItsWay) && !(route.list && route.arrives(bytes)) {
					route.cancel(errLostAnswer)
				}
				waited = 0
			}
			if !worker.Sleep(ctx, most-waited) {
				return
			}
		}
	})
}

// left reports whether a request that ended with an error may have left.
func (c *Conn) left(route *Route, err error) bool {
	if c.dialled {
		return route.name() != ""
	}
	return err == nil || !strings.Contains(err.Error(), "connection error:")
}

// asking is one call of Ask.
type asking struct {
	conn   *Conn
	manner Manner
	began  time.Time
	again  bool   // an earlier attempt may have left
	well   string // the member that has answered a read in place of this request
	last   error
	report func(error)
	retry  worker.Backoff // of what waits for no pace
}

// pass waits until the request may be sent, and reports false when ctx ended. A
// list does not go alone: a read does in its place, and nobody waits for the list.
// The list follows to the same member. In turn with the reads it could meet the one
// that is not well for ever.
func (a *asking) pass(ctx context.Context) (alone, passed bool) {
	if a.manner == Ending {
		return false, ctx.Err() == nil
	}
	for a.well = ""; ; {
		alone, err := a.conn.pace.pass(ctx, a.again, a.tell)
		if err != nil || !alone || a.manner != Listing || !a.conn.dialled {
			return alone, err == nil
		}
		a.well, err = a.conn.read(ctx, "", "")
		if err == nil || Refused(err) && ctx.Err() == nil {
			a.conn.pace.answered(true)
			return false, true
		}
		if !a.failed(ctx, true, err) {
			return false, false
		}
	}
}

// waits has the report hear if a short request gets no answer for long. It returns
// what ends that.
func (a *asking) waits() (answered func()) {
	if a.report == nil || a.manner == Listing {
		return func() {}
	}
	var mu sync.Mutex // guards over, and is held while the report is told
	over := false
	late := time.AfterFunc(a.conn.Timeout, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			a.conn.reasons.unanswered()
			a.report(ErrNoAnswer)
		}
	})
	return func() {
		late.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

func (a *asking) tell(err error) {
	a.last = err
	a.conn.reasons.tell(err)
	if a.report != nil {
		a.report(Explain(err))
	}
}

// answered notes an answer.
func (a *asking) answered(alone bool, took time.Duration) {
	a.conn.pace.answered(alone)
	if q := a.queue(); q != nil {
		q.answered(took)
	}
}

func (a *asking) queue() *Queue {
	switch a.manner {
	case Writing:
		return a.conn.Writes
	case Listing:
		return a.conn.Lists
	}
	return nil
}

// failed waits as the failure demands, and reports false when ctx ended.
func (a *asking) failed(ctx context.Context, alone bool, err error) bool {
	if ctx.Err() != nil {
		a.conn.pace.over(alone)
		return false
	}
	a.tell(err)
	switch kind := KindOf(err); {
	case kind == Away:
		a.conn.pace.over(alone)
		return a.reconnect(ctx)
	case a.manner == Ending:
		a.retry.Max = min(max(worker.BackoffMax, time.Since(a.began)/10), endingMost)
		return a.retry.Wait(ctx)
	case a.conn.pace.failed(alone, err) && kind == Busy:
		if q := a.queue(); q != nil {
			q.refused()
		}
		backlog := a.conn.backlog(ctx)
		if TimedOut(err) {
			backlog = min(backlog, stalledMost)
		}
		a.conn.pace.measured(backlog)
	}
	return ctx.Err() == nil
}

// reconnect waits until there is a connection again, or a while. After that grpc
// is asked once more why there is none, which asks no member.
func (a *asking) reconnect(ctx context.Context) bool {
	wait := a.retry.Next()
	if a.conn.isConnected() { // by way of another member, or the same again
		return worker.Sleep(ctx, wait-worker.BackoffFirst)
	}
	a.conn.connected(ctx, wait)
	return ctx.Err() == nil
}

// ended returns why there is no answer, when ctx has ended.
func (a *asking) ended(ctx context.Context) error {
	why := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(cause, why) {
		why = fmt.Errorf("%w: %w", why, cause)
	}
	switch {
	case a.last != nil:
		return fmt.Errorf("%w: %w", why, Explain(a.last))
	case !a.conn.isConnected():
		return fmt.Errorf("%w: %w", why, errConnecting)
	case errors.Is(why, context.DeadlineExceeded):
		return fmt.Errorf("%w: etcd did not answer in time", why)
	}
	return why
}

// probeKey is the key that cheap reads read. It is the first that there can be,
// and not there as a rule.
const probeKey = "\x00"

// read is a cheap read that a healthy quorum has to confirm. It goes to one member,
// or to any but one, and tells which one was asked. A refusal of the user comes after
// that, too.
func (c *Conn) read(ctx context.Context, to, not string) (from string, err error) {
	meter.Count(c.Metrics.Requests, 1)
	routed, route := c.Route(clientv3.WithRequireLeader(ctx))
	defer route.End()
	route.to, route.not = to, not
	_, err = c.KV.Get(routed, probeKey, clientv3.WithCountOnly())
	return route.name(), rpctypes.Error(err)
}

// backlog returns how long etcd takes to work off what waits there now, as far
// as a read tells, which has to wait for it. A read that etcd ends for its own
// timeout is followed by another one. So a store that stands still, or has more to
// do than it can in that time, gets no write until it has worked that off.
func (c *Conn) backlog(ctx context.Context) time.Duration {
	for retry := (worker.Backoff{Max: worker.BackoffMax}); ; {
		began := time.Now()
		_, err := c.read(ctx, "", "")
		switch {
		case err == nil || Refused(err):
			return time.Since(began)
		case KindOf(err) != Busy || !retry.Wait(ctx):
			return 0
		}
	}
}

// Wait waits after a stream has ended with an error, as that error demands: for
// a connection, or for the back-off. It reports whether ctx still lives.
func (c *Conn) Wait(ctx context.Context, err error, retry *worker.Backoff) bool {
	wait := retry.Next()
	if KindOf(err) == Away && !c.isConnected() {
		c.connected(ctx, wait)
		return ctx.Err() == nil
	}
	return worker.Sleep(ctx, wait)
}

// Late returns the error of a caller whose time is over before etcd has
// answered. It is a context.DeadlineExceeded that wraps the reason, if the
// caller's own request or another one knows it.
func (c *Conn) Late(why error) error {
	if why == nil {
		why = c.Why()
	}
	late := fmt.Errorf("%w: etcd did not answer within the request timeout", context.DeadlineExceeded)
	switch {
	case why != nil && !errors.Is(why, ErrNoAnswer):
		return fmt.Errorf("%w: %w", late, Explain(why))
	case !c.isConnected():
		return fmt.Errorf("%w: %w", late, errConnecting)
	}
	return late
}
