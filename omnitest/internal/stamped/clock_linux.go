package stamped

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// machineClock reads CLOCK_MONOTONIC, which is also what the monotonic reading in a time.Time counts.
func machineClock() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Now().UnixNano()
	}
	return ts.Nano()
}

// waiter lets one locked thread sleep to a time, to the microsecond, and be woken before it. A timer of Go's runtime would
// end on a whole millisecond (golang/go#44343).
type waiter struct{ fd int }

func newWaiter() (*waiter, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &waiter{fd}, nil
}

// enter is called once on the thread that will wait.
func (*waiter) enter() {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // ns; without it 50 us later
}

// wait sleeps for d, or until it is woken; d < 0: until it is woken.
func (w *waiter) wait(d time.Duration) {
	fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	var limit *unix.Timespec
	if d >= 0 {
		ts := unix.NsecToTimespec(int64(d))
		limit = &ts
	}
	if n, _ := unix.Ppoll(fds, limit, nil); n > 0 {
		var b [8]byte
		_, _ = unix.Read(w.fd, b[:])
	}
}

func (w *waiter) wake() {
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1} // whichever end: not zero
	_, _ = unix.Write(w.fd, one[:])
}

func (w *waiter) close() { unix.Close(w.fd) }

// Pin binds every thread of this process, and those that they will start, to the given cores.
func Pin(cpus ...int) error {
	var set unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	for range 3 { // a thread may be started meanwhile by one that was not bound yet
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("stamped: binding to cores %v: %w", cpus, err)
			}
		}
	}
	return nil
}
