package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

const (
	// When etcd has given no sign of life for longer than the grace, there are
	// hurriedAttempts to list, each within hurriedTimeout, and then probes:
	// they go to one member after the other, and one that answers is enough to
	// know that etcd is within reach. All of them fit into the 15 s in which
	// subscribers hear if it is not.
	hurriedTimeout  = 900 * time.Millisecond
	hurriedAttempts = 2
	probes          = 5
	probeTimeout    = 300 * time.Millisecond

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
	id       string             // makes the stream of this watch its own
	entries  *entries           // what etcd holds, as far as is known
	listed   int64              // the revision of the list
	header   *pb.ResponseHeader // of the last answer: where in etcd's history that was
	alive    time.Time          // when etcd last gave a sign of life
	since    time.Time          // when the present trouble began, zero while there is none
	attempts int                // to list that failed since then
	failed   bool               // the subscribers know of it
	unheard  int                // watches in a row that answered no progress request
}

// watches counts the watches of this process, which gives each its id.
var watches atomic.Int64

// run is the life of a watched prefix. It returns when ctx ends.
func (w *watch) run(ctx context.Context) {
	w.id = strconv.FormatInt(watches.Add(1), 10)
	w.alive = time.Now()
	var retry backoff
	for ctx.Err() == nil {
		lost := w.link.lost()
		began := time.Now()
		err := w.list(ctx)
		if err == nil {
			err = w.follow(ctx, lost)
		} else {
			w.report(ctx, err)
		}
		if time.Since(began) > grace {
			retry.reset()
		}
		w.interrupted(ctx, err)
		if w.hurries() {
			sleep(ctx, backoffFirst)
		} else {
			retry.wait(ctx)
		}
	}
}

// follow applies the changes after the list, and returns why that ended. It
// watches from the revision of the list, not from the next: a watch that is
// ahead of the store answers no progress request (server/storage/mvcc,
// progressIfSync), and the next change may be far away.
func (w *watch) follow(ctx context.Context, lost <-chan struct{}) error {
	watcher := newWatcher(w.cli)
	defer watcher.close()
	ctx, cancel := context.WithCancel(w.metadata(ctx))
	defer cancel()
	changes, ok := watcher.open(ctx, w.openTimeout(), w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.header.GetRevision()))
	if !ok {
		w.attempts++
		return errNotOpened
	}
	w.resumed()
	check := newCheck(w, watcher)
	defer check.stop()
	for {
		select {
		case resp, ok := <-changes:
			w.alive = time.Now()
			if err := ended(resp, ok); err != nil {
				return fmt.Errorf("watch prefix %q: %w", w.prefix, err)
			}
			if resp.IsProgressNotify() && older(resp.Header, w.header) || anotherCluster(resp.Header, w.header) {
				return errAnotherHistory
			}
			check.answered(resp)
			w.apply(resp)
		case <-check.ask.C:
			check.request(ctx)
		case <-check.due.C:
			if err := check.unanswered(ctx); err != nil {
				return err
			}
		case <-lost:
			w.alive = time.Now()
			return errConnectionLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Why a watch is given up that did not end by itself.
var (
	errConnectionLost = errors.New("the connection to etcd was lost")
	errAnotherHistory = errors.New("etcd's revisions start over: its store is another one")
	errNotOpened      = errors.New("etcd does not answer to the watch")
	errSilent         = errors.New("the watch gives no sign of life")
)

// openTimeout is how long a member may take to begin a watch: short at first,
// so that a silent one is soon left for another.
func (w *watch) openTimeout() time.Duration {
	return min(w.timeout, defaultTimeout, hurriedTimeout*time.Duration(1+w.attempts))
}

// metadata gives this watch a gRPC stream of its own, also on a Watcher that it
// shares: clientv3 puts watches with equal metadata on one stream, which keeps
// the token that it was opened with. A member without a leader ends the stream.
func (w *watch) metadata(ctx context.Context) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, "kitsd-watch", w.id)
	return clientv3.WithRequireLeader(ctx)
}

// ended returns why a watch is over, nil if it is not. A watch that was
// cancelled closes its channel, with a response that knows no error.
func ended(resp clientv3.WatchResponse, ok bool) error {
	switch {
	case !ok:
		return errors.New("the watch was closed")
	case resp.Err() != nil:
		return resp.Err()
	case resp.Canceled:
		return errors.New("the watch was cancelled by the server")
	}
	return nil
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

// apply makes one response, which may hold many events of several revisions,
// into one new set.
func (w *watch) apply(resp clientv3.WatchResponse) {
	changed := false
	for _, event := range resp.Events {
		if event.Kv.ModRevision <= w.listed {
			continue
		}
		changed = true
		if event.Type == clientv3.EventTypeDelete {
			w.entries.delete(event.Kv.Key)
		} else {
			w.entries.put(event.Kv.Key, event.Kv.Value)
		}
	}
	if resp.Header.GetClusterId() != 0 {
		w.header = resp.Header
	}
	if changed {
		w.update(w.entries.sorted)
	}
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
	if passes(err) && w.entries != nil && !w.outOfReach(ctx) {
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
	for range probes {
		if _, err := w.probe(ctx, probeTimeout); err == nil {
			return w.attempts >= patientAttempts
		}
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
	w.since, w.attempts = time.Time{}, 0
}
