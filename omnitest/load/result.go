package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// State is how a planned call ended.
type State string

const (
	OK        State = "ok"
	Failed    State = "failed"    // the operation returned an error, panicked, or ran over its limit
	Abandoned State = "abandoned" // Plan.Cancel ended it, as planned: no failure
	Cancelled State = "cancelled" // the run's context ended while it was in flight, and it returned an error
	Stuck     State = "stuck"     // it had not returned Grace after its context ended
	Skipped   State = "skipped"   // a turn whose conversation had ended before it, by a turn that was not OK
	NotSent   State = "not sent"  // the run ended first
)

// Call is the record of one planned call. Times are monotonic, since Result.Began.
type Call struct {
	Index         int // 0 .. ; warm-up calls are negative
	Session, Turn int // which turn of which conversation; without conversations each call is turn 0 of its own
	Lane          int // which of the senders made it, 0 .. Concurrency-1 where that is bounded; -1: not sent
	// Due is when it should have started: in an open loop by the schedule; in a closed loop, and for the second turn of a
	// conversation on, when its lane became free (after the time to think). Latency as the user has it is End - Due.
	Due time.Duration
	// Queue is how long it waited for a free slot after it was due, in an open loop with a Concurrency; else 0. It is the plan's doing,
	// and not the target's.
	Queue time.Duration
	Sent  time.Duration // just before the operation was called
	End   time.Duration // just after it returned; of a stuck call, when it was given up
	State State
	Err   error // nil only for OK, Skipped and NotSent
	// Leaving: chosen by Plan.Cancel. Latencies of a run leave all of these out, also those that ended in time: of the chosen only the
	// fast ones do, and with them the rest would look faster than it is.
	Leaving bool
}

// Late is the client's own error: how long after it could have been sent the call was sent.
func (c Call) Late() time.Duration { return c.Sent - c.Due - c.Queue }

// Counts are calls by State.
type Counts struct{ Sent, OK, Failed, Abandoned, Cancelled, Stuck, Skipped, NotSent int }

// Result is the account of a run: OK + Failed + Abandoned + Cancelled + Stuck = Sent, and Sent + Skipped + NotSent = len(Calls),
// which is Plan.Requests where that is set and a conversation has one turn.
type Result struct {
	Plan  Plan          // with its defaults filled in; Requests of an open loop are those of its schedule
	Began time.Time     // zero of all times of the calls: the start of the measured part
	Wall  time.Duration // Began to the last End
	Calls []Call        // by Index, one for each planned call

	Counts
	Peak int // most calls in flight at once, as measured
	// MeanInFlight is the time-average of calls in flight over Wall (Little's law: the sum of latencies / wall). Far below
	// Concurrency a closed loop had long tails or a slow sender, and its figures are not those of the planned concurrency.
	MeanInFlight float64

	Warmup    Counts
	WarmupErr error // the first failure of a warm-up call; nil: none failed
}

func (r *Result) account(calls []Call, peak int) {
	r.Calls, r.Counts, r.Peak = calls, count(calls), peak
	var busy time.Duration
	for i := range calls {
		r.Wall = max(r.Wall, calls[i].End)
		busy += calls[i].End - calls[i].Sent
	}
	if r.Wall > 0 {
		r.MeanInFlight = float64(busy) / float64(r.Wall)
	}
}

// Rates are the calls per second that were planned and those that were sent, both from first to last: due times against sent
// times. Not ok with fewer than two calls sent, or where all were due at once. A closed loop plans none: it is its own schedule.
func (r *Result) Rates() (planned, sent float64, ok bool) {
	var first, last *Call
	n := 0
	for i := range r.Calls {
		c := &r.Calls[i]
		if c.Turn > 0 || c.State == NotSent || c.State == Skipped {
			continue
		}
		n++
		if first == nil || c.Due < first.Due {
			first = c
		}
		if last == nil || c.Due >= last.Due {
			last = c
		}
	}
	if r.Plan.Arrivals == nil || n < 2 || last.Due <= first.Due || last.Sent <= first.Sent {
		return 0, 0, false
	}
	return float64(n-1) / (last.Due - first.Due).Seconds(), float64(n-1) / (last.Sent - first.Sent).Seconds(), true
}

func count(calls []Call) (n Counts) {
	for i := range calls {
		switch calls[i].State {
		case OK:
			n.OK++
		case Failed:
			n.Failed++
		case Abandoned:
			n.Abandoned++
		case Cancelled:
			n.Cancelled++
		case Stuck:
			n.Stuck++
		case Skipped:
			n.Skipped++
		default:
			n.NotSent++
		}
	}
	n.Sent = len(calls) - n.NotSent - n.Skipped
	return n
}

// Incomplete is the error of a run that did not make its planned calls, or could not end them. Its figures do not
// describe the plan.
type Incomplete struct {
	Warmup    bool  // it ended in the warm-up: nothing was measured
	Planned   int   // calls
	Cancelled int   // were in flight when the run ended
	NotSent   int   // were never made
	Stuck     []int // indices of calls that ignore their context
	Cause     error // why the run's context ended; nil: it did not
	// After says when, of a closed loop that had Plan.Duration to run: it has no number of calls to miss. 0: else.
	After time.Duration
	plan  Plan
}

func (e *Incomplete) Error() string {
	var b strings.Builder
	b.WriteString("load: ")
	if e.Warmup {
		b.WriteString("warm-up ")
	}
	b.WriteString("incomplete:")
	sep := " "
	say := func(format string, args ...any) {
		b.WriteString(sep)
		fmt.Fprintf(&b, format, args...)
		sep = ", "
	}
	if len(e.Stuck) > 0 {
		say("call %s stuck: had not returned %v after its context ended (limit %v)",
			strings.Trim(fmt.Sprint(e.Stuck), "[]"), e.plan.Grace, e.plan.Limit)
	}
	if e.NotSent > 0 {
		say("%d of %d calls not sent", e.NotSent, e.Planned)
	}
	if e.After > 0 {
		say("ended after %v of %v", e.After, e.plan.Duration)
	}
	if e.Cancelled > 0 {
		say("%d cancelled in flight", e.Cancelled)
	}
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	return b.String()
}

// Unwrap gives the end of the run's context, and ErrStuck if a call is stuck.
func (e *Incomplete) Unwrap() []error {
	var all []error
	if e.Cause != nil {
		all = append(all, e.Cause)
	}
	if len(e.Stuck) > 0 {
		all = append(all, ErrStuck)
	}
	return all
}

// incomplete compares what was done with the plan; nil: all of it was.
func (p *phase[T]) incomplete(ctx context.Context, calls []Call) *Incomplete {
	n := count(calls)
	e := &Incomplete{Planned: len(calls), Cancelled: n.Cancelled, NotSent: n.NotSent, Cause: context.Cause(ctx), plan: p.plan}
	if p.short > 0 {
		e.After = p.short
	}
	if n.NotSent+n.Cancelled+n.Stuck == 0 && e.After == 0 {
		return nil
	}
	for i := range calls {
		if calls[i].State == Stuck {
			e.Stuck = append(e.Stuck, calls[i].Index)
		}
	}
	return e
}

// ErrStuck marks a call that did not return after its context had ended.
var ErrStuck = errors.New("stuck: the operation had not returned")

// ErrAbandoned is the cause of a call's context that Plan.Cancel ended.
var ErrAbandoned = errors.New("abandoned, as planned")

var errExited = errors.New("the operation ended its goroutine (runtime.Goexit): no t.FailNow, require or t.Skip inside a load operation")

// PanicError is a panic inside an operation, as that call's error.
type PanicError struct {
	Value any
	At    string // file:line of the panic
	Stack []byte // of the operation's goroutine
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("the operation panicked at %s: %v", e.At, e.Value)
}

// newPanicError runs in the deferred call, where the panicking frames are still on the stack, below runtime.gopanic.
func newPanicError(value any) *PanicError {
	e := &PanicError{Value: value, At: "?", Stack: debug.Stack()}
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	below := false
	for {
		f, more := frames.Next()
		if below && !strings.HasPrefix(f.Function, "runtime.") {
			e.At = fmt.Sprintf("%s:%d", f.File[strings.LastIndexByte(f.File, '/')+1:], f.Line)
			return e
		}
		below = below || f.Function == "runtime.gopanic"
		if !more {
			return e
		}
	}
}
