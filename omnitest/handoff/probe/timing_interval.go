package probe

import (
	"math"
	"slices"
)

// leastPairs is the fewest differences that have a two-sided 95 % interval by signed ranks: 2 x 2^-6 = 0.031.
const leastPairs = 6

// interval is an estimate with its 95 % confidence interval.
type interval struct{ estimate, low, high float64 }

// hodgesLehmann estimates the centre of paired differences as the median of all means of two of them, with the interval that
// belongs to Wilcoxon's signed-rank test, exactly (Hollander and Wolfe, Nonparametric Statistical Methods, 3.2 and 3.3). It
// takes the differences to be symmetric about their centre, and nothing else; one pair in five that met a pause of the machine
// does it no harm. false: fewer than leastPairs.
func hodgesLehmann(differences []float64) (interval, bool) {
	n := len(differences)
	if n < leastPairs {
		return interval{}, false
	}
	var means []float64
	for i, a := range differences {
		for _, b := range differences[i:] {
			means = append(means, (a+b)/2)
		}
	}
	slices.Sort(means)
	k := signedRankTail(n)
	return interval{median(means), means[k], means[len(means)-1-k]}, true
}

// signedRankTail is the critical value of the signed-rank test, 0.025 at each end: the largest sum of ranks for which the
// chance of it or a smaller one is not greater. So many of the sorted means fall off at each end.
func signedRankTail(n int) int {
	ways := make([]float64, n*(n+1)/2+1) // subsets of 1..n by their sum
	ways[0] = 1
	for rank := 1; rank <= n; rank++ {
		for sum := len(ways) - 1; sum >= rank; sum-- {
			ways[sum] += ways[sum-rank]
		}
	}
	allowed, chance, c := 0.025*math.Pow(2, float64(n)), 0.0, -1
	for c+1 < len(ways) && chance+ways[c+1] <= allowed {
		c++
		chance += ways[c]
	}
	return c
}

// median of a sorted or unsorted list; NaN without values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}
