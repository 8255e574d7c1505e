package bench

import (
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/member"
)

// idleInstances is how many stand while nothing happens.
const idleInstances = 1_000

// BenchmarkIdle counts what a server gets to do by one subscriber of a prefix
// where nothing happens, for -window, but at least 31 s. Each variant has a
// server of its own, all at the same time.
//
//	requests/min    calls and messages of any kind
//	received-B/min  bytes of them, sent-B/min bytes of the answers
func BenchmarkIdle(b *testing.B) {
	var results map[string]idleCost
	each(b, discoveries, func(b *testing.B, v discovery) {
		if results == nil {
			results = idle(b)
		}
		for b.Loop() {
		}
		r := results[v.name()]
		b.ReportMetric(r.requests, "requests/min")
		b.ReportMetric(r.received, "received-B/min")
		b.ReportMetric(r.sent, "sent-B/min")
		b.ReportMetric(0, "ns/op")
	})
}

type idleCost struct{ requests, received, sent float64 }

// idle measures all variants at once.
func idle(b *testing.B) map[string]idleCost {
	results := map[string]idleCost{}
	var mu sync.Mutex // guards results
	var wait sync.WaitGroup
	for _, v := range discoveries {
		wait.Go(func() {
			cost := idleOf(b, v, max(*window, 31*time.Second))
			mu.Lock()
			results[v.name()] = cost
			mu.Unlock()
		})
	}
	wait.Wait()
	return results
}

func idleOf(b *testing.B, v discovery, window time.Duration) idleCost {
	members, err := member.Start(1, member.Options{NoFsync: !*fsync})
	if err != nil {
		b.Error(err)
		return idleCost{}
	}
	defer member.Stop(members)
	if err := members[0].Populate("/idle/", 0, idleInstances); err != nil {
		b.Error(err)
	}
	f := v.connect(b, members[0].Endpoint)("/idle/")
	defer f.stop()
	s := subscribers(b, f, 1, idleInstances)[0]
	defer s.end()
	time.Sleep(3 * time.Second) // what follows the start
	before, began := counts(b, members[0]), time.Now()
	time.Sleep(window)
	done, minutes := counts(b, members[0]).Since(before), time.Since(began).Minutes()
	return idleCost{
		requests: done.Sum("grpc_server_msg_received_total") / minutes,
		received: done.Received() / minutes,
		sent:     done.Sent() / minutes,
	}
}
