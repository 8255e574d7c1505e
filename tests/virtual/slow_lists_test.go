package virtual_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// slowLists has lists answered after a time, and nothing else.
func slowLists(d time.Duration) func(*etcdtest.Settings) {
	return func(s *etcdtest.Settings) {
		s.DelayAnswer = func(_ int, method string, req any) time.Duration {
			if isList(method, req) {
				return d
			}
			return 0
		}
	}
}

// listAgain makes a list necessary: the watch ends, and its revision is gone.
func (w *world) listAgain() {
	w.etcd.Put(key(1), "new")
	if err := w.etcd.Compact(w.etcd.Revision()); err != nil {
		w.Fatal(err)
	}
	w.all((*etcdtest.Member).Break)
}

// After an election a list is not the one request that goes alone.
func TestSlowListAfterAnElection_HoldsUpNoRegistration(t *testing.T) {
	for range 5 {
		virtually(t, func(w *world) {
			w.fill(60, 10)
			c, _ := w.client()
			r, j := registrar(c, etcdv3.Service{Key: "/x/1", Value: "v"})
			r.Register()
			w.followed(c)
			after(20 * time.Second)
			w.refuses(rpctypes.ErrGRPCNoLeader, "Range", "Txn", "LeaseGrant", "Watch", "LeaseKeepAlive", "Renew")
			w.etcd.RevokeAll()
			w.listAgain()
			after(20 * time.Second)
			w.heals()
			w.etcd.Set(slowLists(30 * time.Second)) // as when a fleet lists
			after(again)
			if err := r.Err(); err != nil {
				w.Errorf("%v after etcd answers: %v\n%s", again, err, j)
			}
			if _, err := c.GetEntries("/none/"); err != nil && strings.Contains(err.Error(), "no leader") {
				w.Errorf("a false reason: %v", err)
			}
		})
	}
}

// One of three members has no leader, and a list is slow.
func TestSlowListAndOneLeaderlessMember_HoldUpNoRegistration(t *testing.T) {
	for i := range 12 {
		virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
			c, _ := w.client()
			_, _ = c.GetEntries("/none/") // connects
			after(time.Duration(i) * 10 * time.Millisecond)
			w.etcd.Set(slowLists(20 * time.Second))
			w.etcd.Member(i % 3).LoseLeader()
			go func() { w.followed(c) }()
			after(time.Second)
			r, _ := registrar(c, etcdv3.Service{Key: "/x/1", Value: "v"})
			if r.Register(); r.Err() != nil {
				w.Errorf("%d: %v", i, r.Err())
			}
			after(time.Minute)
		})
	}
}

// A proxy ends the lists of one prefix after 15 s. The others do not notice.
func TestPrefixWhoseListsFail_LeavesTheOthersAlone(t *testing.T) {
	for i := range 10 {
		virtually(t, func(w *world) {
			w.etcd.Set(func(s *etcdtest.Settings) {
				s.Refuse = func(_ int, method string, req any) error {
					r, is := req.(*pb.RangeRequest)
					if is && bytes.HasPrefix(r.Key, []byte("/a/")) {
						time.Sleep(15 * time.Second)
						return status.Error(codes.Internal, "upstream request timeout")
					}
					return nil
				}
			})
			c, _ := w.client()
			go func() {
				s, _ := etcdv3.NewInstancer(c, "/a/", nil)
				w.Cleanup(s.Stop)
			}()
			after(time.Minute + time.Duration(i)*1500*time.Millisecond)
			r, _ := registrar(c, service("v"))
			if r.Register(); r.Err() != nil {
				took := w.until(3*time.Minute, "registered", func() bool { return r.Err() == nil })
				w.Errorf("%d: registered %v after Register returned", i, took)
			}
		})
	}
}

// With two endpoints a list and the read in its place, or a list and a watch, could
// meet the same members in turn for ever.
func TestOneOfTwoEndpointsWithoutLeader_IsNotMetForEver(t *testing.T) {
	for i := range 10 {
		virtuallyOn(t, etcdtest.Config{Members: 2}, func(w *world) {
			w.etcd.Put("/s/1", "a")
			w.etcd.Member(i % 2).LoseLeader()
			c, _ := w.client()
			for range i / 2 {
				_, _ = c.GetEntries("/none/")
			}
			events, j := w.followed(c)
			after(15 * time.Second)
			w.etcd.Forget()
			w.etcd.Put("/s/2", "b")
			after(time.Second)
			events.are(w, "a", "a b")
			after(20 * time.Second)
			if n := w.etcd.Count("Watch"); n > 0 {
				w.Errorf("%d: %d streams\n%s", i, n, j)
			}
		})
	}
}
