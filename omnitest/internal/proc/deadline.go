package proc

import (
	"context"
	"fmt"
	"time"
)

// Budget divides the time a test has left: work must end at stop, two graces before end. One grace is for the engines to
// end in, one for us to say what happened. A grace is 5 % of what is left but at least 100 ms (the rule of testscript).
func Budget(now, end time.Time) (stop time.Time, grace time.Duration) {
	grace = max(100*time.Millisecond, end.Sub(now)/20)
	return end.Add(-2 * grace), grace
}

// Deadline gives a context that ends two graces before end, the test's own deadline as t.Deadline() gives it. For the
// zero end (no deadline; benchmarks never have one) it is a plain cancellable context.
func Deadline(parent context.Context, end time.Time) (context.Context, context.CancelFunc) {
	if end.IsZero() {
		return context.WithCancel(parent)
	}
	now := time.Now()
	stop, grace := Budget(now, end)
	return context.WithDeadlineCause(parent, stop, fmt.Errorf(
		"the test's own deadline is near (%s were left, %s of them kept for stopping and reporting); rerun with a longer -timeout: %w",
		Span(end.Sub(now)), Span(2*grace), context.DeadlineExceeded))
}
