package report

import (
	"math"
	"slices"
	"strconv"
)

// scale maps values to pixels. Concurrency and batch sizes that span octaves are drawn on a logarithmic axis: 1, 2, 4 .. 512
// would else crowd at the left.
type scale struct {
	lo, hi float64 // values at both ends
	a, b   float64 // pixels at both ends
	log    bool
	ticks  []float64
}

func (s scale) at(v float64) float64 {
	lo, hi, x := s.lo, s.hi, v
	if s.log {
		lo, hi, x = math.Log(lo), math.Log(hi), math.Log(v)
	}
	if hi == lo {
		return (s.a + s.b) / 2
	}
	return s.a + (x-lo)/(hi-lo)*(s.b-s.a)
}

// niceScale has round ticks, about n of them, and always begins at zero: a cut axis makes a small difference look large.
func niceScale(values []float64, n int, a, b float64) scale {
	hi, lo := 0.0, 0.0
	for _, v := range values {
		hi, lo = max(hi, v), min(lo, v)
	}
	if hi == lo {
		hi = lo + 1
	}
	step := niceStep((hi - lo) / float64(n))
	s := scale{lo: step * math.Floor(lo/step), hi: step * math.Ceil(hi/step-1e-9), a: a, b: b}
	for i := math.Round(s.lo / step); i <= math.Round(s.hi/step); i++ {
		s.ticks = append(s.ticks, i*step)
	}
	return s
}

// niceStep is the smallest of 1, 2, 2.5, 5 times a power of ten that is at least this large.
func niceStep(raw float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if m*power >= raw*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// pointScale has its ticks at the values that were measured: concurrency 3 is no tick of a plan with 1, 2, 4.
func pointScale(values []float64, a, b, apart float64) scale {
	xs := slices.Clone(values)
	slices.Sort(xs)
	xs = slices.Compact(xs)
	if len(xs) == 0 {
		xs = []float64{1}
	}
	lo, hi := xs[0], xs[len(xs)-1]
	s := scale{lo: lo, hi: hi, a: a + 12, b: b - 12, log: lo > 0 && hi/lo >= 8}
	if lo == hi { // a single point stands in the middle
		s.ticks = xs
		return s
	}
	last := math.Inf(-1)
	for i, x := range xs {
		// A tick needs room for its number, and the last one always has it.
		if p := s.at(x); p-last >= apart && (i == len(xs)-1 || s.at(hi)-p >= apart) || i == len(xs)-1 {
			s.ticks = append(s.ticks, x)
			last = p
		}
	}
	return s
}

// tickText writes a tick without noise: 0.25, 1,500 as 1500, 2e+06 as 2M.
func tickText(v float64) string {
	for _, u := range []struct {
		per  float64
		name string
	}{{1e9, "G"}, {1e6, "M"}} {
		if math.Abs(v) >= u.per {
			return strconv.FormatFloat(v/u.per, 'g', 4, 64) + u.name
		}
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}
