package lease_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"github.com/kitsd/etcdv3/internal/lease"
)

// wrapped is a Lease that somebody has wrapped. It counts what goes through it.
type wrapped struct {
	clientv3.Lease
	renewals atomic.Int64
	failing  atomic.Bool
}

func (l *wrapped) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	l.renewals.Add(1)
	if l.failing.Load() {
		return nil, rpctypes.ErrNoLeader
	}
	return l.Lease.KeepAliveOnce(ctx, id)
}

func TestWrappedLease_IsRenewedByWayOfIt(t *testing.T) {
	through := &wrapped{}
	s := setting{foreign: true, wrap: func(cli *clientv3.Client) { through.Lease, cli.Lease = cli.Lease, through }}
	virtually(t, s, func(w *world) {
		all := []*kept{w.grant(10, 3*time.Second), w.grant(10, time.Second)}
		after(time.Minute)
		w.untroubled(all)
		w.within("renewals", int(through.renewals.Load()), 79, 82)
		through.failing.Store(true)
		after(20 * time.Second)
		for _, l := range all {
			w.same("news", l.said(), []string{"silent etcdserver: no leader"})
		}
		through.failing.Store(false)
		after(10 * time.Second)
		for _, l := range all {
			w.same("news", l.said(), []string{"lost resumed"})
		}
	})
}

// clientv3 renews again and again, without a wait, while there is no connection.
func TestWrappedLease_WithoutAConnectionIsLeftInPeace(t *testing.T) {
	through := &wrapped{}
	s := setting{foreign: true, wrap: func(cli *clientv3.Client) { through.Lease, cli.Lease = cli.Lease, through }}
	virtually(t, s, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(10 * time.Second)
		w.etcd.Stop()
		after(20 * time.Minute) // grpc goes idle after 30, and may race with a reset of its back-off
		w.within("renewals", int(through.renewals.Load()), 3, 10)
		w.etcd.Start()
		after(3 * time.Second)
		if said := l.said(); len(said) != 2 || said[1] != "resumed" {
			w.Errorf("heard %q", said)
		}
	})
}

func TestWrappedLease_WhoseConnectionBreaksUnderARenewal_IsLeftInPeace(t *testing.T) {
	through := &wrapped{}
	s := setting{foreign: true, wrap: func(cli *clientv3.Client) { through.Lease, cli.Lease = cli.Lease, through }}
	virtually(t, s, func(w *world) {
		l := w.grant(10, 3*time.Second)
		w.delay(2 * time.Second)
		w.etcd.Forget()
		for w.etcd.Count("Renew") == 0 {
			after(100 * time.Millisecond)
		}
		before := w.opened.Value()
		w.etcd.Stop()
		after(time.Second)
		w.within("streams", w.opened.Value()-before, 0, 3)
		w.delay(0)
		w.etcd.Start()
		after(5 * time.Second)
		w.untroubled([]*kept{l})
	})
}

// A client of clientv3.NewCtxClient has no connection of its own.
func TestClientWithoutAConnection_RenewsByWayOfItsLease(t *testing.T) {
	virtually(t, setting{}, func(w *world) {
		other := clientv3.NewCtxClient(w.Context())
		through := &wrapped{Lease: w.cli.Lease}
		other.Lease, other.KV = through, w.cli.KV
		conn := etcd.NewConn(etcd.Config{Timeout: time.Second})
		conn.Open(other)
		defer conn.Close()
		keeper := lease.New(conn)
		defer keeper.Close()
		l, err := keeper.Grant(w.Context(), 10, 3*time.Second)
		if err != nil {
			w.Fatal(err)
		}
		after(time.Minute)
		w.within("renewals", int(through.renewals.Load()), 19, 21)
		w.same("news", len(l.News), 0)
		if err := keeper.Revoke(w.Context(), l.ID); err != nil {
			w.Error(err)
		}
		after(4 * time.Second)
		w.same("news", inWords(<-l.News), "lost")
	})
}

func TestClose_LeavesNothing(t *testing.T) {
	for _, how := range []func(w *world){
		func(w *world) {},
		func(w *world) { w.grants(10, 10, time.Second) },
		func(w *world) { w.grants(10, 10, time.Second); w.etcd.Stop(); after(5 * time.Second) },
		func(w *world) { w.grants(10, 10, time.Second); w.etcd.Member(0).Silence(); after(5 * time.Second) },
		func(w *world) { w.grants(10, 10, time.Second); w.delay(5 * time.Second); after(5 * time.Second) },
		func(w *world) {
			w.grants(10, 10, time.Second)
			w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = refuse("Renew", rpctypes.ErrGRPCPermissionDenied) })
			after(3 * time.Second)
		},
		func(w *world) { // while a grant is under way
			w.etcd.Set(func(s *etcdtest.Settings) { s.WriteTime = time.Second })
			go func() { _, _ = w.keeper.Grant(w.Context(), 10, time.Second) }()
			after(time.Millisecond)
		},
	} {
		virtually(t, setting{}, func(w *world) {
			how(w)
			w.keeper.Close()
			w.keeper.Close()
			w.etcd.Set(func(s *etcdtest.Settings) { *s = etcdtest.Settings{} })
			w.etcd.Member(0).Speak()
			w.etcd.Start()
			after(time.Second)
			w.etcd.Forget()
			after(time.Minute)
			w.same("beats", w.etcd.Count("Renew"), 0)
			if l, err := w.keeper.Grant(w.Context(), 10, time.Second); err != nil {
				w.Error(err)
			} else {
				l.Alive(time.Second)
				l.Drop()
			}
		})
	}
}

// Owners come and go while everything breaks.
func TestDropDuringEverything_ForgetsAndRaces(t *testing.T) {
	virtually(t, checked(3), func(w *world) {
		stop := make(chan struct{})
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					l, err := w.keeper.Grant(w.Context(), 4, 500*time.Millisecond)
					if err != nil {
						w.Error(err)
						return
					}
					time.Sleep(time.Duration(i*37+n*101) % 900 * time.Millisecond)
					l.Expect(n%2 == 0)
					l.Alive(time.Duration(1+n%3) * 500 * time.Millisecond)
					select {
					case <-l.News:
					default:
					}
					time.Sleep(time.Duration(i*53+n*17) % 900 * time.Millisecond)
					l.Drop()
					if n%3 > 0 {
						if err := w.keeper.Revoke(w.Context(), l.ID); err != nil {
							w.Error(err)
						}
					}
				}
			})
		}
		for i := range 60 {
			time.Sleep(time.Second)
			m := w.etcd.Member(i % 3)
			switch i % 6 {
			case 0:
				m.Break()
			case 1:
				w.etcd.ForgetTokens()
			case 2:
				m.Freeze()
			case 3:
				w.etcd.Member((i - 1) % 3).Thaw()
			case 4:
				w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = refuse("Renew", rpctypes.ErrGRPCPermissionDenied) })
			case 5:
				w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = nil })
			}
		}
		close(stop)
		group.Wait()
		after(10 * time.Second)
		w.etcd.Forget()
		after(time.Minute)
		w.same("beats", w.etcd.Count("Renew"), 0)
		w.same("leases", len(w.etcd.Leases()), 0)
	})
}
