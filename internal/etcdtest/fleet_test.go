package etcdtest_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// fleetSize is how many clients TestFleet has, unless ETCDTEST_FLEET says it.
const fleetSize = 300

func TestFleet(t *testing.T) {
	n := fleetSize
	if size, err := strconv.Atoi(os.Getenv("ETCDTEST_FLEET")); err == nil {
		n = size
	}
	begin := time.Now()
	defer func() { t.Logf("%d clients took %s", n, time.Since(begin).Round(time.Millisecond)) }()
	virtually(t, etcdtest.Config{Members: 3, Settings: etcdtest.Settings{WriteTime: time.Millisecond, MaxPending: 1 << 20}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		var all sync.WaitGroup
		d := took(func() {
			for i := range n {
				cli := connect(t, etcd)
				all.Go(func() { register(t, cli, i) })
			}
			all.Wait()
		})
		if ideal := time.Duration(2*n) * time.Millisecond; d < ideal || d > ideal+100*time.Millisecond {
			t.Errorf("%d registrations took %s, want %s", n, d, ideal)
		}
		time.Sleep(time.Minute)
		same(t, "keys", etcd.CountKeys("s/"), n)
		same(t, "connections", etcd.Connections(), 3*n)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t.Logf("%d goroutines, %d MB", runtime.NumGoroutine(), m.Sys>>20)
	})
}

func register(t *testing.T, cli *clientv3.Client, i int) {
	lease, err := cli.Grant(t.Context(), 10)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := cli.Put(t.Context(), fmt.Sprint("s/", i), "", clientv3.WithLease(lease.ID)); err != nil {
		t.Error(err)
		return
	}
	renewed, err := cli.KeepAlive(t.Context(), lease.ID)
	if err != nil {
		t.Error(err)
		return
	}
	go func() {
		for range renewed {
		}
	}()
}

func TestReadersShareALargeSet(t *testing.T) {
	n := fleetSize / 10
	if size, err := strconv.Atoi(os.Getenv("ETCDTEST_FLEET")); err == nil {
		n = size
	}
	begin := time.Now()
	defer func() { t.Logf("%d readers took %s", n, time.Since(begin).Round(time.Millisecond)) }()
	virtually(t, etcdtest.Config{Members: 3, Settings: etcdtest.Settings{RangeBytesPerSecond: 50 << 20}}, func(t *testing.T, etcd *etcdtest.Etcd) {
		values := map[string]string{}
		for i := range 20_000 {
			values[fmt.Sprintf("s/%05d", i)] = "10.0.0.1:8080"
		}
		etcd.PutAll(values)
		var all sync.WaitGroup
		for range n {
			cli := connect(t, etcd)
			all.Go(func() {
				if got, err := cli.Get(t.Context(), "s/", clientv3.WithPrefix()); err != nil || got.Count != 20_000 {
					t.Error(err, got)
				}
			})
		}
		d := took(all.Wait)
		if want := time.Duration(etcd.RangeBytes()) * time.Second / (50 << 20); d < want-10*time.Millisecond || d > want+200*time.Millisecond {
			t.Errorf("%d lists took %s, want %s", n, d, want)
		}
	})
}
