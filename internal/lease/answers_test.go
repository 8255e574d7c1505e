package lease

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcd"
)

// Answers that no etcd gives do no harm, in whatever order they come.
func TestAnswersThatNoEtcdGives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := etcd.NewConn(etcd.Config{})
		conn.Open(clientv3.NewCtxClient(t.Context()))
		defer conn.Close()
		k := New(conn)
		k.worker.Stop() // nobody but this test
		_, route := conn.Route(t.Context())
		defer route.End()
		s := &session{keeper: k, route: route}
		leases := map[clientv3.LeaseID]*Lease{}
		for id := clientv3.LeaseID(1); id <= 4; id++ {
			leases[id] = &Lease{ID: id, every: time.Second, ttl: 10 * time.Second}
			k.keep(leases[id], k.now())
		}
		_ = s.hear(1, 10, store{}) // nobody has asked
		if s.heard != 0 {
			t.Error("an answer that nobody asked for is a sign of life")
		}
		time.Sleep(time.Second)
		ids, _, err := s.due()
		if len(ids) != 4 || err != nil {
			t.Fatal(ids, err)
		}
		for _, answer := range []struct {
			id  clientv3.LeaseID
			ttl int64
		}{{77, 10}, {0, 0}, {-1, -1}, {3, math.MaxInt64}, {3, 0}, {3, 5}, {2, math.MinInt64}, {2, 10}, {4, 0}, {4, 0}, {1, 10}, {1, 0}} {
			_ = s.hear(answer.id, answer.ttl, store{})
		}
		if len(s.waiting) != 0 || len(k.leases) != 2 || k.leases[1] == nil || k.leases[3] == nil {
			t.Errorf("%d wait, %d leases are left", len(s.waiting), len(k.leases))
		}
		for id, lost := range map[clientv3.LeaseID]bool{1: false, 2: true, 3: false, 4: true} {
			select {
			case b := <-leases[id].News:
				if !b.Lost || !lost {
					t.Errorf("lease %d: %+v", id, b)
				}
			default:
				if lost {
					t.Errorf("lease %d is lost, and nobody was told", id)
				}
			}
		}
		if ttl := leases[3].ttl; ttl <= 0 {
			t.Errorf("a TTL of %v", ttl)
		}
		time.Sleep(time.Second)
		if ids, wait, err := s.due(); len(ids) != 2 || wait <= 0 || err != nil {
			t.Error(ids, wait, err)
		}
	})
}

// The owner hears the newest news, with what it missed before.
func TestNewsThatWasNotTaken(t *testing.T) {
	l := &Lease{news: make(chan Beat, 1)}
	l.tell(Beat{Resumed: true})
	l.tell(Beat{Silent: true, Err: errEnded})
	if b := <-l.news; !b.Resumed || !b.Silent || b.Err == nil {
		t.Errorf("%+v", b)
	}
	l.tell(Beat{Silent: true, Err: errEnded})
	l.takeBack()
	if len(l.news) != 0 {
		t.Error("what was taken back is told")
	}
	l.tell(Beat{Silent: true, Resumed: true})
	l.takeBack()
	if b := <-l.news; b != (Beat{Resumed: true}) {
		t.Errorf("%+v", b)
	}
}
