// Package stats holds statistics as pure functions of numbers: no clock, no files, no other room.
package stats

import (
	"math"
	"slices"
)

// KolmogorovD is the Kolmogorov-Smirnov distance of values from the uniform distribution on 0 to 1: the largest gap between their
// empirical distribution and the diagonal. It sorts the values in place. Values outside count as the nearer end; 0 without values.
//
// A test against any other continuous distribution is this one of the values under its distribution function.
func KolmogorovD(values []float64) float64 {
	slices.Sort(values)
	n, d := float64(len(values)), 0.0
	for i, v := range values {
		v = min(max(v, 0), 1)
		d = max(d, float64(i+1)/n-v, v-float64(i)/n)
	}
	return d
}

// KolmogorovP is the probability that n values of the distribution itself are at a distance of d or more. It is the asymptotic law
// at (sqrt n + 0.12 + 0.11/sqrt n) d, which is good from n = 5 on (Stephens, "EDF statistics for goodness of fit", JASA 1974). NaN
// without values.
func KolmogorovP(d float64, n int) float64 {
	if n < 1 || math.IsNaN(d) {
		return math.NaN()
	}
	root := math.Sqrt(float64(n))
	x := (root + 0.12 + 0.11/root) * d
	switch {
	case x <= 0:
		return 1
	case x < 1.18: // the form that converges where x is small
		sum := 0.0
		for k := 1.0; k < 20; k += 2 {
			sum += math.Exp(-k * k * math.Pi * math.Pi / (8 * x * x))
		}
		return min(1, max(0, 1-math.Sqrt(2*math.Pi)/x*sum))
	}
	sum, sign := 0.0, 1.0
	for k := 1.0; k < 20; k++ {
		sum += sign * math.Exp(-2*k*k*x*x)
		sign = -sign
	}
	return min(1, max(0, 2*sum))
}
