package etcdv3

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// endedWatcher is a client whose context ends right after the first list.
type endedWatcher struct{ Client }

func (endedWatcher) watchPrefix(_ string, _ log.Logger, update func(instances), _ func(error)) *worker {
	w := start(context.Background(), func(context.Context) { update(newInstances([]string{"a"})) })
	<-w.done
	return w
}

func TestContextThatEndsAfterTheFirstList_LeavesTheSet(t *testing.T) {
	for range 100 {
		s, err := NewInstancer(endedWatcher{}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if state := s.State(); state.Err != nil || !slices.Equal(state.Instances, []string{"a"}) {
			t.Fatal(state)
		}
		s.Stop()
	}
}

func TestProgressRequest_OfAWatchThatHasEnded_IsNotMade(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		check := newCheck(&watch{}, &feed{ask: etcd.RequestProgress})
		check.request(ctx)
		check.stop()
		if etcd.count("progress") != 0 {
			t.Error("it opens a stream that nothing ends")
		}
	})
}

func TestLeaseThatIsLostAndKeptAgain_IsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heartbeat{leases: map[clientv3.LeaseID]*lease{}, wake: make(chan struct{}, 1)}
		lost := h.keep(1, time.Second, 3*time.Second)
		h.answer(&pb.LeaseKeepAliveResponse{ID: 1, TTL: 0})
		if beat := <-lost; !beat.lost {
			t.Error("its owner is not told")
		}
		again := h.keep(1, time.Second, 3*time.Second)
		h.expect(1, true)

		h.drop(2)
		h.answer(&pb.LeaseKeepAliveResponse{ID: 1, TTL: 3})
		if beat := <-again; beat.lost || len(h.leases) != 1 {
			t.Errorf("%+v, %d leases", beat, len(h.leases))
		}
	})
}
