//go:build !race

package hw_test

const heapFactor = 1
