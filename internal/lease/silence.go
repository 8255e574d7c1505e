package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
)

// tellSilent tells an owner when no beat of its lease was answered for the TTL,
// and again whenever the reason changes.
func (k *Keeper) tellSilent(ctx context.Context) {
	for {
		wait := k.silent()
		due := k.now() + wait
		select {
		case <-time.After(wait):
		case <-k.hark:
		case <-ctx.Done():
			return
		}
		if k.now() > due+worker.StoodStill && !worker.Sleep(ctx, worker.AfterStandstill) { // it was not etcd
			return
		}
	}
}

// silent tells the owners now, and returns how long to wait until it may be time
// again.
func (k *Keeper) silent() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.listen = now + idle
	for _, l := range k.leases {
		if ends := l.answered + l.ttl; ends > now {
			k.listen = min(k.listen, ends)
			continue
		}
		l.tellErr(true, k.silence(l, now))
	}
	return k.listen - now
}

// silence returns why the beats of a lease are not answered. k.mu is held.
func (k *Keeper) silence(l *Lease, now moment) error {
	switch {
	case l.isAlone():
		return l.refusal.err
	case k.reason != nil && !errors.Is(k.reason, errUnanswered):
		return k.reason
	}
	return fmt.Errorf("%w for %v", errUnanswered, (now - l.answered).Round(time.Second))
}

// fails notes why no beat is answered. If the error is a refusal of the user, all
// owners hear of it at once. k.mu is held.
func (k *Keeper) fails(err error, ofUser bool) {
	k.reason = err
	worker.Poke(k.hark)
	if !ofUser || !etcd.Refused(err) {
		return
	}
	for _, l := range k.leases {
		l.tellErr(l.silent, err)
	}
}

// unopened notes why a stream could not be opened.
func (k *Keeper) unopened(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails(err, true)
}
