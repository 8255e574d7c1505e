package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// trouble makes one member useless in some way.
var trouble = map[string]func(m *etcdtest.Member){
	"silent":    func(m *etcdtest.Member) { m.Silence() },
	"frozen":    func(m *etcdtest.Member) { m.Freeze() },
	"stalled":   func(m *etcdtest.Member) { m.Stall() },
	"no leader": func(m *etcdtest.Member) { m.LoseLeader() },
}

func TestMemberThatDoesNotAnswer_IsLeftWithinTheRequestTimeout(t *testing.T) {
	for what, make := range trouble {
		t.Run(what, func(t *testing.T) {
			virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
				for i := range 6 { // so that there are connections to all
					if _, err := w.put(w.Context(), fmt.Sprint(i)); err != nil {
						t.Fatal(err)
					}
				}
				make(w.etcd.Member(1))
				for i := range 12 {
					if took, err := w.put(w.within(3*time.Second), fmt.Sprint("k", i)); err != nil || took > 1500*time.Millisecond {
						t.Errorf("put %d took %v, %v", i, took, err)
					}
				}
			})
		})
	}
}

func TestMemberThatWasLeft_ComesBackWhenItAnswers(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
		for i := range 6 {
			_, _ = w.put(w.Context(), fmt.Sprint(i))
		}
		w.etcd.Member(1).Stall()
		for i := range 12 {
			_, _ = w.put(w.Context(), fmt.Sprint(i))
		}
		w.etcd.Member(1).Unstall()
		time.Sleep(time.Second)
		before := w.etcd.Member(1).Count("Put")
		for i := range 12 {
			_, _ = w.put(w.Context(), fmt.Sprint(i))
		}
		if n := w.etcd.Member(1).Count("Put") - before; n != 4 {
			t.Errorf("it got %d of 12 puts, want its third", n)
		}
	})
}

// values of 1 kB each over a link that needs ten seconds for them.
func TestThinLink_AListIsNoSilence(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
		values := map[string]string{}
		for i := range 500 {
			values[fmt.Sprintf("/s/%04d", i)] = string(make([]byte, 1000))
		}
		w.etcd.PutAll(values)
		w.etcd.SetLinks(etcdtest.Link{BytesPerSecond: 50_000, RTT: 20 * time.Millisecond})
		began := time.Now()
		resp, err := etcd.Ask(w.Context(), w.conn, etcd.Listing, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return w.conn.KV.Get(ctx, "/s/", clientv3.WithPrefix())
		})
		if err != nil || len(resp.Kvs) != 500 {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := w.retries.n.Load(); n != 0 {
			t.Errorf("%d retries", n)
		}
	})
}

func TestAllMembersSlow_NoneIsLeft(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
		slow := 2900 * time.Millisecond
		w.etcd.Set(func(s *etcdtest.Settings) { s.Delay = func(int, string, any) time.Duration { return slow } })
		for i := range 100 {
			if took, err := w.put(w.Context(), fmt.Sprint(i)); err != nil || took != slow {
				t.Errorf("put %d took %v, %v", i, took, err)
			}
		}
		if n := w.retries.n.Load(); n != 0 {
			t.Errorf("%d retries", n)
		}
		if n := w.etcd.Count("Range"); n > 30 {
			t.Errorf("%d reads to compare within five minutes", n)
		}
	})
}

// A member that has lost its leader refuses reads, and holds the writes that came
// before.
func TestMemberThatCannotServe_IsLeftUntilItCan(t *testing.T) {
	for i := range 3 {
		virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
			for range 6 { // all are connected
				_, _ = w.put(w.Context(), "k")
			}
			w.etcd.Set(func(s *etcdtest.Settings) {
				s.Refuse = func(member int, method string, _ any) error {
					if member == i && method == "Range" {
						return rpctypes.ErrGRPCNoLeader
					}
					return nil
				}
				s.Delay = func(member int, method string, _ any) time.Duration {
					if member == i && method == "Put" {
						return 7 * time.Second
					}
					return 0
				}
			})
			w.etcd.Forget()
			slow := 0
			for range 60 {
				took, err := w.put(w.Context(), "k")
				if err != nil || took > time.Second {
					t.Errorf("took %v, %v", took, err)
				}
				if took > 0 {
					slow++
				}
				time.Sleep(time.Second)
			}
			if slow != 1 {
				t.Errorf("%d puts of 60 waited for the member, want the first that went there", slow)
			}
			if n := w.etcd.Member(i).Count("Range"); n > 8 {
				t.Errorf("it was asked for %d reads in a minute", n)
			}
			w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse, s.Delay = nil, nil })
			time.Sleep(time.Minute) // no longer than it could not serve
			w.etcd.Forget()
			for range 12 {
				_, _ = w.put(w.Context(), "k")
			}
			if n := w.etcd.Member(i).Count("Put"); n != 4 {
				t.Errorf("once it can serve it got %d of 12 puts, want its third", n)
			}
		})
	}
}
