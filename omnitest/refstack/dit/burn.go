package dit

import (
	"syscall"
	"time"
)

// burn spins until the process has used so much more CPU time, Timing.BurnPerRequest. Requests that burn at the same time share it.
func burn(d time.Duration) {
	if d <= 0 {
		return
	}
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for began := used(); used()-began < d; {
		for range 10_000 {
		}
	}
}
