package hw

import (
	"math"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// trackPoints bounds a Track. A soak samples for days; its chart is not wider than this.
const trackPoints = 240

// Track is one quantity over the time of a window, at most 240 points of equal length. When it is full, pairs of points become
// one, so that each point is the mean over its stretch, and the highest value of each is kept beside it.
//
// Times are seconds since Window.Began on the monotonic clock, as those of an event log of the same process.
type Track struct {
	Name string          // "CPU", "memory RSS", "GPU memory", ...
	Unit string          // "cores", "bytes", "share", "W", ...
	Step float64         // length of a point, s
	At   []float64       // beginning of each point, s
	Mean []metrics.Value // absent where nothing was measured in the point
	Peak []float64       // highest in the point; where Mean is absent 0, without meaning it
	N    int             // values behind it
}

// track builds a Track in constant space.
type track struct {
	step   time.Duration
	points []point
	n      int
}

type point struct {
	n         int
	sum, peak float64
}

// add takes a value at a time since the window began.
func (t *track) add(at time.Duration, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) || at < 0 || t.step <= 0 {
		return
	}
	for int64(at/t.step) >= trackPoints {
		t.halve()
	}
	i := int(at / t.step)
	for len(t.points) <= i {
		t.points = append(t.points, point{})
	}
	p := &t.points[i]
	if p.n == 0 || v > p.peak {
		p.peak = v
	}
	p.n++
	p.sum += v
	t.n++
}

func (t *track) halve() {
	t.step *= 2
	half := make([]point, (len(t.points)+1)/2)
	for i, p := range t.points {
		h := &half[i/2]
		if h.n == 0 || p.n > 0 && p.peak > h.peak {
			h.peak = p.peak
		}
		h.n += p.n
		h.sum += p.sum
	}
	t.points = half
}

func (t *track) result(name, unit string) Track {
	out := Track{Name: name, Unit: unit, Step: t.step.Seconds(), N: t.n}
	for i, p := range t.points {
		v := metrics.Absent("no sample")
		if p.n > 0 {
			v = metrics.Of(p.sum / float64(p.n))
		}
		out.At = append(out.At, (time.Duration(i) * t.step).Seconds())
		out.Mean = append(out.Mean, v)
		out.Peak = append(out.Peak, p.peak)
	}
	return out
}

// gauge sums up one figure of which samples may be missing, and keeps its track.
type gauge struct {
	n              int
	sum, peak, low float64
	why            string // the first reason of a sample that was not there
	track          track
}

func newGauge(step time.Duration) gauge { return gauge{track: track{step: step}} }

func (g *gauge) add(at time.Duration, v metrics.Value) {
	x, ok := v.Get()
	if !ok {
		if v.Reason() != NotThisTime && g.why == "" {
			g.why = v.Reason()
		}
		return
	}
	if g.n == 0 || x > g.peak {
		g.peak = x
	}
	if g.n == 0 || x < g.low {
		g.low = x
	}
	g.n++
	g.sum += x
	g.track.add(at, x)
}

func (g *gauge) value(of func() float64) metrics.Value {
	switch {
	case g.n > 0:
		return metrics.Of(of())
	case g.why != "":
		return metrics.Absent(g.why)
	}
	return metrics.Absent("no sample in the window")
}

func (g *gauge) mean() metrics.Value { return g.value(func() float64 { return g.sum / float64(g.n) }) }
func (g *gauge) max() metrics.Value  { return g.value(func() float64 { return g.peak }) }
func (g *gauge) min() metrics.Value  { return g.value(func() float64 { return g.low }) }
