package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// row is one line of the table: a metric of a benchmark in all variants.
type row struct {
	work, unit    string
	bench, metric string
	target        float64 // of the ratio to bare, 0 for none
	limit         float64 // of the value itself, 0 for none
	none          bool    // the value must be 0
}

// The targets of the table are the package's own.
var rows = []row{
	{work: "one change, 10 instances standing: latency", unit: "µs", bench: "Change/instances=10", metric: "p50-us", target: 1.15},
	{work: "— 1,000 standing", unit: "µs", bench: "Change/instances=1000", metric: "p50-us", target: 1.15},
	{work: "— 10,000 standing", unit: "µs", bench: "Change/instances=10000", metric: "p50-us", target: 1.25},
	{work: "— 100,000 standing", unit: "µs", bench: "Change/instances=100000", metric: "p50-us", target: 1.5},
	{work: "bytes for that change, 10 standing", unit: "B", bench: "Change/instances=10", metric: "sent-B", target: 1.1},
	{work: "— 1,000 standing", unit: "B", bench: "Change/instances=1000", metric: "sent-B", target: 1.1},
	{work: "— 10,000 standing", unit: "B", bench: "Change/instances=10000", metric: "sent-B", target: 1.1},
	{work: "— 100,000 standing", unit: "B", bench: "Change/instances=100000", metric: "sent-B", target: 1.1},
	{work: "range requests for that change, 100,000 standing", bench: "Change/instances=100000", metric: "ranges", none: true},
	{work: "client CPU for that change, 10 standing", unit: "µs", bench: "Change/instances=10", metric: "cpu-us"},
	{work: "— 1,000 standing", unit: "µs", bench: "Change/instances=1000", metric: "cpu-us"},
	{work: "— 10,000 standing", unit: "µs", bench: "Change/instances=10000", metric: "cpu-us"},
	{work: "— 100,000 standing", unit: "µs", bench: "Change/instances=100000", metric: "cpu-us"},
	{work: "burst of 3,000 changes onto 2,000: client CPU", unit: "ms", bench: "Burst", metric: "cpu-ms", target: 1.5},
	{work: "— until converged", unit: "ms", bench: "Burst", metric: "ms", target: 1.05},
	{work: "— range requests", bench: "Burst", metric: "ranges", none: true},
	{work: "— events", bench: "Burst", metric: "events", limit: 3000},
	{work: "first full set of 50,000: time", unit: "ms", bench: "FirstSet", metric: "ms", target: 1.1},
	{work: "— heap an instance, without the subscriber's event", unit: "B", bench: "FirstSet", metric: "heap-B/instance", target: 1.25},
	{work: "— heap an instance, with it", unit: "B", bench: "FirstSet", metric: "event-heap-B/instance"},
	{work: "ten subscribers on 50,000: heap an instance, with their events", unit: "B", bench: "Subscribers", metric: "heap-B/instance"},
	{work: "— watches", bench: "Subscribers", metric: "watches", limit: 1},
	{work: "— bytes for one change", unit: "B", bench: "Subscribers", metric: "sent-B"},
	{work: "— latency of one change until all ten know", unit: "µs", bench: "Subscribers", metric: "p50-us"},
	{work: "Register", unit: "µs", bench: "Register", metric: "register-us", target: 1.1},
	{work: "Deregister", unit: "µs", bench: "Register", metric: "deregister-us", target: 1.1},
	{work: "1,000 services on one client: CPU a heartbeat", unit: "µs", bench: "Heartbeats", metric: "cpu-us/beat", target: 1.5},
	{work: "— heap a lease", unit: "B", bench: "Heartbeats", metric: "heap-B/lease", limit: 3000},
	{work: "— stacks a lease", unit: "B", bench: "Heartbeats", metric: "stack-B/lease"},
	{work: "— keep-alive streams", bench: "Heartbeats", metric: "streams", limit: 1},
	{work: "— heartbeats a second, of 1,000 asked for", bench: "Heartbeats", metric: "beats/s"},
	{work: "— how far 99 of 100 heartbeats are off", unit: "%", bench: "HeartbeatAccuracy", metric: "p99-off-%", limit: 10},
	{work: "— how far the worst is off", unit: "%", bench: "HeartbeatAccuracy", metric: "max-off-%", limit: 10},
	{work: "100 services with user and password: authentications", bench: "Authentication", metric: "authenticates"},
	{work: "— heartbeats meanwhile", bench: "Authentication", metric: "beats"},
	{work: "idle: requests a minute", bench: "Idle", metric: "requests/min", limit: 6},
	{work: "— bytes received and sent a minute: received", unit: "B", bench: "Idle", metric: "received-B/min"},
	{work: "— sent", unit: "B", bench: "Idle", metric: "sent-B/min"},
}

// tables is the table of all results, in Markdown.
func tables(r results) string {
	var out strings.Builder
	out.WriteString("| work | bare | upstream | this | this / bare | upstream / bare | target |\n|---|---:|---:|---:|---:|---:|---|\n")
	for _, row := range rows {
		bench := "Benchmark" + row.bench
		fmt.Fprintf(&out, "| %s |", row.work)
		for _, variant := range []string{"bare", "upstream", "this"} {
			value, known := r.median(bench, variant, row.metric)
			fmt.Fprintf(&out, " %s |", cell(value, known, row.unit))
		}
		ours, known := r.ratio(bench, "this", "bare", row.metric)
		fmt.Fprintf(&out, " %s |", ratioCell(ours, known))
		theirs, theirsKnown := r.ratio(bench, "upstream", "bare", row.metric)
		this, _ := r.median(bench, "this", row.metric)
		fmt.Fprintf(&out, " %s | %s |\n", ratioCell(theirs, theirsKnown), row.verdict(this, ours, known))
	}
	return out.String()
}

// verdict is the target, and whether it was met.
func (r row) verdict(value, ratio float64, ratioKnown bool) string {
	switch {
	case r.none:
		return met("0", value == 0)
	case r.limit != 0:
		return met("at most "+number(r.limit), value <= 1.001*r.limit)
	case r.target != 0 && ratioKnown:
		return met("× "+strconv.FormatFloat(r.target, 'f', -1, 64), ratio <= r.target)
	}
	return ""
}

func met(target string, ok bool) string {
	if ok {
		return target + ": met"
	}
	return target + ": **missed**"
}

func cell(value float64, known bool, unit string) string {
	if !known {
		return "—"
	}
	return strings.TrimSpace(number(value) + " " + unit)
}

func ratioCell(ratio float64, known bool) string {
	if !known {
		return ""
	}
	return strconv.FormatFloat(ratio, 'f', 2, 64)
}

// number writes three significant digits, and separates thousands.
func number(value float64) string {
	switch {
	case value == 0:
		return "0"
	case math.Abs(value) < 100:
		return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(value, 'f', max(0, 2-int(math.Floor(math.Log10(math.Abs(value))))), 64), "0"), ".")
	}
	return thousands(strconv.FormatFloat(value, 'f', 0, 64))
}

func thousands(digits string) string {
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
