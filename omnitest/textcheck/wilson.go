package textcheck

import "math"

// Interval holds a share with a certainty of 95 %.
type Interval struct{ Low, High float64 }

// Wilson is the score interval of k in n (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, 209-212): unlike the textbook one it is of
// use at 0 of n. n = 0: everything is possible.
func Wilson(k, n int) Interval {
	if n <= 0 {
		return Interval{0, 1}
	}
	const z = 1.959964
	p, m := float64(k)/float64(n), float64(n)
	middle := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z / (1 + z*z/m) * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	i := Interval{max(0, middle-half), min(1, middle+half)}
	switch k { // exactly, not up to rounding
	case 0:
		i.Low = 0
	case n:
		i.High = 1
	}
	return i
}
