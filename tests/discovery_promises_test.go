package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// mustPut puts keys as another process would, without a lease.
func mustPut(t testing.TB, cli *clientv3.Client, kvs ...string) {
	t.Helper()
	for i := 0; i < len(kvs); i += 2 {
		if _, err := cli.Put(context.Background(), kvs[i], kvs[i+1]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOneChange_IsOneEventAndNoList(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	counter := &callCounter{method: "/Range"}
	c, _ := connect(t, etcdv3.ClientOptions{DialOptions: []grpc.DialOption{counter.option()}}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	listed := counter.count()
	want := []string{}
	for i := range 50 {
		mustPut(t, etcd.Client(0), fmt.Sprintf("/s/%02d", i), fmt.Sprintf("v%02d", i))
		want = append(want, fmt.Sprintf("v%02d", i))
		eventually(t, time.Second, "the change is seen", func() bool { return events.shows(want...) })
	}
	if got := len(events.all()); got != 51 {
		t.Errorf("%d events for 50 changes and the first set", got)
	}
	time.Sleep(2 * time.Second) // past the first sign of life
	if n := counter.count() - listed; n != 0 {
		t.Errorf("%d range requests", n)
	}
	holds(t, 10)
}

func TestConnectionDropped100Times_NothingIsMissed(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	admin := n.admin()
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	_, events := discover(t, c, "/s/")
	// The set grows by one instance at a time and then shrinks to the last, so
	// every set that etcd holds is a run of numbers.
	const steps = 100
	for i := range steps {
		n.drop()
		mustPut(t, admin, fmt.Sprintf("/s/%03d", i), fmt.Sprintf("%03d", i))
		time.Sleep(5 * time.Millisecond)
	}
	for i := range steps - 1 {
		n.drop()
		if _, err := admin.Delete(t.Context(), fmt.Sprintf("/s/%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
	took := eventually(t, 10*time.Second, "the truth", func() bool { return events.shows(fmt.Sprintf("%03d", steps-1)) })
	within(t, 11, 5*time.Second, took)
	for _, e := range events.all() {
		if e.Err != nil {
			t.Errorf("a short break was reported: %v", e.Err)
		}
		for i := 1; i < len(e.Instances); i++ {
			a, _ := strconv.Atoi(e.Instances[i-1])
			if b, _ := strconv.Atoi(e.Instances[i]); b != a+1 {
				t.Fatalf("etcd never held %v", e.Instances)
			}
		}
	}
}

func TestCompactedWhileDisconnected_GoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	admin := n.admin()
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	mustPut(t, admin, "/s/1", "a", "/s/2", "b")
	_, events := discover(t, c, "/s/")
	n.cut()
	mustPut(t, admin, "/s/1", "c", "/s/3", "d")
	resp, err := admin.Delete(t.Context(), "/s/2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Compact(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	n.mend()
	took := eventually(t, 5*time.Second, "the truth", func() bool { return events.shows("c", "d") })
	within(t, 11, 5*time.Second, took)
	mustPut(t, admin, "/s/4", "e")
	eventually(t, 3*time.Second, "it goes on", func() bool { return events.shows("c", "d", "e") })
}

func TestWatchPrefix_SignalsOnceForEachChange(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, leave := etcd.connect(t)
	signals := make(chan struct{})
	done := make(chan struct{})
	go func() {
		c.WatchPrefix("/s/", signals)
		close(done)
	}()
	next := func(what string) {
		t.Helper()
		select {
		case <-signals:
		case <-time.After(2 * time.Second):
			t.Fatal("no signal", what)
		}
	}
	none := func(what string) {
		t.Helper()
		select {
		case <-signals:
			t.Fatal("a signal", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
	next("when the watch stands")
	none("without a change")
	for i := range 5 {
		mustPut(t, etcd.Client(0), "/s/1", fmt.Sprint(i/2)) // some of them the same value
		next("for a change")
	}
	mustPut(t, etcd.Client(0), "/x/1", "x")
	none("for another prefix")
	for i := range 20 { // the receiver is busy
		mustPut(t, etcd.Client(0), "/s/2", fmt.Sprint(i))
	}
	time.Sleep(200 * time.Millisecond)
	next("for many changes")
	none("more")
	leave()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("WatchPrefix does not end with the context")
	}
	holds(t, 19)
}

func TestPrefix_IsPlainBytes(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	c, _ := etcd.connect(t)
	mustPut(t, etcd.Client(0), "/s/foo/1", "a", "/s/foobar/1", "b", "/t", "c", "/s/\xff\xff", "d")
	for prefix, want := range map[string][]string{
		"/s/foo": {"a", "b"}, "/s/foo/": {"a"}, "/s/foo/1": {"a"}, "": {"a", "b", "c", "d"}, "/s/\xff": {"d"}, "\xff": {},
	} {
		if s, _ := discover(t, c, prefix); !slices.Equal(s.State().Instances, want) {
			t.Errorf("prefix %q: %+v, want %v", prefix, s.State(), want)
		}
		got, err := c.GetEntries(prefix)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("GetEntries %q: %v, %v, want %v", prefix, got, err, want)
		}
	}
	holds(t, 20)
}

func TestManyPages_AreOneRevision(t *testing.T) {
	t.Parallel()
	heavy(t)
	n := newNode(t)
	admin := n.admin()
	const many = 50_007 // a range request asks for 25,000 at most
	for from := 0; from < many; from += 100 {
		var ops []clientv3.Op
		for i := from; i < min(from+100, many); i++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/s/%06d", i), fmt.Sprintf("%06d", i)))
		}
		if _, err := admin.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	s, events := discover(t, c, "/s/")
	eventually(t, 5*time.Second, "all pages", func() bool { return len(s.State().Instances) == many })
	got := s.State().Instances
	if !slices.IsSorted(got) || got[many-1] != fmt.Sprintf("%06d", many-1) {
		t.Fatalf("%d instances", len(got))
	}
	mustPut(t, admin, "/s/x", "x")
	eventually(t, 2*time.Second, "a change", func() bool { return len(events.last().Instances) == many+1 })
	entries, err := c.GetEntries("/s/")
	if err != nil || len(entries) != many+1 {
		t.Fatal(len(entries), err)
	}
}

func TestNilClient_IsAnError(t *testing.T) {
	if _, err := etcdv3.NewInstancer(nil, "/s/", nil); err == nil || !strings.Contains(err.Error(), "client is nil") {
		t.Error(err)
	}
	r := etcdv3.NewRegistrar(nil, etcdv3.Service{Key: "k", Value: "v"}, nil)
	r.Register()
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "client is nil") {
		t.Error(err)
	}
	r.Deregister()
	if err := r.Err(); err == nil {
		t.Error("no error")
	}
}

func TestPermissionRevokedAndGranted_IsToldAndOver(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	enableAuth(t, etcd.Client(0), "reader", "/s/", clientv3.PermissionType(clientv3.PermRead))
	root := plainAs(t, "root", "root-pass", etcd.Members[0].GRPCURL)
	mustPut(t, root, "/s/1", "a")
	c, _ := connect(t, etcdv3.ClientOptions{Username: "reader", Password: "reader-pass"}, etcd.endpoints()...)
	_, events := discover(t, c, "/s/")
	if !events.shows("a") {
		t.Fatalf("first event: %+v", events.last())
	}
	if other, _ := discover(t, c, "/t/"); !errors.Is(other.State().Err, rpctypes.ErrPermissionDenied) || !strings.Contains(other.State().Err.Error(), `"/t/"`) {
		t.Errorf("a prefix that the user may not read: %v", other.State().Err)
	}
	if _, err := root.RoleRevokePermission(t.Context(), "reader", "/s/", clientv3.GetPrefixRangeEnd("/s/")); err != nil {
		t.Fatal(err)
	}
	etcd.bridges[0].drop() // etcd checks a watch when it begins
	eventually(t, 15*time.Second, "an error", func() bool { return events.last().Err != nil })
	if _, err := root.RoleGrantPermission(t.Context(), "reader", "/s/", clientv3.GetPrefixRangeEnd("/s/"), clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	mustPut(t, root, "/s/2", "b")
	eventually(t, 5*time.Second, "the set", func() bool { return events.shows("a", "b") })
	holds(t, 11)
}
