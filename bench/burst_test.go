package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

const (
	burstStanding = 2_000
	burstChanges  = 3_000
	burstWriters  = 16
)

// BenchmarkBurst measures 3,000 changes, 16 at a time, while 2,000 instances
// stand. The server writes them itself, so that this process does nothing but
// follow.
//
//	ms          from before the first change to the event that shows the last
//	cpu-ms      processor time of this process for all of them
//	ranges      range requests that the server served
//	events      events that the subscriber got
//	sent-B      bytes of all messages that the server sent
func BenchmarkBurst(b *testing.B) {
	each(b, discoveries, func(b *testing.B, v discovery) {
		one := bursting(b, v, "each")
		var took, cpu []float64
		var events int
		before := counts(b, etcd(b).Member)
		end := profiled(b)
		for b.Loop() {
			ms, cpuMs, n := one()
			took, cpu, events = append(took, ms), append(cpu, cpuMs), events+n
		}
		end()
		done := counts(b, etcd(b).Member).Since(before)
		b.ReportMetric(measure.Quantile(took, 0.5), "ms")
		b.ReportMetric(measure.Quantile(cpu, 0.5), "cpu-ms")
		b.ReportMetric(done.Handled("Range")/float64(b.N), "ranges")
		b.ReportMetric(float64(events)/float64(b.N), "events")
		b.ReportMetric(done.Sent()/float64(b.N), "sent-B")
	})
	paired(b, func(b *testing.B, variant int) func() samples {
		one := bursting(b, discoveries[variant], fmt.Sprint("paired", variant))
		return func() samples {
			ms, cpuMs, _ := one()
			return samples{"ms": {ms}, "cpu-ms": {cpuMs}}
		}
	})
}

// bursting follows a prefix, and returns a function that makes one burst there. The
// function returns the milliseconds of time and of the processor, and the events.
func bursting(b *testing.B, v discovery, owner string) func() (ms, cpuMs float64, events int) {
	prefix := populated(b, owner, burstStanding)
	f := v.connect(b, etcd(b).Endpoint)(prefix)
	b.Cleanup(f.stop)
	s := subscribers(b, f, 1, burstStanding)[0]
	b.Cleanup(s.end)
	return func() (ms, cpuMs float64, events int) {
		began, used := time.Now(), measure.CPU()
		events = burst(b, s, prefix)
		return measure.Millis(time.Since(began)), measure.Millis(measure.CPU() - used), events
	}
}

// burst returns when the subscriber has converged, with the number of its events.
func burst(b *testing.B, s subscription, prefix string) (events int) {
	version := nextVersion()
	written := make(chan error, 1)
	go func() {
		written <- etcd(b).Burst(prefix, version, burstChanges, burstStanding, burstWriters)
	}()
	events = await(s, member.Key(prefix, burstChanges%burstStanding), member.Value(burstChanges, version))
	if err := <-written; err != nil {
		b.Fatal(err)
	}
	return events
}
