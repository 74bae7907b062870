//go:build !linux

package stamped

import (
	"errors"
	"fmt"
	"time"
)

func machineClock() int64 { return time.Now().UnixNano() }

// waiter sleeps on a timer of Go's runtime, which may end a millisecond late.
type waiter struct{ woken chan struct{} }

func newWaiter() (*waiter, error) { return &waiter{make(chan struct{}, 1)}, nil }

func (*waiter) enter() {}

// wait sleeps for d, or until it is woken; d < 0: until it is woken.
func (w *waiter) wait(d time.Duration) {
	if d < 0 {
		<-w.woken
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.woken:
	}
}

func (w *waiter) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (*waiter) close() {}

// Pin binds every thread of this process to the given cores. Only Linux can.
func Pin(cpus ...int) error {
	return fmt.Errorf("stamped: binding to cores %v: %w", cpus, errors.ErrUnsupported)
}
