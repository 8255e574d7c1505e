package etcdtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// watching is a watch stream as a client sees it. clientv3's own Watcher does
// not let time pass in a bubble: its contexts share a channel from outside.
type watching struct {
	t      *testing.T
	stream pb.Watch_WatchClient
	heard  chan string
}

func watch(t *testing.T, cli *clientv3.Client, ctx context.Context) *watching {
	t.Helper()
	stream, err := pb.NewWatchClient(cli.ActiveConnection()).Watch(ctx)
	must(t, err)
	w := &watching{t, stream, make(chan string, 10_000)}
	go func() {
		defer close(w.heard)
		for {
			resp, err := stream.Recv()
			if err != nil {
				w.heard <- "end " + err.Error()
				return
			}
			w.heard <- told(resp)
		}
	}()
	return w
}

// told is an answer in a word or two, then its events.
func told(r *pb.WatchResponse) string {
	text := fmt.Sprintf("%d@%d", r.WatchId, r.Header.Revision)
	if r.Created {
		text += " created"
	}
	if r.Canceled {
		text += " canceled"
	}
	if r.CompactRevision != 0 {
		text += fmt.Sprint(" compacted ", r.CompactRevision)
	}
	if r.CancelReason != "" {
		text += " " + r.CancelReason
	}
	for _, e := range r.Events {
		text += fmt.Sprintf(" %s %s=%s", e.Type, e.Kv.Key, e.Kv.Value)
		if e.PrevKv != nil {
			text += fmt.Sprintf("(%s)", e.PrevKv.Value)
		}
	}
	return text
}

func (w *watching) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	must(w.t, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}))
}

func (w *watching) cancel(id int64) {
	w.t.Helper()
	must(w.t, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id},
	}}))
}

func (w *watching) askProgress() {
	w.t.Helper()
	must(w.t, w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{},
	}}))
}

// hears wants these answers, in this order, and no other within a second.
func (w *watching) hears(want ...string) {
	w.t.Helper()
	got := []string{}
	for end := time.After(time.Second); ; {
		select {
		case one, ok := <-w.heard:
			if ok {
				got = append(got, one)
				continue
			}
			w.heard = nil
		case <-end:
			sameAll(w.t, "heard", got, want)
			return
		}
	}
}

func prefix(p string) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(p), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(p))}
}

func TestWatchHearsOfChanges(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 3}, func(t *testing.T, etcd *etcdtest.Etcd) {
		w := watch(t, connect(t, etcd), t.Context())
		all := prefix("s/")
		all.PrevKv = true
		w.create(all)
		w.create(&pb.WatchCreateRequest{Key: []byte("s/a"), WatchId: 7, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
		w.hears("0@1 created", "7@1 created")
		etcd.Put("s/a", "1")
		etcd.Put("t/a", "1")
		etcd.Put("s/a", "2")
		w.hears("0@2 PUT s/a=1", "0@4 PUT s/a=2(1)")
		w.cancel(0)
		w.hears("0@4 canceled")
		etcd.Delete("s/a")
		w.hears("7@5 DELETE s/a=")
		same(t, "watches", etcd.Count("WatchCreate"), 2)
		same(t, "streams", etcd.Count("Watch"), 1)
	})
}

func TestWatchFromThePast(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		for i := range 4 {
			etcd.Put("s/a", string(rune('1'+i)))
		}
		w := watch(t, connect(t, etcd), t.Context())
		past := prefix("s/")
		past.StartRevision = 3
		w.create(past)
		w.hears("0@5 created", "0@5 PUT s/a=2 PUT s/a=3 PUT s/a=4")
		must(t, etcd.Compact(4))
		w.create(past)
		w.hears("1@5 created", "1@0 canceled compacted 4")
	})
}

func TestLongHistoryComesInSeveralAnswers(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		for range 2500 {
			etcd.Put("s/a", "")
		}
		w := watch(t, connect(t, etcd), t.Context())
		past := prefix("s/")
		past.StartRevision = 2
		w.create(past)
		events := []int{}
		for range 4 {
			events = append(events, strings.Count(<-w.heard, "PUT"))
		}
		sameAll(t, "events", events, []int{0, 1000, 1000, 500})
	})
}

func TestWatchFromTheFuture(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		w := watch(t, connect(t, etcd), t.Context())
		future := prefix("s/")
		future.StartRevision = 4
		w.create(future)
		w.askProgress()
		w.hears("0@1 created")
		etcd.Put("s/a", "2")
		etcd.Put("s/a", "3")
		w.askProgress()
		w.hears()
		etcd.Put("s/a", "4")
		w.hears("0@4 PUT s/a=4")
		w.askProgress()
		w.hears("-1@4")
	})
}

func TestProgressOfAStream(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		w := watch(t, connect(t, etcd), t.Context())
		w.askProgress()
		w.hears()
		w.create(prefix("s/"))
		w.hears("0@1 created")
		etcd.Put("t/a", "")
		w.askProgress()
		w.hears("-1@2")
		must(t, etcd.Compact(2))
		past := prefix("s/")
		past.StartRevision = 1
		w.create(past)
		w.askProgress()
		w.hears("1@2 created", "1@0 canceled compacted 2")
		w.askProgress() // etcd counts a compacted watch until it is cancelled
		w.hears()
		w.cancel(1)
		w.askProgress()
		w.hears("1@2 canceled", "-1@2")
	})
}

func TestProgressThatWasAskedFor(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		w := watch(t, connect(t, etcd), t.Context())
		r := prefix("s/")
		r.ProgressNotify = true
		w.create(r)
		w.hears("0@1 created")
		time.Sleep(10 * time.Minute)
		w.hears("0@1")
	})
}

func TestWatchIDs(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		w := watch(t, connect(t, etcd), t.Context())
		for _, id := range []int64{1, 0, 0, 1} {
			r := prefix("s/")
			r.WatchId = id
			w.create(r)
		}
		w.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
		w.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1})
		w.hears(
			"1@1 created", "0@1 created", "2@1 created",
			"-1@1 created canceled mvcc: duplicate watch ID provided on the WatchStream",
			"-1@1 created canceled mvcc: watcher range is empty",
			"-1@1 created canceled etcdserver: mvcc: required revision has been compacted",
		)
	})
}

func TestProxy(t *testing.T) {
	virtually(t, etcdtest.Config{Settings: etcdtest.Settings{Proxy: true}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		w := watch(t, cli, t.Context())
		r := prefix("s/")
		r.WatchId = 77
		w.create(r)
		w.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1})
		w.askProgress()
		w.hears("0@0 created", "-1@0 created canceled etcdserver: mvcc: required revision has been compacted")
		etcd.Put("s/a", "1")
		w.hears("0@2 PUT s/a=1")
		grant, err := cli.Grant(t.Context(), 30)
		must(t, err)
		k := keepAlive(t, cli, t.Context())
		k.renew(int64(grant.ID))
		same(t, "first", took(func() { <-k.answers }), 0)
		k.renew(int64(grant.ID))
		same(t, "second", took(func() { <-k.answers }), 10*time.Second)
	})
}

func TestWatchThatIsRefusedByAHook(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		etcd.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(_ int, method string, _ any) error {
				if method == "WatchCreate" {
					return errors.New("no")
				}
				return nil
			}
		})
		w := watch(t, connect(t, etcd), t.Context())
		w.create(prefix("s/"))
		w.hears("-1@1 created canceled no")
	})
}

func TestReaderThatFallsBehindHearsAll(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		w := watch(t, cli, t.Context())
		w.create(prefix("s/"))
		w.hears("0@1 created")
		etcd.SetLinks(etcdtest.Link{BytesPerSecond: 20_000})
		for range 3000 {
			etcd.Put("s/a", strings.Repeat("x", 100))
		}
		events, answers := 0, 0
		for events < 3000 {
			events += strings.Count(<-w.heard, "PUT")
			answers++
		}
		if same(t, "events", events, 3000); answers > 2500 {
			t.Errorf("%d answers for %d events", answers, events)
		}
	})
}
