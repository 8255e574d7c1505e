package discovery

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// trouble is what keeps the set of a prefix from being known to be fresh: since
// when, why, and who was told. It belongs to the goroutine of the prefix.
type trouble struct {
	conn    *etcd.Conn
	prefix  string
	logger  log.Logger
	fail    func(error)
	reports chan error // holds the newest reason why a list waits

	since   time.Time       // the set was fresh then, as far as is known
	began   time.Time       // zero while there is no trouble
	first   bool            // there never was a set
	list    *etcd.Underway  // nil if none is under way
	sent    time.Time       // when its request went to a member, zero if it is at none
	arrived time.Time       // when a part of it was last seen to arrive
	why     error           // nil if it is not known
	learned time.Time       // when that became known
	told    error           // what the subscribers were told last, nil if nothing
	said    map[string]bool // the reasons among all that they were told
	word    string          // the present reason
	turned  time.Time       // when it became that
	logged  bool            // "watch interrupted"
	again   time.Time       // when to log that it goes on
}

func newTrouble(conn *etcd.Conn, prefix string, logger log.Logger, fail func(error)) *trouble {
	now := time.Now()
	return &trouble{
		conn: conn, prefix: prefix, logger: log.With(logger, "prefix", prefix), fail: fail,
		reports: make(chan error, 1), since: now, began: now, first: true,
	}
}

// none reports whether there is no trouble.
func (t *trouble) none() bool { return t.began.IsZero() }

// report takes a reason from another goroutine. The newest counts.
func (t *trouble) report(err error) {
	for {
		select {
		case t.reports <- err:
			return
		default:
		}
		select {
		case <-t.reports:
		default:
		}
	}
}

// begin notes that a watch has ended, and since when it is not known to be well.
func (t *trouble) begin(err error, since time.Time) {
	t.because(err)
	now := time.Now()
	if t.none() {
		t.since, t.began = since, now
	}
	if t.logged {
		return
	}
	t.logged, t.again = true, now.Add(repeatFirst)
	meter.Add(t.conn.Metrics.PrefixesStale, 1)
	meter.Count(t.conn.Metrics.Interruptions, 1, "reason", etcd.Reason(err))
	level.Warn(t.logger).Log("msg", "watch interrupted", "err", err)
}

// because notes a reason. A compaction says nothing about etcd's health.
func (t *trouble) because(err error) {
	if !errors.Is(err, rpctypes.ErrCompacted) {
		t.why, t.learned = err, time.Now()
	}
}

// refuse notes that a list was refused, which does not pass by itself.
func (t *trouble) refuse(err error) {
	t.why, t.learned = err, time.Now()
	if word := etcd.Reason(err); !t.said[word] || t.isNews(word, time.Now()) {
		t.tell(err)
	}
}

// look tells of the trouble when it has lasted long enough.
func (t *trouble) look(now time.Time) {
	if t.none() {
		return
	}
	meter.Set(t.conn.Metrics.SilentSeconds, now.Sub(t.since).Seconds(), "prefix", t.prefix)
	t.sent = time.Time{}
	if t.list != nil {
		t.sent, t.arrived = t.list.Look(now)
	}
	why := t.reason(now)
	if word := etcd.Reason(why); t.told == nil && t.isDue(word, now) || word != "other" && t.isNews(word, now) {
		t.tell(why)
	}
	if t.logged && !now.Before(t.again) {
		t.again = t.again.Add(repeatEvery)
		level.Warn(t.logger).Log("msg", "watch interrupted", "err", why, "for", now.Sub(t.began).Round(time.Second))
	}
}

// isNews reports whether subscribers, who were told of another reason, are to hear
// of this one. Of reasons that take turns each is told once.
func (t *trouble) isNews(word string, now time.Time) bool {
	if word != t.word {
		t.word, t.turned = word, now
	}
	stands := turnedFor
	if t.said[word] {
		stands = repeatFirst
	}
	if word == etcd.NoAnswer && now.Sub(worker.Later(t.sent, t.arrived)) < tolerated {
		return false // it is early to say so
	}
	return t.told != nil && word != etcd.Reason(t.told) && now.Sub(t.turned) >= stands
}

// isDue reports whether subscribers are to hear of the trouble. While a list is
// under way etcd may answer others first: that is slow, and not out of reach. What
// it answered before the trouble began is no such sign. Who waits for the first
// list hears a reason just before the request timeout is over, and knows of no
// answer then.
func (t *trouble) isDue(word string, now time.Time) bool {
	if t.first && now.Sub(t.since) >= t.conn.Timeout-lookEvery && word != etcd.NoAnswer {
		return true
	}
	since, lasts := t.since, now.Sub(t.since)
	if t.list != nil && lasts < staleMost && t.conn.Alive().After(t.began) {
		since = t.conn.Alive()
	}
	if lasts < arrivingMost {
		since = worker.Later(since, t.arrived)
	}
	return now.Sub(since) >= tolerated
}

// reason returns why the set may be stale, in etcd's own words if there are any.
func (t *trouble) reason(now time.Time) error {
	why := t.why
	if t.sent.After(t.learned) && now.Sub(t.sent) >= t.conn.Timeout {
		why = nil // a member has the list's request: whatever was in the way is not
	} else if known := t.conn.Why(); why == nil || errors.Is(why, etcd.ErrNoAnswer) && known != nil {
		why = known
	}
	if why == nil {
		return fmt.Errorf("no answer for %v: %w", now.Sub(t.since).Truncate(lookEvery), etcd.ErrNoAnswer)
	}
	return why
}

// tell tells the subscribers.
func (t *trouble) tell(err error) {
	if t.told == nil && !t.logged {
		meter.Add(t.conn.Metrics.PrefixesStale, 1)
		t.logged, t.again = true, time.Now().Add(repeatFirst)
	}
	if t.said == nil {
		t.said = map[string]bool{}
	}
	t.told, t.said[etcd.Reason(err)] = err, true
	err = fmt.Errorf("prefix %q: %w", t.prefix, etcd.Explain(err))
	level.Warn(t.logger).Log("msg", "failed to retrieve entries", "err", err)
	t.fail(err)
}

// fresh notes that the set was fresh a moment ago. It reports whether subscribers
// wait for that.
func (t *trouble) fresh() (news bool) {
	news = t.first || t.told != nil
	t.since, t.first, t.told, t.said, t.why = time.Now(), false, nil, nil, nil
	select {
	case <-t.reports: // of a list that is over
	default:
	}
	return news
}

// over notes that the watch stands, with so many instances. It reports whether
// subscribers wait for that.
func (t *trouble) over(instances int) (news bool) {
	news = t.fresh()
	t.began = time.Time{}
	meter.Set(t.conn.Metrics.SilentSeconds, 0, "prefix", t.prefix)
	if t.logged {
		t.logged = false
		meter.Add(t.conn.Metrics.PrefixesStale, -1)
		level.Info(t.logger).Log("msg", "watch resumed", "instances", instances)
	}
	return news
}

// forget takes the prefix out of the metrics.
func (t *trouble) forget() {
	meter.Set(t.conn.Metrics.SilentSeconds, 0, "prefix", t.prefix)
	if t.logged {
		meter.Add(t.conn.Metrics.PrefixesStale, -1)
	}
}
