package etcdv3

import (
	"math"
	"testing"
	"time"
)

// FuzzTTL gives NewTTLOption any two durations. It runs at some tens of seeds a
// second, so all pairs of the interesting ones stand in a test of their own.
func FuzzTTL(f *testing.F) {
	for i, d := range extremeDurations {
		f.Add(int64(d), int64(extremeDurations[len(extremeDurations)-1-i]))
	}
	f.Fuzz(func(t *testing.T, heartbeat, ttl int64) { keepsTimes(t, time.Duration(heartbeat), time.Duration(ttl)) })
}

func TestTTLOption_KeepsAnyTwoDurations(t *testing.T) {
	for _, heartbeat := range extremeDurations {
		for _, ttl := range extremeDurations {
			keepsTimes(t, heartbeat, ttl)
		}
	}
}

var extremeDurations = []time.Duration{
	0, 1, -1, 499 * time.Millisecond, 500 * time.Millisecond, 500*time.Millisecond + 1, time.Second, time.Second + 1, 3 * time.Second,
	10 * time.Second, time.Hour, maxLeaseSeconds * time.Second, maxLeaseSeconds*time.Second + 1,
	math.MaxInt64 / 3, math.MaxInt64/3 - 1, math.MaxInt64/3 + 1, math.MaxInt64 - 1, math.MaxInt64, math.MinInt64,
}

// keepsTimes fails unless a TTLOption is what its documentation says.
func keepsTimes(t *testing.T, heartbeat, ttl time.Duration) {
	t.Helper()
	o := NewTTLOption(heartbeat, ttl)
	every, seconds := o.timing()
	if every != max(heartbeat, 500*time.Millisecond) {
		t.Errorf("heartbeat %v became %v", heartbeat, every)
	}
	if o.ttl <= o.heartbeat && o.ttl != math.MaxInt64 {
		t.Errorf("the TTL %v is not above the heartbeat %v", o.ttl, o.heartbeat)
	}
	if ttl > every && o.ttl != ttl {
		t.Errorf("the TTL %v became %v", ttl, o.ttl)
	}
	want := min(int64(o.ttl/time.Second)+1, maxLeaseSeconds)
	if o.ttl%time.Second == 0 {
		want = min(int64(o.ttl/time.Second), maxLeaseSeconds)
	}
	if seconds < 1 || seconds != want {
		t.Errorf("the TTL %v became %d s, want %d", o.ttl, seconds, want)
	}
}
