package lease

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// atOnce is how many beats may wait for their answers on a stream. They
	// have 16 bytes each, and fit into the 64 kB that grpc and etcd hold for a
	// stream that nobody reads. So to send one never blocks. Where an answer
	// takes a second, that is enough for 12,000 leases with the default
	// heartbeat.
	atOnce = 4000

	// tokensExpired is how many streams in a row may be refused before that is
	// told. The token of a stream may have expired, and so may the one that a
	// read has fetched meanwhile. The third is new.
	tokensExpired = 2

	// carefully is how many may wait after etcd has refused a lease. Each answer
	// adds one. Where etcd refuses many leases, each ends a stream, and all that
	// wait behind have to be sent again.
	carefully = 64
)

// session is one stream, and what waits for an answer on it.
type session struct {
	keeper   *Keeper
	ctx      context.Context
	route    *etcd.Route
	stream   stream
	receiver *worker.Worker
	err      error // why the stream has ended, once the receiver is done

	// keeper.mu guards all below.
	waiting []sent // in the order in which they were sent
	since   moment // when etcd began to owe the next answer, while beats wait
	held    bool   // beats are due that have to wait here
	heard   moment // when the last answer came, zero before the first
}

// sent is a beat that was sent.
type sent struct {
	id clientv3.LeaseID
	at moment
}

var (
	// errUnanswered ends a stream that has not answered for its patience.
	errUnanswered = errors.New("no answer")

	// errWiped ends a stream on which leases of a store wait that is no more.
	errWiped = errors.New("etcd's store is another one")

	// errEnded is what etcd says when it ends a stream and gives no reason.
	errEnded = errors.New("etcd has ended the stream of heartbeats")
)

// open opens a stream, past the member of an earlier one if there is another. It
// waits for a connection and a token as long as ctx lives: nothing was asked yet
// that could be late.
func (k *Keeper) open(ctx context.Context, past *etcd.Route) (*session, error) {
	ctx, route := k.conn.Route(ctx)
	route.Past(past)
	s := &session{keeper: k, ctx: ctx, route: route}
	var err error
	if s.stream, err = k.openStream(ctx); err != nil {
		err = s.why(err)
		route.End()
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reason != nil && etcd.KindOf(k.reason) == etcd.Away { // there is a connection now
		k.reason = nil
	}
	return s, nil
}

// why returns the true reason of an error of the stream.
func (s *session) why(err error) error {
	if errors.Is(context.Cause(s.ctx), etcd.ErrSilent) {
		return etcd.ErrSilent
	}
	if errors.Is(err, io.EOF) {
		return errEnded
	}
	return rpctypes.Error(err)
}

func (s *session) close() {
	s.route.End()
	if s.receiver != nil {
		s.receiver.Stop()
	}
}

// renew sends beats as they become due, until the stream ends or answers no more.
func (s *session) renew(ctx context.Context) error {
	s.receiver = worker.Start(s.ctx, s.receive)
	for {
		due, wait, err := s.due()
		if err != nil {
			return err
		}
		for _, id := range due {
			if s.stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}) != nil {
				<-s.receiver.Done() // which hears why
				break
			}
		}
		select {
		case <-time.After(wait):
		case <-s.keeper.wake:
		case <-s.receiver.Done():
			return s.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// due returns the leases whose beats are to be sent now, and how long to wait
// until there is more to do. Its error says that answers are missing.
func (s *session) due() (due []clientv3.LeaseID, wait time.Duration, err error) {
	k := s.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	batch, least := k.sort(now)
	room := max(0, k.room-len(s.waiting))
	s.held = len(batch) > room
	batch = batch[:min(len(batch), room)]
	if len(s.waiting) == 0 {
		s.since = now
	}
	for _, l := range batch {
		l.asked, l.next = true, l.after(now, l.every/nudged)
		k.look = min(k.look, l.next)
		least = least.or(l)
		s.waiting = append(s.waiting, sent{l.ID, now})
		due = append(due, l.ID)
	}
	if len(s.waiting) == 0 {
		return nil, k.look - now, nil
	}
	s.route.Asked()
	overdue := s.since + k.pulse.patience(least.ttl, least.every)
	if now >= overdue {
		return nil, 0, errUnanswered
	}
	return due, min(k.look, overdue) - now, nil
}

// shortest is the shortest TTL of some leases, and the heartbeat to it.
type shortest struct{ ttl, every time.Duration }

func (s shortest) or(l *Lease) shortest {
	if l.ttl < s.ttl {
		return shortest{l.ttl, l.every}
	}
	return s
}

// sort returns the leases whose beats are due, those that end first first, and
// the shortest of those that wait already. k.mu is held.
func (k *Keeper) sort(now moment) (batch []*Lease, least shortest) {
	k.look, least = now+idle, shortest{ttl: idle}
	for _, l := range k.leases {
		switch {
		case l.isAlone():
			continue
		case l.next > now:
			k.look = min(k.look, l.next)
		case !l.asked:
			batch = append(batch, l)
		}
		if l.asked {
			least = least.or(l)
		}
	}
	slices.SortFunc(batch, func(a, b *Lease) int {
		return cmp.Compare(a.answered+a.ttl, b.answered+b.ttl)
	})
	return batch, least
}

// receive hears answers until the stream ends.
func (s *session) receive(context.Context) {
	for {
		resp, err := s.stream.Recv()
		if err != nil {
			s.err = s.why(err)
			return
		}
		if s.err = s.hear(clientv3.LeaseID(resp.ID), resp.TTL, storeOf(resp.Header)); s.err != nil {
			return
		}
	}
}

func (s *session) hear(id clientv3.LeaseID, ttl int64, in store) error {
	k := s.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.take(id) { // nobody has asked
		return nil
	}
	now := k.now()
	s.since, s.heard = now, now
	k.reason, k.refusals, k.room = nil, 0, min(k.room+1, atOnce)
	if l := k.leases[id]; ttl <= 0 && l != nil && l.in.contradicts(in) && k.wiped(in) && len(s.waiting) > 0 {
		return errWiped
	}
	if l := k.leases[id]; l != nil && l.asked {
		l.refusal = nil
		if k.renewed(l, ttl) && l.next <= now { // due while it waited: it goes with others
			slot := l.every / nudged
			k.beatAt(l, now+slot-now%slot)
		}
	}
	s.route.Heard(len(s.waiting) > 0)
	if s.held && len(s.waiting) <= k.room/2 {
		s.held = false
		worker.Poke(k.wake)
	}
	return nil
}

// take removes the beat of a lease from those that wait, and reports whether
// there was one. etcd answers in order, but its gRPC proxy does not. k.mu is held.
func (s *session) take(id clientv3.LeaseID) bool {
	k := s.keeper
	i := slices.IndexFunc(s.waiting, func(b sent) bool { return b.id == id })
	if i < 0 {
		return false
	}
	took := k.now() - s.since
	k.pulse.answered(took, i == 0 && s.since == s.waiting[0].at)
	if i == 0 {
		s.waiting = s.waiting[1:]
	} else {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return true
}

// lastHeard returns how long after a moment the last answer came, if one did.
func (s *session) lastHeard(since moment) (lived time.Duration, answered bool) {
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	return max(0, s.heard-since), s.heard > 0
}

// lost notes that a stream has ended, and has all leases renewed on the next one.
// Another etcd may answer there.
func (k *Keeper) lost(s *session, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if etcd.Refused(err) {
		k.refusals++
	}
	if expired := etcd.TokenRefused(err) && k.refusals <= tokensExpired; !expired {
		k.fails(err, k.refusals > tokensExpired)
	}
	if errors.Is(err, errUnanswered) || errors.Is(err, etcd.ErrSilent) {
		meter.Count(k.conn.Metrics.HeartbeatsUnanswered, len(s.waiting))
	}
	if errors.Is(err, errUnanswered) {
		k.pulse.missed()
	}
	now := k.now()
	for _, l := range k.leases {
		l.asked, l.resumed, l.next = false, true, now
	}
}
