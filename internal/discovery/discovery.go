// Package discovery is the life of one watched prefix: list, follow, list again
// when in doubt.
package discovery

import (
	"context"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// tolerated is how long etcd may give no sign of life until subscribers hear
	// of it. They are promised to within 15 s, and not to hear of what is over
	// sooner. It asks etcd for nothing.
	tolerated = 13500 * time.Millisecond

	// staleMost is when subscribers hear that the set may be old while etcd does
	// answer others, and the list waits for its turn there.
	staleMost = 45 * time.Second

	// arrivingMost is how long the bytes of a list put off that subscribers hear of
	// a trouble: others may have asked for them, or the link breaks each time.
	arrivingMost = 10 * time.Minute

	// turnedFor is how long another reason has to stand until subscribers hear of
	// it. One that they heard of before has to stand for repeatFirst.
	turnedFor = time.Second

	// A trouble that goes on is logged again after repeatFirst, and then every
	// repeatEvery.
	repeatFirst = time.Minute
	repeatEvery = 10 * time.Minute

	// lookEvery is how often a trouble is looked at. It asks etcd for nothing.
	lookEvery = 250 * time.Millisecond

	// publishEvery is when a set is published at the latest while events come
	// faster than they are applied.
	publishEvery = 50 * time.Millisecond

	// resumeWithin is how many revisions a watch may be behind, as far as is
	// known, to be resumed. etcd then reads all that happened since, under
	// whatever key. For a prefix where little happens that costs more than to
	// list it.
	resumeWithin = 1_000

	// resumeFor is how long a watch is resumed without success until the prefix
	// is listed. Where watches cannot be opened at all it is listed as often.
	resumeFor = 10 * time.Second

	// nowhereMost is how many watches in a row may stand and end at once until
	// the prefix is listed. The next event may be what ends them.
	nowhereMost = 2

	// againMax is the longest wait before a watch that did not stand is
	// resumed. A longer wait costs time after each outage. Without a wait, a
	// watch that etcd refuses is asked for as fast as the network allows.
	againMax = 500 * time.Millisecond

	// doubtful is how long after a watch stands a loss of the last connection
	// may become known that came before it.
	doubtful = time.Second

	// settled is how long a watch has to stand for the wait before the next list
	// to be short again.
	settled = 5 * time.Second

	// refusedMax is the longest wait after a list that was refused. Etcd refuses
	// before it reads anything: two thousand such a second, of ten thousand
	// clients, cost it less than one core.
	refusedMax = 5 * time.Second
)

// prefix is one watched prefix.
type prefix struct {
	conn   *etcd.Conn
	hub    *feed.Hub
	name   string
	update func(instances.Set)
	lister *lister

	// All below belongs to the goroutine of run.
	trouble *trouble
	entries *instances.Entries // what etcd holds, as far as is known; nil before the first list
	history int                // of etcd, which they belong to
	seen    int64              // the revision up to which entries are complete
	known   int64              // the revision that etcd is known to have reached
	retry   worker.Backoff     // before the next list
	refused worker.Backoff     // after one that was refused
}

// Watch follows a prefix until ctx ends, or the worker is stopped. Its functions
// are called by the worker alone: update with the set after each change, fail
// with the reason why the last set may be stale. After fail comes update, as soon
// as the set is known to be fresh, even if it is the same.
func Watch(ctx context.Context, conn *etcd.Conn, hub *feed.Hub, name string, logger log.Logger, update func(instances.Set), fail func(error)) *worker.Worker {
	p := &prefix{
		conn: conn, hub: hub, name: name, update: update, lister: newLister(conn, name),
		trouble: newTrouble(conn, name, logger, fail), refused: worker.Backoff{Max: refusedMax},
	}
	return worker.Start(ctx, p.run)
}

// run is the life of a watched prefix. It returns when ctx ends.
func (p *prefix) run(ctx context.Context) {
	meter.Add(p.conn.Metrics.PrefixesWatched, 1)
	defer meter.Add(p.conn.Metrics.PrefixesWatched, -1)
	defer p.trouble.forget()
	for ctx.Err() == nil {
		lost := p.conn.Lost()
		if err := p.list(ctx); err != nil {
			p.trouble.refuse(err)
			p.wait(ctx, p.refused.Next())
			continue
		}
		p.refused.Reset()
		began := time.Now()
		p.follow(ctx, lost)
		if time.Since(began) > settled {
			p.retry.Reset()
		}
		p.wait(ctx, p.retry.Next())
	}
}

// list replaces what is known by what etcd holds at one revision. It waits for
// that as long as it takes, and returns an error only if etcd refuses it.
func (p *prefix) list(ctx context.Context) error {
	var all *instances.Entries
	var at int64
	var err error
	before, under := p.hub.History(), &etcd.Underway{}
	listing := worker.Start(ctx, func(ctx context.Context) {
		all, at, err = p.lister.entries(etcd.WithUnderway(etcd.WithReport(ctx, p.trouble.report), under))
	})
	p.trouble.list = under
	until(ctx, p, listing.Done())
	p.trouble.list = nil
	listing.Stop()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	same := p.entries != nil && p.entries.SameKeys(all)
	p.entries, p.seen, p.known = all, at, at
	p.history = p.hub.Listed(before, p.lister.header)
	if p.trouble.fresh() || !same {
		p.publish()
	}
	return nil
}

// publish passes the set on.
func (p *prefix) publish() {
	set := p.entries.Set()
	p.update(set)
	meter.Set(p.conn.Metrics.Instances, float64(set.Len()), "prefix", p.name)
}

// wait waits, and goes on telling of a trouble.
func (p *prefix) wait(ctx context.Context, d time.Duration) {
	until(ctx, p, time.After(d))
}

// until waits for done, and goes on telling of a trouble.
func until[T any](ctx context.Context, p *prefix, done <-chan T) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case err := <-p.trouble.reports:
			p.trouble.because(err)
		case <-ticker.C:
		}
		p.trouble.look(time.Now())
	}
}

// first is the first key that a prefix can match: etcd has no empty one.
func first(prefix string) string {
	if prefix == "" {
		return "\x00"
	}
	return prefix
}

func end(prefix string) string { return clientv3.GetPrefixRangeEnd(prefix) }
