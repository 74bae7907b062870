package plot

import (
	"slices"
	"strconv"

	"gonum.org/v1/plot"

	"github.com/omnitest/suite/omnitest/report"
)

// axis is how the X values of a chart are laid out.
type axis struct {
	min, max float64
	scale    plot.Normalizer
	ticks    plot.Ticker
}

// axisOf puts the ticks at the values that were measured, on a logarithmic axis where they span three octaves; a latency begins at
// zero.
func axisOf(c report.Chart) axis {
	var xs []float64
	for _, l := range c.Lines {
		for _, p := range l.Points {
			xs = append(xs, p.X)
		}
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	a := axis{min: xs[0], max: xs[len(xs)-1], scale: plot.LinearScale{}, ticks: plot.DefaultTicks{}}
	if c.CDF {
		a.min = min(0, a.min)
		return a
	}
	var ticks plot.ConstantTicks
	for _, x := range xs {
		ticks = append(ticks, plot.Tick{Value: x, Label: strconv.FormatFloat(x, 'g', 6, 64)})
	}
	a.ticks = ticks
	switch {
	case a.min == a.max: // a single point stands in the middle
		a.min, a.max = a.min-1, a.max+1
	case a.min > 0 && a.max/a.min >= 8:
		a.scale = plot.LogScale{}
	}
	return a
}
