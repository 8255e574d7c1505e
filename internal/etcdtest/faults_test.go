package etcdtest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// puts sends so many puts at once, each with an own deadline, and waits for all.
func puts(t *testing.T, cli *clientv3.Client, n int, deadline time.Duration) (failed int, last error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			if _, err := cli.Put(ctx, fmt.Sprint("k/", i), ""); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed++
				last = err
			}
		})
	}
	all.Wait()
	return failed, last
}

func TestWritesTakeTheirTimeOneAfterAnother(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3, Settings: etcdtest.Settings{WriteTime: 10 * time.Millisecond}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		same(t, "100 writes", took(func() { puts(t, cli, 100, time.Minute) }), time.Second)
		etcd.Set(func(s *etcdtest.Settings) { s.WriteTime = 20 * time.Millisecond })
		same(t, "100 more", took(func() { puts(t, cli, 100, time.Minute) }), 2*time.Second)
	})
}

func TestWriteIsCarriedOutWhoeverWaits(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: time.Second}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		failed, _ := puts(t, cli, 10, 2500*time.Millisecond)
		same(t, "given up", failed, 8)
		same(t, "pending", etcd.Pending(), 8)
		time.Sleep(8 * time.Second)
		same(t, "keys", etcd.CountKeys("k/"), 10)
	})
}

func TestReadsWaitForTheWritesBeforeThem(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: time.Second}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		go puts(t, cli, 3, time.Minute)
		synctest.Wait()
		read := func(opts ...clientv3.OpOption) time.Duration {
			return took(func() { _, err := cli.Get(t.Context(), "a", opts...); must(t, err) })
		}
		same(t, "serializable", read(clientv3.WithSerializable()), 0)
		same(t, "linearizable", read(), 3*time.Second)
		go puts(t, cli, 3, time.Minute)
		synctest.Wait()
		etcd.Set(func(s *etcdtest.Settings) { s.ReadsDoNotWait = true })
		same(t, "told not to wait", read(), 0)
	})
}

func TestTooManyWritesAreRefused(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: time.Millisecond, MaxPending: 9}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		failed, err := puts(t, cli, 15, time.Minute)
		same(t, "refused", failed, 5)
		wantError(t, "refusal", err, rpctypes.ErrTooManyRequests)
		go puts(t, cli, 10, time.Minute)
		synctest.Wait()
		_, err = only(t, etcd, 0).Put(t.Context(), &pb.PutRequest{Key: []byte("a")})
		same(t, "code on the wire", status.Code(err), codes.Unknown) // as etcd 3.7.3 has it
	})
}

func TestEtcdGivesUpWaitingAndCarriesOut(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{WriteTime: 5 * time.Second, RequestTimeout: 7 * time.Second}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		failed, err := puts(t, cli, 2, time.Minute)
		same(t, "failed", failed, 1)
		wantError(t, "timeout", err, rpctypes.ErrTimeout)
		time.Sleep(4 * time.Second)
		same(t, "keys", etcd.CountKeys("k/"), 2)
	})
}

func TestListsShareARate(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		etcd.Put("a", string(make([]byte, 10_000)))
		etcd.Set(func(s *etcdtest.Settings) { s.RangeBytesPerSecond = 10_000 })
		begin := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { _, err := cli.Get(t.Context(), "a"); wantError(t, "in parallel", err, nil) })
		}
		all.Wait()
		same(t, "five lists", time.Since(begin).Round(100*time.Millisecond), 5*time.Second)
		same(t, "bytes", etcd.RangeBytes()/1000, 50)
	})
}

func TestHooks(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		only := func(method string, d time.Duration) func(int, string, any) time.Duration {
			return func(_ int, m string, _ any) time.Duration {
				if m == method {
					return d
				}
				return 0
			}
		}
		put := func(key string) (time.Duration, error) {
			begin := time.Now()
			_, err := cli.Put(within(t, 2*time.Second), key, "")
			return time.Since(begin).Round(time.Millisecond), err
		}
		etcd.Set(func(s *etcdtest.Settings) { s.Delay = only("Put", 3*time.Second) })
		_, err := put("delayed")
		wantError(t, "delayed", err, context.DeadlineExceeded)
		sameAll(t, "keys at first", etcd.Keys(""), nil)
		time.Sleep(2 * time.Second)
		sameAll(t, "keys later", etcd.Keys(""), []string{"delayed"})

		etcd.Set(func(s *etcdtest.Settings) { s.Delay, s.DelayAnswer = nil, only("Put", time.Second) })
		d, err := put("answered")
		must(t, err)
		same(t, "answer", d, time.Second)

		etcd.Set(func(s *etcdtest.Settings) { s.DelayAnswer, s.Twice = nil, only("Put", 5*time.Second) })
		_, err = put("twice")
		must(t, err)
		etcd.Delete("twice")
		time.Sleep(6 * time.Second)
		same(t, "versions", len(etcd.History("twice")), 3)

		etcd.Set(func(s *etcdtest.Settings) {
			s.Twice, s.Refuse = nil, func(_ int, method string, req any) error {
				if r, ok := req.(*pb.PutRequest); ok && string(r.Key) == "refused" {
					return rpctypes.ErrGRPCNoSpace
				}
				return nil
			}
		})
		_, err = put("refused")
		wantError(t, "refused", err, rpctypes.ErrNoSpace)
		same(t, "puts", etcd.Count("Put"), 4)
		sameAll(t, "keys", etcd.Keys(""), []string{"answered", "delayed", "twice"})
	})
}

func TestLateRequests(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		etcd.Set(func(s *etcdtest.Settings) {
			s.Late = func(_ int, _ string, req any) (time.Duration, error) {
				if r, ok := req.(*pb.PutRequest); ok && string(r.Key) == "told" {
					return time.Second, status.Error(codes.Unavailable, "lost")
				}
				return time.Second, nil
			}
		})
		_, err := cli.Put(t.Context(), "told", "")
		same(t, "error", rpctypes.ErrorDesc(err), "lost")
		_, err = cli.Put(t.Context(), "broken", "")
		same(t, "code", status.Code(err), codes.Unavailable)
		sameAll(t, "keys at first", etcd.Keys(""), nil)
		time.Sleep(2 * time.Second)
		sameAll(t, "keys later", etcd.Keys(""), []string{"broken", "told"})
	})
}

func TestLatenessOfAnyOrder(t *testing.T) {
	versions := 0
	for seed := range uint64(20) {
		virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
			cli := connect(t, etcd)
			etcd.Set(etcdtest.Lateness(seed, 5*time.Second))
			for i := range 10 {
				_, _ = cli.Put(within(t, 3*time.Second), "a", fmt.Sprint(i))
			}
			etcd.Set(func(s *etcdtest.Settings) { *s = etcdtest.Settings{} })
			time.Sleep(20 * time.Second)
			versions += len(etcd.History("a"))
		})
	}
	if versions <= 200 {
		t.Errorf("%d puts were carried out of 200: none twice", versions)
	}
}

func TestStreamLimit(t *testing.T) {
	virtually(t, etcdtest.Config{MaxStreams: 3}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		for range 3 {
			watch(t, cli, t.Context())
		}
		_, err := cli.Get(within(t, time.Second), "a")
		wantError(t, "a fourth stream", err, context.DeadlineExceeded)
		same(t, "streams", etcd.MostStreams(), 3)
	})
}

func TestJournal(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 2}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connectAll(t, etcd)
		etcd.Forget()
		begin := time.Now()
		for range 4 {
			time.Sleep(time.Second)
			_, err := cli.Get(t.Context(), "a")
			must(t, err)
		}
		times := etcd.Times("Range")
		same(t, "third", times[2].Sub(begin), 3*time.Second)
		same(t, "of one member", etcd.Member(0).Count("Range"), 2)
		same(t, "all", etcd.Counts()["Range"], 4)
		etcd.Forget()
		same(t, "forgotten", etcd.Count("Range"), 0)
	})
}
