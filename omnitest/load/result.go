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
	Cancelled State = "cancelled" // the run's context ended while it was in flight, and it returned an error
	Stuck     State = "stuck"     // it had not returned Grace after its context ended
	NotSent   State = "not sent"  // the run ended first
)

// Call is the record of one planned call. Times are monotonic, since Result.Began.
type Call struct {
	Index int           // 0 .. Requests-1; warm-up calls are negative
	Lane  int           // 0 .. Concurrency-1; -1: not sent
	Due   time.Duration // when it should have started: in a closed loop, when its lane became free
	Start time.Duration // just before the operation was called. Start - Due is the sender's own delay
	End   time.Duration // just after it returned; of a stuck call, when it was given up
	State State
	Err   error // nil only for OK and NotSent
}

// Counts are calls by State.
type Counts struct{ Sent, OK, Failed, Cancelled, Stuck, NotSent int }

// Result is the account of a run: OK + Failed + Cancelled + Stuck = Sent, and Sent + NotSent = Plan.Requests.
type Result struct {
	Plan  Closed    // with its defaults filled in
	Began time.Time // just before the first measured call
	Wall  time.Duration
	Calls []Call // by Index, one for each planned call

	Counts
	Peak int // most calls in flight at once, as measured
	// MeanInFlight is the time-average of calls in flight over Wall (Little's law: the sum of latencies / wall). Far below
	// Concurrency the run had long tails or a slow sender, and its figures are not those of the planned concurrency.
	MeanInFlight float64

	Warmup    Counts
	WarmupErr error // the first failure of a warm-up call; nil: none failed
}

func (r *Result) account(calls []Call, peak int) {
	r.Calls, r.Counts, r.Peak = calls, count(calls), peak
	var busy time.Duration
	for i := range calls {
		r.Wall = max(r.Wall, calls[i].End)
		busy += calls[i].End - calls[i].Start
	}
	if r.Wall > 0 {
		r.MeanInFlight = float64(busy) / float64(r.Wall)
	}
}

func count(calls []Call) (n Counts) {
	for i := range calls {
		switch calls[i].State {
		case OK:
			n.OK++
		case Failed:
			n.Failed++
		case Cancelled:
			n.Cancelled++
		case Stuck:
			n.Stuck++
		default:
			n.NotSent++
		}
	}
	n.Sent = len(calls) - n.NotSent
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
	plan      Closed
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

func incomplete(ctx context.Context, calls []Call, plan Closed) *Incomplete {
	n := count(calls)
	if n.NotSent+n.Cancelled+n.Stuck == 0 {
		return nil
	}
	e := &Incomplete{Planned: len(calls), Cancelled: n.Cancelled, NotSent: n.NotSent, Cause: context.Cause(ctx), plan: plan}
	for i := range calls {
		if calls[i].State == Stuck {
			e.Stuck = append(e.Stuck, calls[i].Index)
		}
	}
	return e
}

// ErrStuck marks a call that did not return after its context had ended.
var ErrStuck = errors.New("stuck: the operation had not returned")

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
