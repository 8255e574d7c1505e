package registration

import "github.com/kitsd/etcdv3/internal/worker"

// ask queues a request, and reports false if the registration is ending.
func (r *registration) ask(req *request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return false
	}
	r.requests = append(r.requests, req)
	worker.Poke(r.wake)
	return true
}

// next returns the request that waits for the longest time, nil if none does. It
// wakes once more for those that are left.
func (r *registration) next() *request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.requests) == 0 {
		return nil
	}
	req := r.requests[0]
	if r.requests = r.requests[1:]; len(r.requests) > 0 {
		worker.Poke(r.wake)
	} else {
		r.requests = nil // the request that was served goes with it
	}
	return req
}

func (r *registration) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests) > 0
}

// end begins to end the registration, for a reason.
func (r *registration) end(cause error) {
	r.mu.Lock()
	r.ending = true
	if r.cause == nil {
		r.cause = cause
	}
	r.mu.Unlock()
	r.worker.Cancel()
}

// remove begins to end the registration because of a call of Deregister. That ends
// what other clients hold of the key, unless one of them has ended this one.
func (r *registration) remove(call uint64) {
	r.mu.Lock()
	if r.cause == nil {
		r.removal = call
	}
	r.mu.Unlock()
	r.end(ErrReleased)
}

// giveUp takes no more requests, unless one waits already: there is nothing to
// register.
func (r *registration) giveUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = len(r.requests) == 0
}

// over reports whether it was begun to end the registration.
func (r *registration) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ending
}

// close takes no more requests, and sends those that wait back to their callers.
func (r *registration) close() (removal uint64, forsaken bool, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
	for _, req := range r.requests {
		req.reply <- errEnded
	}
	r.requests = nil
	if r.cause == nil {
		r.cause = ErrReleased
	}
	return r.removal, r.forsaken, r.cause
}

// forsake has the end leave the lease to run out.
func (r *registration) forsake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forsaken = true
}
