package etcdv3

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/kitsd/etcdv3/internal/fanout"
	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/journal"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/registration"
	"github.com/kitsd/etcdv3/internal/worker"
)

// Instancer yields the instances that are registered under a prefix, and
// passes every change on to its subscribers. It implements sd.Instancer, and is
// safe for concurrent use.
//
// An event holds all instances, sorted and each of them once, in a slice of the
// subscriber's own. When etcd has been out of reach for some 14 s, or refuses to
// be read, the event holds an error instead. After an error the full set comes
// again, as soon as etcd answers. An unchanged set is not sent twice. A subscriber
// that is slow gets fewer events, and always the newest.
type Instancer struct {
	cache  *fanout.Cache
	prefix string
	logger *journal.Logger
	worker *worker.Worker
}

// NewInstancer returns an Instancer for everything under a prefix, which is
// plain bytes: "/services/foo" also matches "/services/foobar/1", so let it end
// in a slash, as "/services/foo/". An empty prefix matches every key.
//
// It returns when the prefix was listed, or when the request timeout is over. In
// the second case the first event is an error, and the set follows when etcd
// answers; NewInstancer itself returns none. A set of any size is listed, page by
// page, however long that takes. A nil client is an error. A nil logger logs
// nothing.
//
// Over a Client that is not of this package, an Instancer calls GetEntries
// whenever WatchPrefix signals.
func NewInstancer(c Client, prefix string, logger log.Logger) (*Instancer, error) {
	if c == nil {
		return nil, errors.New("client is nil: make one with NewClient")
	}
	s := &Instancer{prefix: prefix, logger: journal.New(logger)}
	told := false // who found the error has logged it
	if own, ok := c.(*client); ok {
		told = s.follow(own)
	} else {
		s.poll(c)
	}
	if set, _, err := s.cache.Last(); err != nil && !told {
		level.Warn(s.logger).Log("prefix", prefix, "msg", "failed to retrieve entries", "err", err)
	} else if err == nil {
		level.Info(s.logger).Log("prefix", prefix, "instances", set.Len())
	}
	s.logger.Flush()
	return s, nil
}

// observer counts what a client's Instancers send.
func observer(m *meter.Metrics) fanout.Observer {
	return fanout.Observer{
		Sent:      func(n int) { meter.Count(m.EventsSent, n) },
		Coalesced: func(n int) { meter.Count(m.EventsCoalesced, n) },
	}
}

// follow takes the states of a watch, and waits for the first. It reports whether
// that came from the watch.
func (s *Instancer) follow(c *client) (came bool) {
	s.cache = fanout.New(observer(c.conn.Metrics))
	first := firstState{known: make(chan struct{})}
	s.worker = c.watchPrefix(s.prefix, s.logger, func(set instances.Set) {
		first.note(func() { s.cache.Update(set) })
	}, func(err error) {
		first.note(func() { s.cache.Fail(err) })
	})
	select {
	case <-first.known:
		return true
	case <-time.After(c.conn.Timeout):
		return first.orElse(func() { s.cache.Fail(c.reason(c.conn.Late(nil))) })
	case <-s.worker.Done(): // the client's context has ended, perhaps just now
		return first.orElse(func() { s.cache.Fail(registration.ErrClosed) })
	}
}

// firstState notes whether a state has come. The error of a caller whose time is
// over must not replace that state.
type firstState struct {
	mu    sync.Mutex // held while the state is set
	is    bool
	known chan struct{} // closed when a state has come
}

func (f *firstState) note(set func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set()
	if !f.is {
		f.is = true
		close(f.known)
	}
}

// orElse reports whether a state has come, and sets one if none has.
func (f *firstState) orElse(set func()) (is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.is {
		set()
	}
	return f.is
}

// foreignTimeout bounds the wait for a call of a Client that is not of this
// package: nothing can cancel its methods.
const foreignTimeout = 3 * time.Second

// poll lists once, and again at every signal of a Client that may be anything.
// Signals that arrive while it lists become one.
func (s *Instancer) poll(c Client) {
	s.cache = fanout.New(fanout.Observer{})
	s.list(c)
	signals := make(chan struct{})
	pending := make(chan struct{}, 1)
	s.worker = worker.Start(context.Background(), func(ctx context.Context) { s.relist(ctx, c, pending) })
	// A Client's methods take no context. So WatchPrefix ends when the Client does,
	// and nobody can wait for that. Until then signals are received: WatchPrefix
	// would block on a signal that nobody receives. After it has returned, signals
	// are received until Stop: a goroutine may have the channel, and still send.
	worker.Start(context.Background(), func(ctx context.Context) {
		watching := worker.Start(ctx, func(context.Context) { c.WatchPrefix(s.prefix, signals) }).Done()
		stopped := s.worker.Done()
		for watching != nil || stopped != nil {
			select {
			case _, ok := <-signals:
				if !ok {
					signals = nil // the Client has closed it, which is its end
					continue
				}
				worker.Poke(pending)
			case <-watching:
				watching = nil
			case <-stopped:
				stopped = nil
			}
		}
	})
}

// relist lists at every signal. After a failure it lists again until that
// succeeds, without waiting for a signal.
func (s *Instancer) relist(ctx context.Context, c Client, signals <-chan struct{}) {
	var retry worker.Backoff
	var again <-chan time.Time
	if _, _, err := s.cache.Last(); err != nil && !errors.Is(err, registration.ErrClosed) {
		again = time.After(retry.Next())
	}
	for {
		select {
		case <-signals:
		case <-again:
		case <-ctx.Done():
			return
		}
		if again = nil; s.list(c) {
			retry.Reset()
		} else {
			again = time.After(retry.Next())
		}
	}
}

// list makes what a Client lists the state, and reports whether that is all that
// can be done. The same failure is not logged twice in a row. The end of a Client
// that wraps ours is for good, and changes nothing that is known.
func (s *Instancer) list(c Client) bool {
	values, err := c.GetEntries(s.prefix)
	if err == nil {
		s.cache.UpdateStrings(values)
		return true
	}
	_, known, last := s.cache.Last()
	closed := errors.Is(err, registration.ErrClosed)
	if closed && known {
		return true
	}
	first := !known && last == nil
	s.cache.Fail(err)
	if !first && (last == nil || last.Error() != err.Error()) { // NewInstancer logs the first
		level.Warn(s.logger).Log("prefix", s.prefix, "msg", "failed to retrieve entries", "err", err)
	}
	return closed
}

// Register subscribes ch, and returns when ch has taken the current state: so let
// ch have a buffer, or a goroutine that receives. While etcd is out of reach, the
// state is the last known set, and the error follows. A channel that is registered
// already gets the state again. It implements sd.Instancer.
func (s *Instancer) Register(ch chan<- sd.Event) { s.cache.Register(ch) }

// Deregister unsubscribes ch. Once it has returned nothing is sent to ch, which
// may then be closed. It implements sd.Instancer.
func (s *Instancer) Deregister(ch chan<- sd.Event) { s.cache.Deregister(ch) }

// State returns what a new subscriber would know in the end: the instances, or
// the error that makes them stale. The slice belongs to the caller.
func (s *Instancer) State() sd.Event { return s.cache.State() }

// Stop ends the watch and all subscriptions, and returns when nothing is sent any
// more. It may be called often. State keeps the last state. It implements
// sd.Instancer.
func (s *Instancer) Stop() {
	s.cache.Stop()
	s.worker.StopWithin(foreignTimeout) // in a Client's GetEntries, which takes no context
	s.logger.Flush()
}
