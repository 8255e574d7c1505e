package etcdv3

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
)

// Instancer yields the instances that are registered under a prefix, and
// passes every change on to its subscribers. It implements sd.Instancer, and is
// safe for concurrent use.
//
// Every event holds all instances, sorted and each of them once, in a slice of
// the subscriber's own; or an error, when etcd has been out of reach for some
// seconds, or refuses to be read. After an error comes the full set again, as
// soon as etcd answers. An unchanged set is not sent twice. A subscriber that
// is slow gets fewer events, and always the newest.
type Instancer struct {
	cache  *cache
	prefix string
	logger log.Logger
	worker *worker
}

// prefixWatcher is what the Client of this package offers to an Instancer
// beyond the interface: states instead of signals to list again.
type prefixWatcher interface {
	watchPrefix(prefix string, logger log.Logger, update func(instances), fail func(error)) *worker
}

// NewInstancer returns an Instancer for everything under a prefix, which is
// plain bytes: "/services/foo" also matches "/services/foobar/1", so let it end
// in a slash, as "/services/foo/". An empty prefix matches every key.
//
// It returns when etcd has been listed, or has failed to be within the request
// timeout; that is no error of NewInstancer, but the first event, and the set
// follows when etcd answers. A nil client is an error. A nil logger logs
// nothing.
//
// Over a Client that is not one of this package, it calls GetEntries whenever
// WatchPrefix signals.
func NewInstancer(c Client, prefix string, logger log.Logger) (*Instancer, error) {
	if c == nil {
		return nil, errors.New("client is nil: make one with NewClient")
	}
	if logger == nil {
		logger = log.NewNopLogger()
	}
	s := &Instancer{cache: newCache(), prefix: prefix, logger: logger}
	if own, ok := c.(prefixWatcher); ok {
		s.follow(own)
	} else {
		s.poll(c)
	}
	if state, _ := s.cache.current(); state.err != nil {
		logger.Log("prefix", prefix, "err", state.err)
	} else {
		logger.Log("prefix", prefix, "instances", state.set.len)
	}
	return s, nil
}

// follow takes the states of a watch, and waits for the first.
func (s *Instancer) follow(c prefixWatcher) {
	first := make(chan struct{})
	var once sync.Once
	s.worker = c.watchPrefix(s.prefix, s.logger, func(set instances) {
		s.cache.update(set)
		once.Do(func() { close(first) })
	}, func(err error) {
		s.cache.fail(err)
		once.Do(func() { close(first) })
	})
	select {
	case <-first:
	case <-s.worker.done: // the client's context has ended, perhaps just now
		once.Do(func() { s.cache.fail(errClosed) })
	}
}

// poll lists once, and again at every signal of a Client that may be anything.
// Signals that arrive while it lists become one.
func (s *Instancer) poll(c Client) {
	s.list(c)
	signals := make(chan struct{})
	pending := make(chan struct{}, 1)
	s.worker = start(context.Background(), func(ctx context.Context) { s.relist(ctx, c, pending) })
	// A Client's methods take no context, so WatchPrefix ends when the Client
	// does, and nobody can wait for it. Until then its signals are received: one
	// that is not would block it for ever. They are, too, until Stop: WatchPrefix
	// may have handed its channel on.
	start(context.Background(), func(ctx context.Context) {
		watching := start(ctx, func(context.Context) { c.WatchPrefix(s.prefix, signals) }).done
		stopped := s.worker.done
		for watching != nil || stopped != nil {
			select {
			case _, ok := <-signals:
				if !ok {
					signals = nil // the Client has closed it, which is its end
					continue
				}
				poke(pending)
			case <-watching:
				watching = nil
			case <-stopped:
				stopped = nil
			}
		}
	})
}

// relist lists at every signal, and after a failure until it succeeds: no
// signal has to come for that.
func (s *Instancer) relist(ctx context.Context, c Client, signals <-chan struct{}) {
	var retry backoff
	var again <-chan time.Time
	if state, _ := s.cache.current(); state.err != nil {
		again = time.After(retry.next())
	}
	for {
		select {
		case <-signals:
		case <-again:
		case <-ctx.Done():
			return
		}
		if again = nil; s.list(c) {
			retry.reset()
		} else {
			again = time.After(retry.next())
		}
	}
}

// list makes what a Client lists the state, and reports whether it could. The
// same failure again is not logged again.
func (s *Instancer) list(c Client) bool {
	values, err := c.GetEntries(s.prefix)
	if err == nil {
		s.cache.updateStrings(values)
		return true
	}
	last, _ := s.cache.current()
	if errors.Is(err, errClosed) && last.known && last.err == nil {
		return true // the end of a Client that wraps ours: what is known stays
	}
	if last.err == nil || last.err.Error() != err.Error() {
		s.logger.Log("prefix", s.prefix, "msg", "failed to retrieve entries", "err", err)
	}
	s.cache.fail(err)
	return false
}

// Register subscribes ch, and returns when ch has taken the current state; so
// let it be buffered, or received from by another goroutine. While etcd is out
// of reach that is the last known set, and the error follows. A channel that is
// registered already gets the state again. It implements sd.Instancer.
func (s *Instancer) Register(ch chan<- sd.Event) { s.cache.register(ch) }

// Deregister unsubscribes ch. Once it has returned nothing is sent to ch, which
// may then be closed. It implements sd.Instancer.
func (s *Instancer) Deregister(ch chan<- sd.Event) { s.cache.deregister(ch) }

// State returns what a new subscriber would know in the end: the instances, or
// the error that makes them stale.
func (s *Instancer) State() sd.Event { return s.cache.State() }

// Stop ends the watch and all subscriptions, and returns when nothing is sent
// any more. It may be called often. It implements sd.Instancer.
func (s *Instancer) Stop() {
	s.cache.stop()
	s.worker.cancel()
	select {
	case <-s.worker.done:
	case <-time.After(foreignTimeout): // in a Client's GetEntries, which takes no context
	}
}
