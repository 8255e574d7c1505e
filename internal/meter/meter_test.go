package meter

import "testing"

func TestMetricsThatAreNotKept_CostNoAllocation(t *testing.T) {
	m := None
	prefix := string([]byte("/services/hello/")) // not a constant
	if allocs := testing.AllocsPerRun(100, func() {
		Count(m.EventsSent, 1)
		Count(m.Losses, 1, "reason", prefix)
		Add(m.ServicesRegistered, 1)
		Add(m.RequestsWaiting, -1)
		Set(m.Instances, 2, "prefix", prefix)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
