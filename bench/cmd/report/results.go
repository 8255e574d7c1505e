package main

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kitsd/etcdv3/bench/internal/measure"
)

// results are the values of every metric of every sub-benchmark, by round.
type results map[series]map[int]float64

// series names one metric of one variant of a benchmark.
type series struct{ bench, variant, metric string }

// roundMark begins a line between the output of two rounds.
const roundMark = "# round "

// parse reads the output of all rounds, in Go's benchmark format.
func parse(output string) results {
	r, round := results{}, 0
	for line := range strings.Lines(output) {
		if number, ok := strings.CutPrefix(line, roundMark); ok {
			round, _ = strconv.Atoi(strings.TrimSpace(number))
		}
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of processors
			name = name[:i]
		}
		slash := strings.LastIndexByte(name, '/')
		if slash < 0 {
			continue
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				continue
			}
			s := series{name[:slash], name[slash+1:], fields[i+1]}
			if r[s] == nil {
				r[s] = map[int]float64{}
			}
			r[s][round] = value
		}
	}
	return r
}

// median is that of all rounds. It is not known if nothing was measured.
func (r results) median(bench, variant, metric string) (value float64, known bool) {
	all := slices.Collect(maps.Values(r[series{bench, variant, metric}]))
	return measure.Quantile(all, 0.5), len(all) > 0
}

// ratio is the median of the ratios of one variant to another. If ratios were
// measured in turns, these count, else those of the same round. The ratio is not
// known if either was not measured, or was nothing.
func (r results) ratio(bench, variant, to, metric string) (ratio float64, known bool) {
	if variant == "this" && to == "bare" {
		if ratio, known = r.median(bench, "paired", "ratio-"+metric); known {
			return ratio, known
		}
	}
	var all []float64
	for round, value := range r[series{bench, variant, metric}] {
		if other, ok := r[series{bench, to, metric}][round]; ok && other != 0 {
			all = append(all, value/other)
		}
	}
	ratio = measure.Quantile(all, 0.5)
	return ratio, len(all) > 0 && !math.IsInf(ratio, 0)
}
