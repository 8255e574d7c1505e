package bench

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

const (
	fullSet = 50_000
	fanOut  = 10
)

// BenchmarkFirstSet measures how long it takes a connected client to have the
// first full set of 50,000 instances, and what that set then takes.
//
//	ms              from the start to the subscriber's event
//	heap-B/instance what the set then occupies; with event-, the one event that
//	                the subscriber keeps is counted in
func BenchmarkFirstSet(b *testing.B) {
	each(b, discoveries, func(b *testing.B, v discovery) {
		prefix := populated(b, "each", fullSet)
		follow := v.connect(b, etcd(b).Endpoint)
		var took []time.Duration
		end := profiled(b)
		for b.Loop() {
			took = append(took, firstSet(b, follow, prefix))
		}
		end()
		b.ReportMetric(measure.Millis(measure.Quantile(took, 0.5)), "ms")
		with, without := heapOf(b, follow, prefix, 1)
		b.ReportMetric(without/fullSet, "heap-B/instance")
		b.ReportMetric(with/fullSet, "event-heap-B/instance")
	})
	paired(b, func(b *testing.B, variant int) func() samples {
		prefix := populated(b, "each", fullSet)
		follow := discoveries[variant].connect(b, etcd(b).Endpoint)
		return func() samples { return samples{"ms": {measure.Millis(firstSet(b, follow, prefix))}} }
	})
}

// firstSet returns after how long a subscriber has the full set.
func firstSet(b *testing.B, follow func(string) followed, prefix string) time.Duration {
	began := time.Now()
	f := follow(prefix)
	s := subscribers(b, f, 1, fullSet)[0]
	took := time.Since(began)
	s.end()
	f.stop()
	return took
}

// heapOf is the heap that a followed prefix with n subscribers occupies, with
// and without the events that these keep.
func heapOf(b *testing.B, follow func(string) followed, prefix string, n int) (with, without float64) {
	before := measure.Held()
	f := follow(prefix)
	all := subscribers(b, f, n, fullSet)
	time.Sleep(500 * time.Millisecond) // upstream lists twice
	with = measure.Held().Since(before).Heap
	for _, s := range all {
		s.forget()
	}
	without = measure.Held().Since(before).Heap
	for _, s := range all {
		s.end()
	}
	f.stop()
	return with, without
}

// BenchmarkSubscribers measures ten subscribers of one prefix with 50,000
// instances: on one Instancer, or, by hand, with a watch and a map for each.
//
//	heap-B/instance  what they occupy together, with the event that each keeps
//	watches          that stand on the server
//	p50-us           from before a Put until all ten know of it
//	sent-B           bytes that the server sent for that
func BenchmarkSubscribers(b *testing.B) {
	each(b, discoveries, func(b *testing.B, v discovery) {
		prefix := populated(b, "each", fullSet)
		follow := v.connect(b, etcd(b).Endpoint)
		heap, _ := heapOf(b, follow, prefix, fanOut)
		before := settledWatchers(b)
		f := follow(prefix)
		defer f.stop()
		all := subscribers(b, f, fanOut, fullSet)
		watches := settledWatchers(b) - before
		var latencies []time.Duration
		was, answers := counts(b, etcd(b).Member), etcd(b).answers.n.Load()
		end := profiled(b)
		for b.Loop() {
			latencies = append(latencies, changeForAll(b, all, prefix, len(latencies)))
		}
		end()
		sent := counts(b, etcd(b).Member).Since(was).Sent() - float64(etcd(b).answers.n.Load()-answers)
		for _, s := range all {
			s.end()
		}
		b.ReportMetric(heap/fullSet, "heap-B/instance")
		b.ReportMetric(watches, "watches")
		b.ReportMetric(measure.Micros(measure.Quantile(latencies, 0.5)), "p50-us")
		b.ReportMetric(sent/float64(b.N), "sent-B")
	})
}

// settledWatchers is how many watches stand, once that does not change any more.
func settledWatchers(b *testing.B) float64 {
	last := -1.0
	for {
		now := counts(b, etcd(b).Member).Watchers()
		if now == last {
			return now
		}
		last = now
		time.Sleep(100 * time.Millisecond)
	}
}

// changeForAll changes one instance, and returns after how long all know.
func changeForAll(b *testing.B, all []subscription, prefix string, i int) time.Duration {
	key, value := member.Key(prefix, i*7919%fullSet), member.Value(i*7919%fullSet, nextVersion())
	knows := make(chan time.Time)
	began := time.Now()
	for _, s := range all {
		go func() {
			await(s, key, value)
			knows <- time.Now()
		}()
	}
	etcd(b).put(b, key, value)
	var last time.Time
	for range all {
		if at := <-knows; at.After(last) {
			last = at
		}
	}
	return last.Sub(began)
}
