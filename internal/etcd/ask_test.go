package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestSlowAnswer_IsWaitedForAndNotAskedForAgain(t *testing.T) {
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			virtually(t, etcdtest.Config{Members: members, Settings: etcdtest.Settings{WriteTime: time.Minute}}, func(w *world) {
				took, err := w.put(w.Context(), "k")
				if err != nil || took != time.Minute {
					t.Errorf("took %v, %v", took, err)
				}
				if n := w.etcd.Count("Put"); n != 1 {
					t.Errorf("asked %d times", n)
				}
				if n := w.etcd.Count("Range"); n > 10 {
					t.Errorf("%d reads to compare members within a minute", n)
				}
			})
		})
	}
}

func TestDeadline_TellsWhatIsKnownOfTheReason(t *testing.T) {
	for what, make := range map[string]struct {
		trouble func(e *etcdtest.Etcd)
		want    string
	}{
		"nobody there": {func(e *etcdtest.Etcd) { e.Member(0).Down() }, "connection refused"},
		"no leader":    {func(e *etcdtest.Etcd) { e.Member(0).LoseLeader() }, "no leader"},
		"busy": {func(e *etcdtest.Etcd) {
			e.Set(func(s *etcdtest.Settings) {
				s.Refuse = func(int, string, any) error { return rpctypes.ErrGRPCRequestTooManyRequests }
			})
		}, "too many requests"},
		"slow": {func(e *etcdtest.Etcd) { e.Set(func(s *etcdtest.Settings) { s.WriteTime = time.Hour }) }, "did not answer in time"},
	} {
		t.Run(what, func(t *testing.T) {
			virtually(t, etcdtest.Config{}, func(w *world) {
				make.trouble(w.etcd)
				var heard error
				took, err := w.put(etcd.WithReport(w.within(3*time.Second), func(err error) { heard = err }), "k")
				if took != 3*time.Second || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), make.want) {
					t.Errorf("after %v: %v", took, err)
				}
				if what != "slow" && (heard == nil || !strings.Contains(heard.Error(), make.want)) {
					t.Errorf("heard %v", heard)
				}
			})
		})
	}
}

func TestNobodyThere_AsksAgainAsSoonAsThereIsSomebody(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(w *world) {
		w.etcd.Stop()
		done := make(chan time.Time)
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				if _, err := w.put(w.Context(), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		go func() {
			group.Wait()
			done <- time.Now()
		}()
		time.Sleep(time.Hour)
		w.etcd.Start()
		back := time.Now()
		if took := (<-done).Sub(back); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := w.etcd.Count("Put"); n != 20 {
			t.Errorf("%d puts for 20", n)
		}
		if n := w.retries.n.Load(); n != 0 {
			t.Errorf("%d retries are counted of what never left", n)
		}
	})
}

func TestTooManyRequests_OneAtATimeUntilAnAnswer(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(w *world) {
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(_ int, method string, _ any) error {
				if method == "Put" {
					return rpctypes.ErrGRPCRequestTooManyRequests
				}
				return nil
			}
		})
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				if _, err := w.put(w.Context(), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * time.Minute)
		if n := w.etcd.Count("Put"); n > 20+20 {
			t.Errorf("%d puts in ten minutes", n)
		}
		w.etcd.Set(func(s *etcdtest.Settings) { s.Refuse = nil })
		began := time.Now()
		group.Wait()
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v after that", took)
		}
	})
}

func TestEnding_RefusedForLoad_IsTriedAgainWithinItsTime(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(w *world) {
		refusals := 3
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(int, string, any) error {
				if refusals--; refusals >= 0 {
					return rpctypes.ErrGRPCRequestTooManyRequests
				}
				return nil
			}
		})
		_, err := etcd.Ask(w.within(3*time.Second), w.conn, etcd.Ending, func(ctx context.Context) (*clientv3.DeleteResponse, error) {
			return w.conn.KV.Delete(ctx, "k")
		})
		if err != nil || refusals >= 0 {
			t.Errorf("%v, %d refusals are left", err, refusals)
		}
	})
}

func TestEndingThatFailsForLong_IsTriedLessOften(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(w *world) {
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(int, string, any) error { return rpctypes.ErrGRPCRequestTooManyRequests }
		})
		_, err := etcd.Ask(w.within(time.Hour), w.conn, etcd.Ending, func(ctx context.Context) (*clientv3.DeleteResponse, error) {
			return w.conn.KV.Delete(ctx, "k")
		})
		if n := w.etcd.Count("DeleteRange"); n < 300 || n > 600 {
			t.Errorf("%d attempts in an hour: %v", n, err)
		}
	})
}

func TestRefusal_IsReturnedAtOnce(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{NoSpace: true}}, func(w *world) {
		took, err := w.put(w.Context(), "k")
		if took != 0 || !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestBrokenConnection_IsAskedAgain(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3, Settings: etcdtest.Settings{WriteTime: time.Second}}, func(w *world) {
		time.AfterFunc(500*time.Millisecond, func() {
			for _, m := range w.etcd.Members() {
				m.Break()
			}
		})
		if took, err := w.put(w.Context(), "k"); err != nil || took > 3*time.Second {
			t.Errorf("took %v, %v", took, err)
		}
		if n := w.etcd.Count("Put"); n < 2 || n > 4 {
			t.Errorf("%d puts", n)
		}
	})
}

func TestCaller_LeavesAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := connect(t, etcdtest.Start(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: time.Hour}}), "", "")
		ctx, cancel := context.WithCancelCause(w.Context())
		time.AfterFunc(time.Second, func() { cancel(errors.New("not wanted any more")) })
		took, err := w.put(ctx, "k")
		if took != time.Second || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not wanted any more") {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestAnswerThatIsLost_IsAskedForAgainAfterAMinute(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(w *world) {
		lost := true
		w.etcd.Set(func(s *etcdtest.Settings) {
			s.DelayAnswer = func(_ int, method string, _ any) time.Duration {
				if method == "Put" && lost {
					lost = false
					return time.Hour
				}
				return 0
			}
		})
		if took, err := w.put(w.Context(), "k"); err != nil || took < time.Minute || took > time.Minute+2*time.Second {
			t.Errorf("took %v, %v", took, err)
		}
		if n := w.etcd.Count("Put"); n != 2 {
			t.Errorf("%d puts", n)
		}
	})
}
