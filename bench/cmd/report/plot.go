package main

import (
	"fmt"
	"image/color"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// populations are how many instances stand, on the plots.
var populations = []int{10, 1_000, 10_000, 100_000}

// lines are the variants, as they are drawn.
var lines = []struct {
	variant, label string
	color          color.Color
	glyph          draw.GlyphDrawer
}{
	{"upstream", "go-kit sd/etcdv3", color.RGBA{R: 200, G: 60, B: 50, A: 255}, draw.CircleGlyph{}},
	{"bare", "clientv3 by hand", color.RGBA{R: 110, G: 110, B: 110, A: 255}, draw.BoxGlyph{}},
	{"this", "this package", color.RGBA{R: 30, G: 100, B: 200, A: 255}, draw.TriangleGlyph{}},
}

// plots draws the latency and the bytes of one change against the population.
func plots(dir string, r results) error {
	if err := draws(filepath.Join(dir, "latency.svg"), "One change, until a subscriber knows", "milliseconds", r, "p50-us", 1e-3); err != nil {
		return err
	}
	return draws(filepath.Join(dir, "bytes.svg"), "What etcd sends for one change", "bytes", r, "sent-B", 1)
}

func draws(path, title, unit string, r results, metric string, factor float64) error {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text = "instances standing"
	p.Y.Label.Text = unit
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = decades{}, decades{}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(3)
	p.Add(plotter.NewGrid())
	for _, l := range lines {
		var points plotter.XYs
		for _, n := range populations {
			if value, known := r.median(fmt.Sprintf("BenchmarkChange/instances=%d", n), l.variant, metric); known {
				points = append(points, plotter.XY{X: float64(n), Y: value * factor})
			}
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, line.Width = l.color, vg.Points(1.5)
		marks.Color, marks.Shape, marks.Radius = l.color, l.glyph, vg.Points(3)
		p.Add(line, marks)
		p.Legend.Add(l.label, line, marks)
	}
	return p.Save(5.5*vg.Inch, 3.5*vg.Inch, path)
}

// decades are ticks at powers of ten, written out.
type decades struct{}

func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for at := 1e-6; at <= high*10; at *= 10 {
		if at >= low/10 {
			ticks = append(ticks, plot.Tick{Value: at, Label: number(at)})
		}
	}
	return ticks
}
