//go:build race

package hw_test

// heapFactor is how much more memory the heap touches under the race detector.
const heapFactor = 2
