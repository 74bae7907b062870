package canary

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm wakes a goroutine at a moment. Go's own timers are a millisecond late on Linux, as its poller waits in whole
// milliseconds (golang/go#44343), and would be half of what the canary reports. A timerfd becomes readable on time and wakes
// the poller as a socket does; it needs no thread of its own.
type alarm struct{ file *os.File }

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	return &alarm{os.NewFile(uintptr(fd), "timerfd")}, nil
}

// wait returns at the moment, or at once when it has passed. It fails after close. Not for concurrent use.
func (a *alarm) wait(at time.Time) error {
	left := time.Until(at)
	if left <= 0 {
		return nil
	}
	control, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(left))}
	var failed error
	if err := control.Control(func(fd uintptr) { failed = unix.TimerfdSettime(int(fd), 0, &spec, nil) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("timerfd_settime: %w", failed)
	}
	var expirations [8]byte
	_, err = a.file.Read(expirations[:])
	if err == nil && binary.NativeEndian.Uint64(expirations[:]) == 0 {
		return fmt.Errorf("timerfd: woke without an expiration")
	}
	return err
}

func (a *alarm) close() { a.file.Close() }
