//go:build !race

package dit

// detectorShare is 1 without the race detector: a bound is what it says.
const detectorShare = 1
