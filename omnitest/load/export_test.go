package load

import (
	"context"
	"time"
)

// Waiter lets benchmarks wait as the pacer and a lane do, in one goroutine.
func Waiter(ctx context.Context) func(time.Time) {
	w := newWaiter(ctx)
	return func(t time.Time) {
		w.near(t)
		for time.Until(t) > 0 {
		}
	}
}

// Portable is the waiter of other systems than Linux.
func Portable(ctx context.Context) func(time.Time) {
	w := &waiter{ctx: ctx}
	return func(t time.Time) { w.near(t) }
}
