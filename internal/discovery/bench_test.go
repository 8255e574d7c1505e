package discovery

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"github.com/kitsd/etcdv3/internal/instances"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// bare follows a prefix by hand, with clientv3 and a map.
func bare(ctx context.Context, cli *clientv3.Client, prefix string, update func(n int)) error {
	resp, err := cli.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	values := map[string]string{}
	for _, kv := range resp.Kvs {
		values[string(kv.Key)] = string(kv.Value)
	}
	update(len(values))
	for resp := range cli.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(resp.Header.Revision+1)) {
		for _, event := range resp.Events {
			if event.Type == clientv3.EventTypeDelete {
				delete(values, string(event.Kv.Key))
			} else {
				values[string(event.Kv.Key)] = string(event.Kv.Value)
			}
		}
		update(len(values))
	}
	return nil
}

// ways are this package and clientv3 by hand. Each follows a prefix until the
// benchmark ends.
var ways = map[string]func(b *testing.B, e *etcdtest.Etcd, update func(n int)){
	"this": func(b *testing.B, e *etcdtest.Etcd, update func(n int)) {
		c := connect(b, e)
		w := Watch(context.Background(), c.conn, c.hub, "/s/", log.NewNopLogger(), func(set instances.Set) { update(set.Len()) }, func(error) {})
		b.Cleanup(w.Stop)
	},
	"bare": func(b *testing.B, e *etcdtest.Etcd, update func(n int)) {
		c := connect(b, e)
		ctx, cancel := context.WithCancel(context.Background())
		b.Cleanup(cancel)
		go func() { _ = bare(ctx, c.conn.Client, "/s/", update) }()
	},
}

func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		for _, name := range []string{"this", "bare"} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				e := etcdtest.Start(b, etcdtest.Config{})
				fill(e, "/s/", n, 50)
				sets := make(chan int, 1000)
				ways[name](b, e, func(n int) { sets <- n })
				for <-sets != n {
				}
				time.Sleep(10 * time.Millisecond)
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					e.Put(fmt.Sprintf("/s/%08d", i%n), fmt.Sprintf("%08d-%d", i%n, i))
					<-sets
				}
			})
		}
	}
}

func BenchmarkBurst(b *testing.B) {
	for _, name := range []string{"this", "bare"} {
		b.Run(name, func(b *testing.B) {
			e := etcdtest.Start(b, etcdtest.Config{})
			sets := make(chan int, 100_000)
			ways[name](b, e, func(n int) { sets <- n })
			<-sets
			time.Sleep(10 * time.Millisecond)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				for k := range 1000 {
					e.Put(fmt.Sprintf("/s/%d-%d", i, k), "x"+fmt.Sprint(i, k))
				}
				for <-sets < 1000*(i+1) {
				}
			}
		})
	}
}

// BenchmarkPrefixes is the heap of a prefix that is followed, of a thousand on
// one client, the double's part included.
func BenchmarkPrefixes(b *testing.B) {
	for range b.N {
		e := etcdtest.Start(b, etcdtest.Config{})
		c := connect(b, e)
		stood := make(chan struct{}, 1000)
		before := heap()
		for i := range 1000 {
			w := Watch(context.Background(), c.conn, c.hub, fmt.Sprintf("/s%d/", i), log.NewNopLogger(), func(instances.Set) { stood <- struct{}{} }, func(error) {})
			b.Cleanup(w.Stop)
		}
		for range 1000 {
			<-stood
		}
		for e.Count("WatchCreate") < 1000 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		b.ReportMetric(float64(heap()-before)/1000, "B/prefix")
		b.ReportMetric(float64(e.Count("Watch")), "streams")
		b.ReportMetric(float64(runtime.NumGoroutine())/1000, "goroutines/prefix")
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
