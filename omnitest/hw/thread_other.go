//go:build !linux

package hw

import "time"

// threadCPU cannot be told on this system.
func threadCPU() (time.Duration, bool) { return 0, false }
