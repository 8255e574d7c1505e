package main

import (
	_ "embed"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// populations are how many instances stand, on the plots.
var populations = []int{10, 1_000, 10_000, 100_000}

// lines are the variants, as they are drawn: one over the other.
var lines = []struct{ variant, label string }{
	{"upstream", "go-kit sd/etcdv3"},
	{"bare", "clientv3 by hand"},
	{"this", "this package"},
}

// A picture is measured in pixels, and has its letters in that size. It is as
// narrow as it can be: a phone shows it at three quarters of its width.
const (
	pictureWidth  = 480
	pictureHeight = 350
	plotLeft      = 64
	plotRight     = 440 // leaves room for half of the last label
	plotTop       = 100
	plotBottom    = 296
)

// pictureText is an SVG whose colors follow the reader's, on no background.
//
//go:embed plot.svg.tmpl
var pictureText string

var pictures = template.Must(template.New("plot.svg.tmpl").Parse(pictureText))

// picture is what a plot is made of.
type picture struct {
	Width, Height            int
	Left, Right, Top, Bottom int
	Title                    string
	Across, Up               []tick
	Lines                    []drawn
}

// tick is a line of the grid.
type tick struct {
	At    int
	Label string
}

// drawn is one variant.
type drawn struct {
	Variant, Label, Last string
	LegendAt             int
	Points               []point
}

type point struct{ X, Y int }

// Path is the line through the points, as SVG wants it.
func (d drawn) Path() string {
	var all []string
	for _, p := range d.Points {
		all = append(all, fmt.Sprintf("%d,%d", p.X, p.Y))
	}
	return strings.Join(all, " ")
}

// plots draws the latency and the bytes of one change against the population.
func plots(dir string, r results) error {
	latency := func(us float64) string { return scaled(us/1e6, "s") }
	if err := draw(filepath.Join(dir, "latency.svg"), "Until a subscriber knows of one change", r, "p50-us", latency); err != nil {
		return err
	}
	sent := func(bytes float64) string { return scaled(bytes, "B") }
	return draw(filepath.Join(dir, "bytes.svg"), "What etcd sends for one change", r, "sent-B", sent)
}

// draw draws a metric of all variants on two scales of powers of ten.
func draw(path, title string, r results, metric string, text func(float64) string) error {
	low, high := math.Inf(1), math.Inf(-1)
	values := map[string][]float64{}
	for _, l := range lines {
		for _, n := range populations {
			value, known := r.median(fmt.Sprintf("BenchmarkChange/instances=%d", n), l.variant, metric)
			if !known {
				return fmt.Errorf("%s: %s of %d instances was not measured", path, l.label, n)
			}
			values[l.variant] = append(values[l.variant], value)
			low, high = min(low, value), max(high, value)
		}
	}
	across := scale{math.Log10(float64(populations[0])), math.Log10(float64(populations[len(populations)-1])), plotLeft, plotRight}
	up := scale{math.Floor(math.Log10(low)), math.Ceil(math.Log10(high)), plotBottom, plotTop}
	p := picture{Width: pictureWidth, Height: pictureHeight, Left: plotLeft, Right: plotRight, Top: plotTop, Bottom: plotBottom, Title: title}
	for at := up.from; at <= up.to; at++ {
		p.Up = append(p.Up, tick{up.at(math.Pow(10, at)), text(math.Pow(10, at))})
	}
	for _, n := range populations {
		p.Across = append(p.Across, tick{across.at(float64(n)), thousands(fmt.Sprint(n))})
	}
	for i, l := range lines {
		all := values[l.variant]
		d := drawn{Variant: l.variant, Label: l.label, Last: text(all[len(all)-1]), LegendAt: 46 + 18*i}
		for j, n := range populations {
			d.Points = append(d.Points, point{across.at(float64(n)), up.at(all[j])})
		}
		p.Lines = append(p.Lines, d)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return pictures.Execute(file, p)
}

// scale takes powers of ten to pixels.
type scale struct {
	from, to    float64
	first, last int
}

func (s scale) at(value float64) int {
	part := (math.Log10(value) - s.from) / (s.to - s.from)
	return s.first + int(math.Round(part*float64(s.last-s.first)))
}

// scaled is a value with three digits at most and a unit, as 1.3 ms.
func scaled(value float64, unit string) string {
	for _, prefix := range []struct {
		name   string
		factor float64
	}{{"M", 1e6}, {"k", 1e3}, {"", 1}, {"m", 1e-3}, {"µ", 1e-6}} {
		if value >= prefix.factor*0.9999 {
			return fmt.Sprintf("%.3g %s%s", value/prefix.factor, prefix.name, unit)
		}
	}
	return fmt.Sprintf("%.3g %s", value, unit)
}
