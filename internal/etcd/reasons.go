package etcd

import (
	"context"
	"sync"
	"time"
)

// reasonLasts is how long a reason counts that no later answer has contradicted. A
// client that asks for nothing learns nothing.
const reasonLasts = 15 * time.Second

// reasons knows why etcd gave no answer lately. It is safe for concurrent use.
type reasons struct {
	mu      sync.Mutex // guards all below
	last    error      // nil if an answer came since
	at      time.Time
	news    error         // the last that was another than the one before
	changed chan struct{} // closed when there is news
}

func newReasons() *reasons { return &reasons{changed: make(chan struct{})} }

// tell notes a reason.
func (r *reasons) tell(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.at = err, time.Now()
	r.pass(err)
}

// pass has those who wait for a turn hear a reason, if it is another one. r.mu is
// held.
func (r *reasons) pass(err error) {
	if r.news != nil && Word(r.news) == Word(err) {
		return
	}
	r.news = err
	close(r.changed)
	r.changed = make(chan struct{})
}

// unanswered notes that a request waits for its answer. What was in the way before
// is over then.
func (r *reasons) unanswered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = nil
	r.pass(ErrNoAnswer)
}

// answered notes an answer.
func (r *reasons) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = nil
}

// now returns what is closed when there is another reason, and the reason, nil if
// none is known.
func (r *reasons) now() (changed <-chan struct{}, last error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) > reasonLasts {
		return r.changed, nil
	}
	return r.changed, r.last
}

// newest returns what is closed when there is more, and the news.
func (r *reasons) newest() (changed <-chan struct{}, news error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed, r.news
}

// follow has the report of ctx hear each reason until it is the turn of who waits.
// It reports false if ctx has ended before.
func (r *reasons) follow(ctx context.Context, turn <-chan struct{}) bool {
	report, _ := ctx.Value(reportKey{}).(func(error))
	for changed, why := r.now(); ; changed, why = r.newest() {
		if why != nil && report != nil {
			report(Explain(why))
		}
		select {
		case <-turn:
			return true
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}
