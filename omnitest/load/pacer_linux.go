package load

import (
	"syscall"
	"time"
)

// fineThread lets this thread's sleeps end when they should: the kernel may delay them by 50 us to save wakeups.
func fineThread() bool {
	const setTimerSlack = 29 // PR_SET_TIMERSLACK, in ns
	_, _, failed := syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1, 0)
	return failed == 0
}

// threadSleep puts the thread to sleep. A signal ends it early; the caller looks at the clock.
func threadSleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil)
}
