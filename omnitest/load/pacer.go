package load

import (
	"context"
	"time"
)

const (
	// coarse is how long before the due time the wait leaves the runtime's timers: they are late by up to a few milliseconds
	// (golang/go#44343: Linux netpoll waits in whole milliseconds), but end at once when the run's context does.
	coarse = 5 * time.Millisecond
	// spin is how long before the due time the thread stops sleeping and watches the clock.
	spin = 100 * time.Microsecond
)

// waiter waits for absolute times. It belongs to one goroutine, locked to its thread. Measured on one core (median and p99 of
// the lateness at 1,000 waits/s): time.Sleep 548 and 1,168 us; nanosleep without timer slack and 100 us of spinning 0 and 328 us,
// for 12 % of a core.
type waiter struct {
	ctx  context.Context
	fine bool // the thread sleeps itself
}

func newWaiter(ctx context.Context) *waiter {
	return &waiter{ctx: ctx, fine: fineThread() && clockRuns()}
}

// clockRuns is false in fake time (testing/synctest): a thread that sleeps on its own does not move that clock, and would wait for
// ever.
func clockRuns() bool {
	before := time.Now()
	threadSleep(time.Microsecond)
	return time.Since(before) > 0
}

// until waits for t. False: the context ended first.
func (w *waiter) until(t time.Time) bool {
	for {
		left := time.Until(t)
		switch {
		case left <= 0:
			return w.ctx.Err() == nil
		case !w.fine:
			if !w.timer(left) {
				return false
			}
		case left > 2*coarse:
			if !w.timer(left - coarse) {
				return false
			}
		case left > spin:
			threadSleep(left - spin)
		default:
			for time.Until(t) > 0 {
			}
		}
	}
}

func (w *waiter) timer(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}
