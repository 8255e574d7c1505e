package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-kit/log"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// When etcd has given no sign of life for longer than the grace, there are
	// hurriedAttempts to list, each within hurriedTimeout, and then probes,
	// some at once, again and again: they go to one member after the other, and
	// one that answers is enough to know that etcd is within reach. All of that
	// fits into the 15 s in which subscribers hear if it is not.
	hurriedTimeout  = 900 * time.Millisecond
	hurriedAttempts = 2
	probesAtOnce    = 3
	probeInterval   = 500 * time.Millisecond
	probeTimeout    = 1500 * time.Millisecond

	// patientAttempts to list may fail while probes succeed, before the
	// subscribers hear of that.
	patientAttempts = 6

	// grace is how long trouble may last before subscribers hear of it: a
	// broken connection or an election that is over sooner cost them nothing.
	grace = 5 * time.Second
)

// watch is the life of one watched prefix: it lists what is there, follows
// what changes, and lists again whenever the following ended or is in doubt.
type watch struct {
	cli     *clientv3.Client
	link    *link
	prefix  string
	timeout time.Duration // bounds every request
	logger  log.Logger
	update  func(instances) // gets the set after every change of a key
	fail    func(error)     // gets the reason why the last set may be stale

	// All below belongs to the goroutine of run.
	entries  *entries           // what etcd holds, as far as is known
	seen     int64              // the revision up to which entries are complete
	header   *pb.ResponseHeader // of the last answer: where in etcd's history that was
	alive    time.Time          // when etcd last gave a sign of life
	since    time.Time          // when the present trouble began, zero while there is none
	attempts int                // to list that failed since then
	unopened int                // attempts to watch that did
	failed   bool               // the subscribers know of it
	unheard  int                // watches in a row that answered no progress request
}

// run is the life of a watched prefix. It returns when ctx ends.
func (w *watch) run(ctx context.Context) {
	w.alive = time.Now()
	var retry backoff
	for ctx.Err() == nil {
		lost := w.link.lost()
		began := time.Now()
		err := w.list(ctx)
		listed := err == nil
		if listed {
			err = w.follow(ctx, lost)
		} else {
			w.report(ctx, err)
		}
		if time.Since(began) > grace {
			retry.reset()
		}
		w.interrupted(ctx, err)
		if w.hurries() && !listed {
			sleep(ctx, backoffFirst)
		} else {
			retry.wait(ctx)
		}
	}
}

// follow applies the changes after the list, on one stream after the other for
// as long as they lead through one history, and returns why that ended.
func (w *watch) follow(ctx context.Context, lost <-chan struct{}) error {
	for {
		began, seen := time.Now(), w.seen
		resumable, err := w.followStream(ctx, lost)
		if !resumable || w.seen == seen && time.Since(began) < grace {
			return err // to list, if that stream led nowhere
		}
		w.interrupted(ctx, err)
		sleep(ctx, rand.N(resumeJitter))
	}
}

// resumeJitter spreads the watches that lose their streams with one member.
const resumeJitter = 200 * time.Millisecond

// followStream applies the changes that come on one stream, and returns why
// that ended. It watches from the revision that was seen last, not from the
// next: a watch that is ahead of the store answers no progress request
// (server/storage/mvcc, progressIfSync), and the next change may be far away.
//
// A stream that broke while there was a connection to another member is
// resumable: etcd's history goes on. With one endpoint alone it may be another
// etcd that answers next, and nothing cheaper than to list tells.
func (w *watch) followStream(ctx context.Context, lost <-chan struct{}) (resumable bool, err error) {
	feed, err := w.open(ctx)
	if err != nil {
		return false, fmt.Errorf("watch prefix %q: %w", w.prefix, err)
	}
	defer feed.stop()
	w.resumed()
	check := newCheck(w, feed)
	defer check.stop()
	news := false // that the subscribers have not got
	defer func() {
		if news {
			w.update(w.entries.sorted)
		}
	}()
	for {
		select {
		case c, ok := <-feed.changes:
			w.alive = time.Now()
			if !ok {
				return broken(feed.err) && w.resumable(), fmt.Errorf("watch prefix %q: %w", w.prefix, feed.err)
			}
			if c.progress && older(c.header, w.header) || anotherCluster(c.header, w.header) {
				return false, errAnotherHistory
			}
			check.answered(c)
			news = w.apply(c) || news
			if news && len(feed.changes) == 0 { // what has come already goes into the same set
				w.update(w.entries.sorted)
				news = false
			}
		case <-check.ask.C:
			check.request(ctx)
		case <-check.due.C:
			if err := check.unanswered(ctx); err != nil {
				return false, err
			}
		case <-lost:
			w.alive = time.Now()
			return false, errConnectionLost
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// Why a watch is given up that did not end by itself.
var (
	errConnectionLost = errors.New("the connection to etcd was lost")
	errAnotherHistory = errors.New("etcd's revisions start over: its store is another one")
	errSilent         = errors.New("the watch gives no sign of life")
)

// openAttempts is to how many members a watch is offered after a list. grpc
// gives each request to the next one, so that of two members the one that is
// well could list, and the one that has no leader be asked to watch, for ever.
const openAttempts = 3

// open begins a watch from the revision that was seen last. A member has little
// time for that at first, so that a silent one is soon left for another.
func (w *watch) open(ctx context.Context) (f *feed, err error) {
	in := interest{firstKey(w.prefix), clientv3.GetPrefixRangeEnd(w.prefix), w.seen}
	for range max(1, min(len(w.cli.Endpoints()), openAttempts)) {
		timeout := min(w.timeout, defaultTimeout, hurriedTimeout*time.Duration(1+w.unopened))
		f, err = openFeed(ctx, w.cli, timeout, newName(), in)
		if err == nil || ctx.Err() != nil || !passes(err) {
			return f, err
		}
		w.unopened++
	}
	return nil, err
}

// resumeWithin is how many revisions a watch may be behind, as far as is known,
// to be resumed: etcd reads all that happened since, under whatever key, which
// for a prefix where little happens costs more than to list it.
const resumeWithin = 1_000

// resumable reports whether a watch that broke may go on at another member.
func (w *watch) resumable() bool {
	return len(w.cli.Endpoints()) > 1 && w.header.GetRevision()-w.seen <= resumeWithin
}

// older reports whether an answer comes from an etcd whose history is not the
// one that is known: another cluster, or one that was restored or wiped. A
// proxy leaves fields of its headers empty.
func older(now, known *pb.ResponseHeader) bool {
	return anotherCluster(now, known) || now.GetClusterId() != 0 && known.GetClusterId() != 0 &&
		(now.Revision < known.Revision || now.RaftTerm < known.RaftTerm)
}

func anotherCluster(now, known *pb.ResponseHeader) bool {
	return now.GetClusterId() != 0 && known.GetClusterId() != 0 && now.ClusterId != known.ClusterId
}

// apply applies the events of one response, of which there may be many of
// several revisions, and reports whether it holds one that was not seen yet.
func (w *watch) apply(c change) (news bool) {
	if c.header.GetClusterId() != 0 {
		w.header = c.header
	}
	seen := w.seen
	for _, event := range c.events {
		if event.Kv.ModRevision <= seen {
			continue
		}
		news = true
		w.seen = event.Kv.ModRevision
		if event.Type == mvccpb.Event_DELETE {
			w.entries.delete(event.Kv.Key)
		} else {
			w.entries.put(event.Kv.Key, event.Kv.Value)
		}
	}
	return news
}

// interrupted notes when trouble began, and logs it once.
func (w *watch) interrupted(ctx context.Context, err error) {
	if ctx.Err() != nil || !w.since.IsZero() {
		return
	}
	if w.since = w.alive; w.entries == nil {
		return // it never stood, which is for the caller to say
	}
	w.logger.Log("prefix", w.prefix, "msg", "watch interrupted", "err", err)
}

// report tells the subscribers that the prefix cannot be listed: once etcd is
// out of reach; at once when it is trouble that does not pass by itself, or
// when they know nothing yet.
func (w *watch) report(ctx context.Context, err error) {
	w.attempts++
	if ctx.Err() != nil || w.failed {
		return
	}
	if passes(err) && w.entries != nil && !w.outOfReach(ctx) || ctx.Err() != nil {
		return
	}
	w.failed = true
	w.fail(err)
}

// outOfReach reports whether the trouble is to be told: it lasts, and no member
// answers, or none can be listed.
func (w *watch) outOfReach(ctx context.Context) bool {
	if !w.hurries() || w.attempts < hurriedAttempts {
		return false
	}
	if w.probeAll(ctx) {
		w.alive = time.Now()
		return w.attempts >= patientAttempts
	}
	return true
}

// hurries reports whether there has been trouble for longer than the grace
// that the subscribers have not heard of.
func (w *watch) hurries() bool {
	return !w.failed && !w.since.IsZero() && time.Since(w.since) >= grace
}

// resumed notes that the watch stands.
func (w *watch) resumed() {
	if !w.since.IsZero() {
		w.logger.Log("prefix", w.prefix, "msg", "watch resumed", "instances", w.entries.sorted.len)
	}
	w.since, w.attempts, w.unopened = time.Time{}, 0, 0
}
