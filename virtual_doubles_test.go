package etcdv3

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// virtualEtcd is an etcd in memory, for tests in virtual time: keys with
// revisions, leases that expire, and watches. clientv3's KV and Lease talk to
// it as to a server. Its Watcher cannot run in a bubble of synctest (all of its
// contexts share a channel that is made before), so this is one itself.
//
// Every request goes through a fault first, and once more, as "put answered",
// before its answer is seen.
type virtualEtcd struct {
	pb.KVClient // what this package does not use panics
	pb.LeaseClient

	mu        sync.Mutex // guards all below
	header    pb.ResponseHeader
	compacted int64
	keys      map[string]*mvccpb.KeyValue
	past      []*clientv3.Event // all that ever happened
	leases    map[int64]*virtualLease
	lastLease int64
	watches   map[*virtualWatch]struct{}
	opened    int  // watches, ever
	away      bool // watches hear nothing
	mute      bool // progress requests are not answered
	fault     virtualFault
	calls     []virtualCall
}

// virtualFault is what becomes of a call, nil if nothing does: it may wait, or fail.
type virtualFault func(ctx context.Context, call string) error

// virtualCall is a request that was made, or answered.
type virtualCall struct {
	at   time.Time
	name string
}

func newVirtualEtcd() *virtualEtcd {
	return &virtualEtcd{
		header: pb.ResponseHeader{ClusterId: 1, Revision: 1, RaftTerm: 1},
		keys:   map[string]*mvccpb.KeyValue{}, leases: map[int64]*virtualLease{}, watches: map[*virtualWatch]struct{}{},
	}
}

// virtually runs a story in virtual time, and waits until all that it started
// has ended.
func virtually(t *testing.T, story func(t *testing.T, etcd *virtualEtcd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { after(time.Minute) }) // the last: all clients are closing
		story(t, newVirtualEtcd())
	})
}

// client returns a Client of this package on the double. It ends with the test.
func (e *virtualEtcd) client(t *testing.T) (*client, context.CancelFunc) {
	t.Helper()
	cli := clientv3.NewCtxClient(t.Context())
	cli.KV = clientv3.NewKVFromKVClient(e, cli)
	cli.Lease = virtualLessor{clientv3.NewLeaseFromLeaseClient(e, cli, time.Second), e}
	cli.Watcher = e
	ctx, cancel := context.WithCancel(context.Background())
	c, err := NewClientFrom(ctx, cli, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	c.(*client).leases = e
	return c.(*client), cancel
}

// request meets the fault, applies a change, and meets the fault again.
func (e *virtualEtcd) request(ctx context.Context, call string, apply func() error) error {
	if err := e.meet(ctx, call); err != nil {
		return err
	}
	e.mu.Lock()
	err := apply()
	e.mu.Unlock()
	if err != nil {
		return err
	}
	return e.meet(ctx, call+" answered")
}

func (e *virtualEtcd) meet(ctx context.Context, call string) error {
	e.mu.Lock()
	e.calls = append(e.calls, virtualCall{time.Now(), call})
	fault := e.fault
	e.mu.Unlock()
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if fault == nil {
		return nil
	}
	return fault(ctx, call)
}

// breaks sets what becomes of all calls from now on.
func (e *virtualEtcd) breaks(f virtualFault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = f
}

// goAway makes etcd unreachable in a way; watches hear nothing until comeBack.
func (e *virtualEtcd) goAway(how virtualFault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault, e.away = how, true
}

func (e *virtualEtcd) comeBack() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault, e.away = nil, false
	e.wakeWatches()
}

// hangs is a link that went silent, refuses one that is cut.
func hangs(ctx context.Context, _ string) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func denies(context.Context, string) error { return rpctypes.ErrGRPCPermissionDenied }

func refuses(context.Context, string) error { return status.Error(codes.Unavailable, "refused") }

// only is a fault of the calls with a name.
func only(name string, f virtualFault) virtualFault {
	return func(ctx context.Context, call string) error {
		if call == name {
			return f(ctx, call)
		}
		return nil
	}
}

// times are when a call was made.
func (e *virtualEtcd) times(name string) (all []time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, call := range e.calls {
		if call.name == name {
			all = append(all, call.at)
		}
	}
	return all
}

func (e *virtualEtcd) count(name string) int { return len(e.times(name)) }

// values are the values under a prefix.
func (e *virtualEtcd) values(prefix string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := []string{}
	for _, key := range slices.Sorted(maps.Keys(e.keys)) {
		if strings.HasPrefix(key, prefix) {
			all = append(all, string(e.keys[key].Value))
		}
	}
	return all
}

// living are the leases that etcd holds.
func (e *virtualEtcd) living() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.leases)
}

// set puts a key as another process would, and remove deletes it.
func (e *virtualEtcd) set(key, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put(key, value, 0)
	e.commit()
}

func (e *virtualEtcd) remove(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.delete([]byte(key), nil)
	e.commit()
}

// startOver is etcd with another, empty store: revisions start over.
func (e *virtualEtcd) startOver() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.leases {
		e.leases[id].expiry.Stop()
		delete(e.leases, id)
	}
	for w := range e.watches { // which clientv3 begins anew where they were
		w.start = w.next
	}
	e.keys, e.past = map[string]*mvccpb.KeyValue{}, nil
	e.header = pb.ResponseHeader{ClusterId: e.header.ClusterId + 1, Revision: 1, RaftTerm: 1}
}

// put and delete change the store; commit makes the changes one revision.
func (e *virtualEtcd) put(key, value string, lease int64) {
	kv := &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), Lease: lease, Version: 1,
		CreateRevision: e.header.Revision + 1, ModRevision: e.header.Revision + 1,
	}
	if old := e.keys[key]; old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	e.keys[key] = kv
	e.past = append(e.past, &clientv3.Event{Type: clientv3.EventTypePut, Kv: kv})
}

func (e *virtualEtcd) delete(key, end []byte) (n int64) {
	for _, k := range slices.Sorted(maps.Keys(e.keys)) {
		if within := matches([]byte(k), key, end); within {
			delete(e.keys, k)
			e.past = append(e.past, &clientv3.Event{
				Type: clientv3.EventTypeDelete, Kv: &mvccpb.KeyValue{Key: []byte(k), ModRevision: e.header.Revision + 1},
			})
			n++
		}
	}
	return n
}

func (e *virtualEtcd) commit() {
	if n := len(e.past); n > 0 && e.past[n-1].Kv.ModRevision > e.header.Revision {
		e.header.Revision++
		e.wakeWatches()
	}
}

// matches reports whether a key is in a range of etcd's requests.
func matches(key, from, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, from)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(key, from) >= 0
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, end) < 0
}
