package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// latest is how late a request may be in a story.
const latest = 4 * time.Second

// TestLateRequests_DoNoHarm tells stories in which requests are late, doubled,
// and carried out after their callers were told that they failed.
func TestLateRequests_DoNoHarm(t *testing.T) {
	first, n := uint64(1), *stories
	if *seed > 0 {
		first, n = *seed, 1
	}
	for i := range uint64(n) {
		if lateStory(t, first+i); t.Failed() {
			t.Fatalf("to see it again: go test -C tests ./fleet -run TestLateRequests -args -seed %d", first+i)
		}
	}
}

// lateStory is the story of one seed: some keys, each with its life, on two of
// our clients, while links break and a member falls silent.
func lateStory(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	virtually(t, etcdtest.Config{Members: 1 + 2*random.IntN(2)}, func(w *world) {
		w.etcd.Set(etcdtest.Lateness(seed, time.Duration(1+random.Int64N(int64(latest)))))
		clients := []etcdv3.Client{w.client(w.ctx), w.client(w.ctx)}
		ctx, stop := context.WithCancel(w.ctx)
		var faults, lives sync.WaitGroup
		faults.Go(func() { trouble(ctx, w, rand.New(rand.NewPCG(seed, 2))) })
		all := []*life{{name: "/one", clients: clients[:1]}, {name: "/two", clients: clients[1:]}, {name: "/both", clients: clients}}
		for i, l := range all {
			l.world, l.random = w, rand.New(rand.NewPCG(seed, 3+uint64(i)))
			lives.Go(l.run)
		}
		lives.Wait()
		stop()
		faults.Wait()
		w.heal()
		time.Sleep(2 * latest)
		for _, l := range all {
			l.end()
		}
		time.Sleep(latest)
		for _, l := range w.etcd.Leases() {
			if len(l.Keys) > 0 {
				w.Errorf("lease %x is left with %q", l.ID, l.Keys)
			}
		}
		time.Sleep(time.Minute)
		if left := w.etcd.Leases(); len(left) > 0 {
			w.Errorf("%d leases are left after their TTL: %v", len(left), left)
		}
		for _, l := range all {
			l.judge()
		}
	})
}

// trouble breaks links, and lets a member fall silent and speak again.
func trouble(ctx context.Context, w *world, random *rand.Rand) {
	for ctx.Err() == nil {
		pause(random, 3*time.Second)
		m := w.etcd.Member(random.IntN(len(w.etcd.Members())))
		if random.IntN(2) == 0 {
			m.Break()
			continue
		}
		m.Silence()
		pause(random, 6*time.Second)
		m.Speak()
	}
}

func pause(random *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(random.Int64N(int64(most))))
}

// life is that of one key, and what may not be in its history.
type life struct {
	*world
	name    string
	clients []etcdv3.Client
	random  *rand.Rand

	values int // that we gave it, numbered from 1
	last   *etcdv3.Registrar
	bans   []ban
	freed  []int64 // revisions at which somebody deleted the key
	lines  []string
}

// taken is why there is a ban while another owner has the key.
const taken = "while another owner has it"

// ban is a stretch of history in which values up to one may not be put.
type ban struct {
	why      string
	value    int
	from, to int64
}

func (l *life) tell(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf("%9v rev %2d  ", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), l.etcd.Revision())+fmt.Sprintf(format, args...))
}

// run is the life of the key until its owners are to leave.
func (l *life) run() {
	for range 4 + l.random.IntN(8) {
		pause(l.random, 3*time.Second)
		switch l.random.IntN(8) {
		default:
			l.register()
		case 4:
			l.deregister(l.any())
		case 5, 6:
			l.overwrite()
		case 7:
			l.tell("deleted by somebody")
			l.freed = append(l.freed, l.etcd.Delete(l.name))
		}
	}
}

func (l *life) any() etcdv3.Client { return l.clients[l.random.IntN(len(l.clients))] }

// register registers another value, with any TTL.
func (l *life) register() {
	l.values++
	ttl := etcdv3.NewTTLOption(time.Second, time.Duration(5+l.random.IntN(3))*time.Second)
	value := strconv.Itoa(l.values)
	l.last = etcdv3.NewRegistrar(l.any(), etcdv3.Service{Key: l.name, Value: value, TTL: ttl}, nil)
	l.free(l.etcd.Revision())
	l.last.Register()
	l.tell("registered %s: %v", value, l.last.Err())
}

// deregister deregisters the key. After that it is gone, if the client is the
// one that has it.
func (l *life) deregister(c etcdv3.Client) {
	err := c.Deregister(etcdv3.Service{Key: l.name})
	l.tell("deregistered: %v", err)
	if err == nil && len(l.clients) == 1 {
		l.bans = append(l.bans, ban{"after Deregister", l.values, l.etcd.Revision(), 1 << 60})
	}
}

// overwrite has another owner take the key. It keeps it until it leaves it, or
// one of ours is registered anew.
func (l *life) overwrite() {
	settled := l.last != nil && l.last.Err() == nil
	rev := l.etcd.Put(l.name, "other")
	l.tell("taken by somebody, settled %v", settled)
	if settled {
		l.bans = append(l.bans, ban{taken, l.values, rev, 1 << 60})
	}
}

// free ends the bans of another owner at a revision: the key is free then, or
// one of ours is registered anew.
func (l *life) free(rev int64) {
	for i := range l.bans {
		if b := &l.bans[i]; b.why == taken && b.from < rev {
			b.to = min(b.to, rev)
		}
	}
}

// end has all of ours leave, and somebody take the key.
func (l *life) end() {
	for _, c := range l.clients {
		if err := c.Deregister(etcdv3.Service{Key: l.name}); err != nil {
			l.tell("left: %v", err)
			l.Errorf("Deregister: %v", err)
		}
	}
	l.tell("left")
	rev := l.etcd.Revision()
	for _, kv := range l.etcd.KeyValues(l.name) {
		if kv.Value != "other" {
			l.Errorf("%s is there after Deregister: %v", l.name, kv)
		}
	}
	l.bans = append(l.bans, ban{"at the end", l.values, rev, 1 << 60})
	l.etcd.Put(l.name, "last")
}

// judge reads the key's history.
func (l *life) judge() {
	last, freed := 0, false
	for _, kv := range l.etcd.History(l.name) {
		// Of two clients the earlier has the key by right until the later one has
		// heard that it has it. That one's lease may be lost before, or its key taken.
		if kv.Version == 0 {
			l.free(kv.ModRevision)
			freed = len(l.clients) > 1 || slices.Contains(l.freed, kv.ModRevision)
			continue
		}
		value, err := strconv.Atoi(kv.Value)
		if err != nil {
			freed = freed || len(l.clients) > 1
			continue
		}
		// A put compares that the key is not there. Somebody who deletes it makes
		// that true again, and etcd knows no time in which it was not: a late put of
		// an earlier value then counts, until its lease is revoked, or the next beat.
		if value < last && !freed {
			l.Errorf("%s: value %d comes back at revision %d, after %d", l.name, value, kv.ModRevision, last)
		}
		last, freed = max(last, value), false
		for _, b := range l.bans {
			if value <= b.value && b.from < kv.ModRevision && kv.ModRevision < b.to {
				l.Errorf("%s: value %d is put at revision %d, %s since %d", l.name, value, kv.ModRevision, b.why, b.from)
			}
		}
	}
	if values := l.etcd.Values(l.name); len(values) != 1 || values[0] != "last" {
		l.Errorf("%s is %q in the end, not what its last owner put", l.name, values)
	}
	if l.Failed() {
		for _, kv := range l.etcd.History(l.name) {
			l.Logf("%s revision %d: %q, lease %x", l.name, kv.ModRevision, kv.Value, kv.Lease)
		}
		l.Log(strings.Join(l.lines, "\n"))
	}
}
