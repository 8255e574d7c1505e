package lease

import "time"

const (
	// A stream that owes an answer is given up after patienceShare of the shortest
	// TTL that waits for one. This is the last resort: where members can be
	// compared, a silent one is left before. Less than a third is too little for
	// etcd's gRPC proxy, which answers that often. More leaves no time to move.
	// A lease that can spare it waits for patienceFirst, and has patienceLeast to
	// move: an etcd that takes 2.9 s for an answer is slow, and no more.
	//
	// The next stream has patienceLeast, and each after it twice as long, up to
	// patienceMost or to the TTL, whichever is longer. No stream has less than
	// patienceSlow times as long as an answer took lately.
	//
	// So an etcd that takes 2.9 s for each answer keeps its streams. If etcd stands
	// still for a minute, a client opens seven streams and beats once on each. That
	// is less than it asks while etcd is well, so that ten thousand clients do no
	// harm with it.
	patienceShare = 0.35
	patienceFirst = 3 * time.Second
	patienceLeast = time.Second
	patienceMost  = 30 * time.Second
	patienceSlow  = 2

	// The slowest answer lately shrinks by a part of this size with each answer. A
	// slow answer is forgotten after some forty others, or a minute.
	forget = 16
)

// pulse is how fast etcd answers.
type pulse struct {
	slow   time.Duration // how long an answer took at most lately
	silent int           // streams given up in a row
}

// answered notes how long an answer to a beat took. A beat that was sent alone
// shows how fast etcd is now: others hide a part of the way behind those before.
func (p *pulse) answered(took time.Duration, alone bool) {
	p.silent = 0
	if alone {
		p.slow -= p.slow / forget
	}
	p.took(took)
}

// took notes how long any answer took. The bound is for a process that stood
// still, and has measured itself.
func (p *pulse) took(long time.Duration) {
	p.slow = max(p.slow, min(long, patienceMost/patienceSlow))
}

// missed notes that a stream was given up without an answer.
func (p *pulse) missed() { p.silent++ }

// patience returns how long a stream may owe an answer to leases of this TTL and
// this heartbeat.
func (p *pulse) patience(ttl, every time.Duration) time.Duration {
	slow := patienceSlow * p.slow
	if p.silent == 0 {
		return max(patienceLeast, time.Duration(patienceShare*float64(ttl)), min(ttl-every-patienceLeast, patienceFirst), slow)
	}
	longer := max(patienceLeast, slow) << min(p.silent-1, 16)
	return max(min(longer, max(patienceMost, ttl)), slow)
}

// patience returns how long the answer to a lease that is renewed alone may take.
func (k *Keeper) patience(l *Lease) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pulse.patience(l.ttl, l.every)
}

// tookFor notes how long an answer to another request took.
func (k *Keeper) tookFor(took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pulse.took(took)
}
