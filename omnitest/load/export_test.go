package load

import (
	"context"
	"time"
)

// Waiter lets benchmarks wait as the pacer does, without a hand-over to a lane.
func Waiter(ctx context.Context) func(time.Time) bool { return newWaiter(ctx).until }

// Portable is the waiter of other systems than Linux.
func Portable(ctx context.Context) func(time.Time) bool { return (&waiter{ctx: ctx}).until }
