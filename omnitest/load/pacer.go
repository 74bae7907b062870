package load

import (
	"context"
	"runtime"
	"time"
)

const (
	// coarse is how long before its time a wait leaves the runtime's timers: they are late by up to a few milliseconds
	// (golang/go#44343: Linux netpoll waits in whole milliseconds), but end at once when the run's context does.
	coarse = 5 * time.Millisecond
	// lead is how long before it is due a call is handed to its lane. The lane watches the clock for the rest: so the time that a
	// goroutine takes to wake up, 30 to 80 us, is over before it counts.
	lead = 100 * time.Microsecond
)

// waiter waits for absolute times. It belongs to one goroutine, locked to its thread. Measured on one core (median and p99 of
// the lateness at 1,000 waits/s): time.Sleep 548 and 1,168 us; a nanosleep without timer slack and a clock that is watched for the last
// 100 us 0 and 328 us, for 12 % of a core.
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

// near waits until lead before t; in fake time, and where the thread can't sleep to the microsecond, until t. False: the context ended
// first.
func (w *waiter) near(t time.Time) bool {
	for {
		left := time.Until(t)
		if w.fine {
			left -= lead
		}
		switch {
		case left <= 0:
			return w.ctx.Err() == nil
		case w.fine && left < 2*coarse:
			threadSleep(left)
		case w.fine:
			left -= coarse
			fallthrough
		default:
			if !w.timer(left) {
				return false
			}
		}
	}
}

// watch watches the clock until t. It lets others run meanwhile: they may be reading the answers whose times are measured.
func watch(t time.Time) {
	for time.Until(t) > 0 {
		runtime.Gosched()
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
