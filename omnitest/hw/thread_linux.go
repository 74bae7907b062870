package hw

import (
	"syscall"
	"time"
)

// threadCPU is the CPU time that the calling thread has used. The caller has locked itself to its thread.
func threadCPU() (time.Duration, bool) {
	const thisThread = 1 // RUSAGE_THREAD of getrusage(2)
	var u syscall.Rusage
	if syscall.Getrusage(thisThread, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
