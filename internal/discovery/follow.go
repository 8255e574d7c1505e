package discovery

import (
	"context"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// follow applies the changes after the list, on one stream after the other for
// as long as they lead through one history. It returns when there is nothing to
// follow any more without a list. The channel is that of a loss of the last
// connection since before the list: it may be another etcd that answers next.
func (p *prefix) follow(ctx context.Context, lost <-chan struct{}) {
	resumeBy := time.Now().Add(resumeFor)
	nowhere := 0 // streams in a row that stood, and led nowhere
	refused := worker.Backoff{Max: againMax}
	for {
		began, seen := time.Now(), p.seen
		stood, resumable := p.followStream(ctx, lost)
		switch {
		case p.seen > seen || stood && time.Since(began) > settled:
			nowhere, resumeBy = 0, time.Now().Add(resumeFor)
		case stood:
			nowhere++
		}
		if ctx.Err() != nil || !resumable || p.known-p.seen > resumeWithin || nowhere > nowhereMost || time.Now().After(resumeBy) {
			return
		}
		if !stood { // etcd may have refused the watch on a stream that lives
			p.wait(ctx, refused.Next())
		}
	}
}

// followStream applies the changes that come on one stream. It reports whether
// the watch stood, and whether it can go on from there on another stream.
func (p *prefix) followStream(ctx context.Context, lost <-chan struct{}) (stood, resumable bool) {
	watch := p.hub.Watch(ctx, feed.Interest{Key: first(p.name), End: end(p.name), From: p.seen, History: p.history})
	defer watch.End()
	f := following{prefix: p, watch: watch}
	defer f.publish(false, true)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	if p.trouble.none() {
		ticker.Stop()
	}
	losing := lost // nil once the last connection is gone
	for {
		select {
		case <-watch.News():
			batch := watch.Take()
			f.take(batch)
			if batch.Err != nil {
				p.trouble.begin(batch.Err, batch.Since)
				return f.stood(), batch.Resumable && !worker.IsClosed(lost)
			}
			if batch.Silent {
				ticker.Reset(lookEvery)
			}
		case <-losing:
			losing = nil
			if !f.stood() || time.Since(f.since) < doubtful {
				p.trouble.begin(etcd.ErrConnectionLost, time.Now())
				return f.stood(), false
			}
		case <-ticker.C:
			p.trouble.look(time.Now())
			if p.trouble.none() {
				ticker.Stop()
			}
		case <-ctx.Done():
			return f.stood(), false
		}
	}
}

// following is what was made of one watch.
type following struct {
	prefix *prefix
	watch  *feed.Watch
	since  time.Time // when the watch stood
	silent bool
	unsaid time.Time // since when there is news that was not published
}

func (f *following) stood() bool { return !f.since.IsZero() }

// take makes what a watch brought known.
func (f *following) take(batch feed.Batch) {
	p := f.prefix
	p.known = max(p.known, batch.Header.GetRevision())
	if batch.Stands && !f.stood() {
		f.since = time.Now()
		f.resumed()
	}
	if batch.Silent != f.silent {
		f.silent = batch.Silent
		f.spoke(batch)
	}
	f.publish(p.apply(batch.Events), batch.Err != nil)
}

// publish passes the set on if it holds news. What has come already goes into
// the same set, as long as that does not take too long.
func (f *following) publish(news, now bool) {
	if !news && f.unsaid.IsZero() {
		return
	}
	if len(f.watch.News()) > 0 && !now {
		if f.unsaid.IsZero() {
			f.unsaid = time.Now()
		}
		if time.Since(f.unsaid) < publishEvery {
			return
		}
	}
	f.unsaid = time.Time{}
	f.prefix.publish()
}

// spoke notes that etcd became silent, or is so no more.
func (f *following) spoke(batch feed.Batch) {
	if !batch.Silent {
		if f.stood() && batch.Err == nil {
			f.resumed()
		}
		return
	}
	why := batch.Why
	if why == nil {
		why = etcd.ErrNoAnswer
	}
	f.prefix.trouble.begin(why, batch.Since)
	f.prefix.trouble.look(time.Now())
}

// resumed notes that the watch stands, and etcd speaks.
func (f *following) resumed() {
	p := f.prefix
	if p.trouble.over(p.entries.Set().Len()) {
		p.publish()
	}
}

// apply applies events of one or several revisions. It reports whether there is
// one that was not seen yet.
func (p *prefix) apply(events []*mvccpb.Event) (news bool) {
	seen := p.seen
	for _, event := range events {
		if event.Kv.ModRevision <= seen {
			continue
		}
		news = true
		p.seen = event.Kv.ModRevision
		if event.Type == mvccpb.Event_DELETE {
			p.entries.Delete(event.Kv.Key)
		} else {
			p.entries.Put(event.Kv.Key, event.Kv.Value)
		}
	}
	return news
}
