package etcdv3

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/kitsd/etcdv3/internal/journal"
	"github.com/kitsd/etcdv3/internal/registration"
	"github.com/kitsd/etcdv3/internal/worker"
)

// Registrar registers one service, and keeps at it: where Client.Register
// returns an error, a Registrar logs the error and goes on trying. It never starts
// over: what etcd has granted or taken is kept for the next attempt. It implements
// sd.Registrar, and is safe for concurrent use. A copy of a Registrar is the same
// registration.
//
// Within one process a key has one owner. If another Registrar registers the same
// key, be it on another client, this one gives it up and Err says so.
type Registrar struct {
	client  Client
	service Service
	logger  log.Logger
	state   *state
}

// state is what the copies of a Registrar share.
type state struct {
	lines *journal.Logger // to Registrar.logger

	mu      sync.Mutex      // guards all below
	wanted  bool            // Register was called after the last Deregister
	calling bool            // Register has not returned yet
	came    bool            // the service was registered since it was called
	err     error           // why the service is not registered
	lost    bool            // it was registered since Register, and is not
	told    map[string]bool // reasons that were logged since the last repeat, nil if none
	since   time.Time       // when it was registered last, or Register was called
	repeat  *time.Timer
	tries   *worker.Worker // over a Client that is not one of this package
}

var (
	errNilClient     = errors.New("client is nil: make one with NewClient")
	errNotRegistered = errors.New("Register was not called yet")
	errRegistering   = errors.New("etcd has not answered to Register yet")
	errDeregistered  = errors.New("deregistered")
)

const (
	// A service that stays unregistered is told again after repeatFirst, and then
	// every repeatNext: whoever opens the log in the middle of the night sees it.
	repeatFirst = time.Minute
	repeatNext  = 10 * time.Minute
)

// NewRegistrar returns a Registrar for the service. It does nothing until
// Register is called. If client is nil, Err says so. A nil logger logs nothing;
// then Err alone tells why a service is not registered.
func NewRegistrar(client Client, service Service, logger log.Logger) *Registrar {
	if logger == nil {
		logger = log.NewNopLogger()
	}
	logger = log.With(logger, "key", service.Key, "value", service.Value)
	r := &Registrar{
		client:  client,
		service: service,
		logger:  logger,
		state:   &state{lines: journal.New(logger), err: errNotRegistered},
	}
	if client == nil {
		r.state.err = errNilClient
	}
	return r
}

// Register registers the service, typically at start-up. It returns when that
// has succeeded, or has failed, or when the request timeout is over. Then the
// reason is logged, and the work goes on in the background until the service is
// registered or Deregister is called. A request that etcd answers late still
// counts. A service without a key or a value is not tried again.
//
// From then on every change is logged once: that the registration was lost, why
// it does not come back, and that it is back. A service that stays unregistered
// is told again after a minute, and then every ten. If Register is called again,
// the key is put again. It implements sd.Registrar.
func (r *Registrar) Register() {
	defer r.state.lines.Flush()
	if r.client == nil {
		_ = r.state.lines.Log("err", errNilClient)
		return
	}
	own, ok := r.client.(*client)
	if !ok {
		r.registerForeign()
		return
	}
	r.begin(nil)
	err := own.register(r.service, true, registration.Observer{Who: r.state, Hear: r.observe})
	r.called(err)
}

// begin notes that Register was called, and replaces the tries of the last one.
func (r *Registrar) begin(tries *worker.Worker) {
	s := r.state
	s.mu.Lock()
	last := s.tries
	s.tries = tries
	s.wanted, s.calling, s.came = true, true, false
	if errors.Is(s.err, errNotRegistered) || errors.Is(s.err, errDeregistered) || registration.Ended(s.err) {
		s.err = errRegistering
	}
	if s.since.IsZero() || !s.lost {
		s.since = time.Now()
	}
	s.mu.Unlock()
	if last != nil {
		last.StopWithin(foreignTimeout)
	}
}

// called notes and logs what a call of Register came to.
func (r *Registrar) called(err error) {
	s := r.state
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calling = false
	if err == nil || s.came { // as observe has told
		return
	}
	if s.err == nil { // what was registered before stays
		s.came = true
		r.warn("not put again", err)
		return
	}
	r.warn("not registered", err)
	if registration.Ended(s.err) { // meanwhile, as observe has told
		return
	}
	s.err = err
	s.tell(reasonOf(err))
	if !hopeless(err) {
		r.repeat()
	}
}

// reasonOf returns what tells one reason from another: details of an outage
// change, and are no news.
func reasonOf(err error) string {
	if reason := registration.Reason(err); reason != "other" {
		return reason
	}
	return err.Error()
}

// hopeless reports whether a failed call of Register is not tried again.
func hopeless(err error) bool {
	return errors.Is(err, ErrNoKey) || errors.Is(err, ErrNoValue) || errors.Is(err, registration.ErrClosed)
}

// warn logs trouble. Over a Client that is not of this package, the lines are those
// of go-kit's Registrar, which have no level and no msg.
func (r *Registrar) warn(msg string, err error, more ...any) {
	if _, own := r.client.(*client); !own {
		_ = r.state.lines.Log("err", err)
		return
	}
	_ = level.Warn(r.state.lines).Log(append([]any{"msg", msg, "err", err}, more...)...)
}

// info logs a change for the better, in the same way.
func (r *Registrar) info(keyvals ...any) {
	if _, own := r.client.(*client); !own {
		_ = r.state.lines.Log(keyvals...)
		return
	}
	_ = level.Info(r.state.lines).Log(keyvals...)
}

// observe notes and logs what became of the registration.
func (r *Registrar) observe(err error, lease int64) {
	s := r.state
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	switch {
	case err == nil:
		r.back(lease)
	case errors.Is(err, registration.ErrInDoubt): // the next heartbeat tells
	case registration.Ended(err):
		r.stop()
		if s.wanted {
			r.warn("registration ended", err)
		}
	case s.told == nil && s.came:
		s.lost, s.since = true, time.Now()
		r.trouble("registration lost", err)
	default:
		r.trouble("not registered", err)
	}
}

// back logs that the service is registered. s.mu is held.
func (r *Registrar) back(lease int64) {
	s := r.state
	keyvals := []any{"action", "register"}
	if r.service.TTL != nil {
		keyvals = append(keyvals, "lease", lease)
	}
	if s.lost {
		keyvals = append(keyvals, "msg", "registered again")
	}
	r.stop()
	s.since, s.came = time.Now(), true
	r.info(keyvals...)
}

// trouble logs why the service is not registered. Reasons that take turns are
// logged once each until the trouble is repeated. Register itself tells of the first
// failure. s.mu is held.
func (r *Registrar) trouble(msg string, err error) {
	s := r.state
	if s.calling || !s.tell(reasonOf(err)) {
		return
	}
	r.warn(msg, err)
	r.repeat()
}

// tell notes that a reason is logged, and reports whether it was not yet. mu is held.
func (s *state) tell(reason string) bool {
	if s.told[reason] {
		return false
	}
	if s.told == nil {
		s.told = map[string]bool{}
	}
	s.told[reason] = true
	return true
}

// repeat has a trouble that goes on told again, whatever its reasons are. s.mu is
// held.
func (r *Registrar) repeat() {
	if r.state.repeat == nil {
		r.repeatIn(repeatFirst)
	}
}

// repeatIn has the trouble told again after a while. s.mu is held.
func (r *Registrar) repeatIn(wait time.Duration) {
	s := r.state
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.repeat != timer || s.err == nil {
			return
		}
		s.told = map[string]bool{reasonOf(s.err): true}
		r.warn("not registered", s.err, "for", time.Since(s.since).Round(time.Second))
		r.repeatIn(repeatNext)
	})
	s.repeat = timer
}

// stop ends the repeats. s.mu is held.
func (r *Registrar) stop() {
	s := r.state
	s.lost, s.told = false, nil
	if s.repeat != nil {
		s.repeat.Stop()
		s.repeat = nil
	}
}

// Deregister removes the service from etcd, typically just before the process
// ends. It returns when the key is gone, or when the request timeout is over. In
// the second case the key goes when etcd answers, and after its TTL at the latest.
// Nothing brings the key back, not even a request that arrives late. If a guard of
// DeleteOptions fails, nothing is deleted, and the service stays registered. The log
// tells of either. It implements sd.Registrar.
func (r *Registrar) Deregister() {
	defer r.state.lines.Flush()
	if r.client == nil {
		_ = r.state.lines.Log("err", errNilClient)
		return
	}
	r.leave()
	err := r.client.Deregister(r.service)
	s := r.state
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, ErrCompareFailed):
		s.wanted = s.wanted || s.err == nil // it stays
	case !s.wanted:
		s.err = errDeregistered
		r.stop()
	}
	if err != nil {
		r.warn("not deregistered", err)
	} else {
		r.info("action", "deregister")
	}
}

// leave notes that Deregister was called, and ends the tries of a Register.
func (r *Registrar) leave() {
	s := r.state
	s.mu.Lock()
	tries := s.tries
	s.tries, s.wanted = nil, false
	s.mu.Unlock()
	if tries != nil {
		tries.StopWithin(foreignTimeout)
	}
}

// Err returns nil while the service is registered, else why it is not, in the
// words of etcd or gRPC where they gave a reason. It does not ask etcd, and so
// answers at once. It knows of a lost lease or key within a heartbeat, and of an
// etcd that is out of reach within the TTL. Over a Client that is not of this
// package, it only knows what the last call of Register returned.
//
// Wait for a nil Err at start-up, and export Err as a metric. Do not fail a
// readiness probe on Err behind a Kubernetes Service. While etcd is away for
// longer than the TTL, every instance would be taken out at once. See
// docs/operations.md.
func (r *Registrar) Err() error {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return r.state.err
}

// registerForeign registers with a Client that may be anything, whose Register
// has to be called again until it succeeds.
func (r *Registrar) registerForeign() {
	first := make(chan struct{})
	begin := make(chan struct{})
	tries := worker.Start(context.Background(), func(ctx context.Context) {
		<-begin
		r.try(ctx, first)
	})
	r.begin(tries)
	close(begin)
	select {
	case <-first:
	case <-tries.Done():
	}
}

// try registers until that succeeds, and closes first after the first time.
func (r *Registrar) try(ctx context.Context, first chan struct{}) {
	var retry worker.Backoff
	for {
		err := r.client.Register(r.service)
		switch {
		case ctx.Err() != nil:
			if err == nil && !r.isWanted() { // too late: Deregister was called meanwhile
				_ = r.client.Deregister(r.service)
			}
			return
		case err == nil:
			r.observe(nil, r.client.LeaseID())
			return
		}
		if first != nil {
			r.called(err)
			close(first)
			first = nil
		} else {
			r.observe(err, 0)
		}
		if hopeless(err) || !retry.Wait(ctx) {
			return
		}
	}
}

func (r *Registrar) isWanted() bool {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return r.state.wanted
}
