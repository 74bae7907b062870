//go:build !race

package prom

// untoldMost is what reading a page of unknown length may allocate.
const untoldMost = 4 * maxBody
