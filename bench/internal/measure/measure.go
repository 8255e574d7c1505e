// Package measure holds what the benchmarks measure with.
package measure

import (
	"runtime"
	"slices"
	"syscall"
	"time"
)

// CPU is the processor time that this process has used so far.
func CPU() time.Duration {
	var use syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &use)
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// Memory is what this process holds.
type Memory struct{ Heap, Stack float64 }

// Held is the memory that is in use once all garbage is collected.
func Held() Memory {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return Memory{Heap: float64(m.HeapAlloc), Stack: float64(m.StackInuse)}
}

// Since is what came after an earlier moment.
func (m Memory) Since(earlier Memory) Memory {
	return Memory{Heap: m.Heap - earlier.Heap, Stack: m.Stack - earlier.Stack}
}

// Quantile is the value below which a share of the samples lies: 0.5 for the
// median. It sorts them.
func Quantile[T int | float64 | time.Duration](samples []T, share float64) T {
	if len(samples) == 0 {
		return 0
	}
	slices.Sort(samples)
	return samples[min(int(share*float64(len(samples))), len(samples)-1)]
}

// Micros is a duration in microseconds, Millis in milliseconds.
func Micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
