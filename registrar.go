package etcdv3

import (
	"context"
	"errors"
	"sync"

	"github.com/go-kit/log"
)

// Registrar registers one service, and keeps at it: where Client.Register
// returns an error, a Registrar logs it and goes on trying. It implements
// sd.Registrar, and is safe for concurrent use. A copy of a Registrar is the
// same registration.
type Registrar struct {
	client  Client
	service Service
	logger  log.Logger
	attempt *attempt
}

// attempt is what the copies of a Registrar share.
type attempt struct {
	mu    sync.Mutex // guards all below
	tries *worker    // of the last Register: it ends when one succeeds; nil after Deregister
	err   error      // why the service is not registered
	taken bool       // that another owner has the key was logged, since it was ours
}

var (
	errNilClient     = errors.New("client is nil: make one with NewClient")
	errNotRegistered = errors.New("Register was not called yet")
	errDeregistered  = errors.New("deregistered")
)

// foreignTimeout bounds the wait for a call of a Client that is not one of this
// package, whose methods nothing can cancel.
const foreignTimeout = defaultTimeout

// observedClient is what the Client of this package offers to a Registrar
// beyond the interface: to cancel a call, and to hear what becomes of a
// registration.
type observedClient interface {
	registerObserved(ctx context.Context, s Service, observe func(err error, lease int64)) error
}

// NewRegistrar returns a Registrar for the service. It does nothing until
// Register is called. A nil client is told by Err. A nil logger logs nothing.
func NewRegistrar(client Client, service Service, logger log.Logger) *Registrar {
	if logger == nil {
		logger = log.NewNopLogger()
	}
	r := &Registrar{
		client:  client,
		service: service,
		logger:  log.With(logger, "key", service.Key, "value", service.Value),
		attempt: &attempt{err: errNotRegistered},
	}
	if client == nil {
		r.attempt.err = errNilClient
	}
	return r
}

// Register registers the service, typically at start-up. It returns when that
// has succeeded, or after the first failure, within the request timeout; then
// it is logged, and tried again in the background until it succeeds or
// Deregister is called. A service without a key or a value is not tried again.
//
// From then on every change is logged once: that the registration was lost,
// and that it is back. Register may be called again, and puts the key again.
// It implements sd.Registrar.
func (r *Registrar) Register() {
	if r.client == nil {
		r.logger.Log("err", errNilClient)
		return
	}
	first := make(chan struct{})
	tries := r.replace(func(ctx context.Context) { r.try(ctx, first) })
	select {
	case <-first:
	case <-tries.done:
	}
}

// Deregister removes the service from etcd, typically just before the process
// ends, and does not return before it is gone, or the request timeout is over;
// then it is gone after its TTL. It implements sd.Registrar.
func (r *Registrar) Deregister() {
	if r.client == nil {
		r.logger.Log("err", errNilClient)
		return
	}
	r.replace(nil)
	err := r.client.Deregister(r.service)
	if !errors.Is(err, ErrCompareFailed) {
		r.deregistered()
	}
	if err != nil {
		r.logger.Log("err", err)
	} else {
		r.logger.Log("action", "deregister")
	}
}

// deregistered notes it, unless Register was called meanwhile.
func (r *Registrar) deregistered() {
	r.attempt.mu.Lock()
	defer r.attempt.mu.Unlock()
	if r.attempt.tries == nil {
		r.attempt.err = errDeregistered
	}
}

// unwanted reports whether Deregister was called after the last Register.
func (r *Registrar) unwanted() bool {
	r.attempt.mu.Lock()
	defer r.attempt.mu.Unlock()
	return r.attempt.tries == nil
}

// Err returns nil while the service is registered, else why it is not: what a
// readiness probe asks. It does not ask etcd, and so answers at once; it knows
// of a lost lease or key within a heartbeat, and of an etcd that is out of
// reach within the TTL. Over a Client that is not one of this package it only
// knows what the last call of Register returned.
func (r *Registrar) Err() error {
	r.attempt.mu.Lock()
	defer r.attempt.mu.Unlock()
	return r.attempt.err
}

// replace ends the tries of the last Register, and begins others, if any, which
// are then the current ones.
func (r *Registrar) replace(try func(context.Context)) (tries *worker) {
	r.attempt.mu.Lock()
	last := r.attempt.tries
	if try != nil {
		tries = start(context.Background(), try)
	}
	r.attempt.tries = tries
	r.attempt.mu.Unlock()
	if last != nil {
		last.stopWithin(foreignTimeout)
	}
	return tries
}

// try registers until that succeeds, and closes first after the first time.
func (r *Registrar) try(ctx context.Context, first chan struct{}) {
	var retry backoff
	var logged error
	for {
		err := r.register(ctx)
		switch {
		case ctx.Err() != nil:
			if err == nil && r.unwanted() { // too late: Deregister was called meanwhile
				_ = r.client.Deregister(r.service)
			}
			return
		case err == nil:
			return
		}
		r.failed(err)
		if !sameFailure(err, logged) {
			logged = err
			r.logger.Log("err", err)
		}
		if first != nil {
			close(first)
			first = nil
		}
		if errors.Is(err, ErrNoKey) || errors.Is(err, ErrNoValue) || errors.Is(err, errClosed) || !retry.wait(ctx) {
			return
		}
	}
}

// sameFailure reports whether a failure needs no telling after another one: it
// reads the same, or both say that etcd is out of reach, of which the details
// change.
func sameFailure(err, before error) bool {
	return before != nil && (err.Error() == before.Error() ||
		errors.Is(err, context.DeadlineExceeded) && errors.Is(before, context.DeadlineExceeded))
}

// register calls the client once.
func (r *Registrar) register(ctx context.Context) error {
	if own, ok := r.client.(observedClient); ok {
		return own.registerObserved(ctx, r.service, r.observe)
	}
	err := r.client.Register(r.service)
	if err == nil && ctx.Err() == nil {
		r.observe(nil, r.client.LeaseID())
	}
	return err
}

// observe notes and logs what became of the registration.
func (r *Registrar) observe(err error, lease int64) {
	before := r.set(err)
	if err != nil {
		// One line a loss: a key that goes away and a lease that turns out to
		// be lost are one. That another owner came is another.
		taken := err == errKeyTaken
		if taken && r.first() || !taken && isLoss(err) && before == nil {
			r.logger.Log("msg", "registration lost", "err", err)
		}
		return
	}
	keyvals := []any{"action", "register"}
	if r.service.TTL != nil {
		keyvals = append(keyvals, "lease", lease)
	}
	if isLoss(before) {
		keyvals = append(keyvals, "msg", "registered again")
	}
	r.logger.Log(keyvals...)
}

// set notes why the service is not registered, nil when it is, and returns why
// it was not before.
func (r *Registrar) set(err error) (before error) {
	r.attempt.mu.Lock()
	defer r.attempt.mu.Unlock()
	before, r.attempt.err = r.attempt.err, err
	if err == nil {
		r.attempt.taken = false
	}
	return before
}

// first reports whether another owner of the key is news.
func (r *Registrar) first() bool {
	r.attempt.mu.Lock()
	defer r.attempt.mu.Unlock()
	again := r.attempt.taken
	r.attempt.taken = true
	return !again
}

// failed notes that a call of Register failed. What was registered before stays.
func (r *Registrar) failed(err error) {
	if _, own := r.client.(observedClient); !own || r.Err() != nil {
		r.set(err)
	}
}
