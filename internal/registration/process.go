package registration

import (
	"slices"
	"sync"
)

// process knows which registration of this process has a key of an etcd, as
// etcd's cluster id tells it apart. Programs make a client for each registration
// and cannot close the older ones: who was called last has the key, in whatever
// order etcd answers.
var process owners

type place struct {
	cluster uint64
	key     string
}

type owners struct {
	mu      sync.Mutex // guards all below, and each claim
	calls   uint64     // of Register and Deregister, which are numbered from 1
	current map[place]*registration
	waiting map[string][]*registration // that have not had their key yet
}

// claim is what the process knows of one registration.
type claim struct {
	call    uint64   // the last call that it serves
	under   []int64  // the leases that the key was put under, the last leasesKept of them
	at      uint64   // the cluster that granted it, 0 if other clients do not matter
	cluster uint64   // in which the registration has its key, 0 before it was put
	over    []uint64 // clusters in which a later call has the key
}

// call numbers a call of Register or Deregister.
func (o *owners) call() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	return o.calls
}

// serve notes that a registration serves a call. Its key is that of other clients,
// too, if it is plain.
func (o *owners) serve(r *registration, call uint64, plain bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.claim.call = max(r.claim.call, call)
	if !plain || r.claim.cluster != 0 || slices.Contains(o.waiting[r.key.name], r) {
		return
	}
	if o.waiting == nil {
		o.waiting = map[string][]*registration{}
	}
	o.waiting[r.key.name] = append(o.waiting[r.key.name], r)
}

// put notes that a registration is about to put its key under a lease.
func (o *owners) put(r *registration, cluster uint64, under int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.claim.at = cluster
	if !slices.Contains(r.claim.under, under) {
		r.claim.under = append(r.claim.under[max(0, len(r.claim.under)-leasesKept+1):], under)
	}
}

// hasPut reports whether a registration has put its key under a lease, and whether
// it was called after a call.
func (o *owners) hasPut(r *registration, lease int64, call uint64) (has, after bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(r.claim.under, lease), r.claim.call > call
}

// isLate reports whether a later call, of another client, has the key that a
// registration is about to put, or has removed it. The key is there under a
// lease, as far as is known: that may be the first that is heard of a later put.
func (o *owners) isLate(r *registration, lease int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	has := o.current[place{r.claim.at, r.key.name}]
	return slices.Contains(r.claim.over, r.claim.at) || has != nil && has.isAfter(r) ||
		lease != 0 && slices.ContainsFunc(o.waiting[r.key.name], func(other *registration) bool {
			return slices.Contains(other.claim.under, lease) && other.isAfter(r)
		})
}

// isAfter reports whether a registration serves a later call than one of another
// client. The mutex of owners is held.
func (r *registration) isAfter(other *registration) bool {
	return r.book != other.book && r.claim.call > other.claim.call
}

// take makes a registration the one that has its key, and returns those of other
// clients which have to end. It reports false if it is this one that has to: it
// was called before another one.
func (o *owners) take(r *registration, cluster uint64) (losers []*registration, taken bool) {
	at := place{cluster, r.key.name}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.current[at]
	if before != nil && before.isAfter(r) || slices.Contains(r.claim.over, cluster) {
		return nil, false
	}
	if o.current == nil {
		o.current = map[place]*registration{}
	}
	o.leave(r)
	r.claim.cluster = cluster
	o.current[at] = r
	losers = o.overtake(r.book, at, r.claim.call)
	if before != nil && before.book != r.book {
		losers = append(losers, before)
	}
	return losers, true
}

// overtake tells those who wait for a key that a later call has it, or has
// removed it. It returns those that may have put it there already: a put of
// theirs that arrives late has to find no lease. o.mu is held.
func (o *owners) overtake(b *Book, at place, call uint64) (losers []*registration) {
	for _, other := range o.waiting[at.key] {
		if other.book == b || other.claim.call > call {
			continue
		}
		other.claim.over = append(other.claim.over, at.cluster)
		if other.claim.at == at.cluster {
			losers = append(losers, other)
		}
	}
	return losers
}

// removed notes that a call has ended a registration. It returns those of other
// clients that have the key all the same, or may get it.
func (o *owners) removed(r *registration, call uint64) (losers []*registration) {
	o.mu.Lock()
	at := place{r.claim.at, r.key.name}
	o.mu.Unlock()
	if call == 0 || at.cluster == 0 {
		return nil
	}
	return o.remove(r.book, at, call)
}

// remove notes that a call has removed a key, and returns the registrations of
// other clients that had it, or may get it.
func (o *owners) remove(b *Book, at place, call uint64) (losers []*registration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	losers = o.overtake(b, at, call)
	if has := o.current[at]; has != nil && has.book != b && has.claim.call < call {
		losers = append(losers, has)
	}
	return losers
}

// drop forgets a registration.
func (o *owners) drop(r *registration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.leave(r)
}

// leave does so. o.mu is held.
func (o *owners) leave(r *registration) {
	key := r.key.name
	if at := (place{r.claim.cluster, key}); o.current[at] == r {
		delete(o.current, at)
	}
	if i := slices.Index(o.waiting[key], r); i >= 0 {
		o.waiting[key] = slices.Delete(o.waiting[key], i, i+1)
	}
	if len(o.waiting[key]) == 0 {
		delete(o.waiting, key)
	}
}
