//go:build race

package prom

// untoldMost holds what the race detector allocates beside: 69 MiB in all where 34 were measured without.
const untoldMost = 6 * maxBody
