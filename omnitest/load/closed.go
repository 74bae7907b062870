// Package load sends many requests at a target and keeps the account of each one.
//
// A [Closed] loop holds a fixed number of calls in flight: each lane makes its next call when its last one has ended. It
// answers "how fast is the target with this many users waiting", and it cannot show queueing: a slow target slows the
// sender down. (An open loop, which sends by a schedule whatever the target does, has to measure from the time a call
// was due; [Call.Due] is there for it.)
//
// [Run] makes the calls, [Collect] also keeps what they returned. Both give a [Result] in which every planned call is
// accounted for: ok, failed, cancelled, stuck or not sent. Nothing is dropped silently.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Closed is the plan of a closed loop. The zero value makes one call.
type Closed struct {
	Concurrency int // calls in flight; 0: 1
	Requests    int // measured calls, exactly; 0: Concurrency
	// Warmup calls come first, at the same concurrency, and enter no figure. They get the indices -Warmup to -1, so that
	// an operation can give them prompts of their own: a warm-up with a measured prompt fills the prefix cache for it.
	Warmup int
	Limit  time.Duration // deadline of one call, through its context; 0: 5 minutes
	Grace  time.Duration // how long a call may outlive the end of its context before it counts as stuck; 0: 5 s
}

func (p Closed) filled() (Closed, error) {
	if p.Concurrency < 0 || p.Requests < 0 || p.Warmup < 0 || p.Limit < 0 || p.Grace < 0 {
		return p, fmt.Errorf("load: negative number in the plan %+v", p)
	}
	if p.Concurrency == 0 {
		p.Concurrency = 1
	}
	if p.Requests == 0 {
		p.Requests = p.Concurrency
	}
	if p.Requests < p.Concurrency {
		// Run anyway, it would be reported as a concurrency that it never had.
		return p, fmt.Errorf("load: concurrency %d cannot be held with %d requests: plan at least as many requests",
			p.Concurrency, p.Requests)
	}
	if p.Limit == 0 {
		p.Limit = 5 * time.Minute
	}
	if p.Grace == 0 {
		p.Grace = 5 * time.Second
	}
	return p, nil
}

// Run makes the planned calls of op. A call that fails is counted and the run goes on; the error of Run says that the
// run itself is not what was planned: an impossible plan, or an [*Incomplete] run. The Result is valid in each case.
//
// op must be safe for concurrent use and should return when its context ends. A panic or a runtime.Goexit in it (t.FailNow
// outside the test's goroutine) becomes that call's error. If op ignores its context for Limit + Grace the call is
// reported as stuck and its lane is given up, as the call is still in flight there; its goroutine cannot be ended.
func Run(ctx context.Context, plan Closed, op func(ctx context.Context, i int) error) (Result, error) {
	if op == nil {
		return Result{Plan: plan}, errors.New("load: no operation")
	}
	_, result, err := Collect(ctx, plan, func(ctx context.Context, i int) (struct{}, error) {
		return struct{}{}, op(ctx, i)
	})
	return result, err
}

// Collect is Run for operations that return something: values[i] is what measured call i returned, also beside an
// error. It is the zero T where the call never returned; Result.Calls[i].State tells.
func Collect[T any](ctx context.Context, plan Closed, op func(ctx context.Context, i int) (T, error)) (values []T, _ Result, _ error) {
	plan, err := plan.filled()
	r := Result{Plan: plan, Counts: Counts{NotSent: plan.Requests}}
	if err != nil {
		return nil, r, err
	}
	if op == nil {
		return nil, r, errors.New("load: no operation")
	}
	if plan.Warmup > 0 {
		warm := phase[T]{plan: plan, op: op, first: -plan.Warmup, calls: make([]Call, plan.Warmup)}
		warm.run(ctx)
		r.Warmup = count(warm.calls)
		for i := range warm.calls {
			if c := &warm.calls[i]; c.Err != nil {
				r.WarmupErr = fmt.Errorf("warm-up call %d: %w", c.Index, c.Err)
				break
			}
		}
		if err := incomplete(ctx, warm.calls, plan); err != nil {
			err.Warmup = true
			return nil, r, err
		}
	}
	values = make([]T, plan.Requests)
	main := phase[T]{plan: plan, op: op, calls: make([]Call, plan.Requests), values: values}
	r.Began = time.Now()
	main.run(ctx)
	r.account(main.calls, int(main.peak.Load()))
	if err := incomplete(ctx, main.calls, plan); err != nil {
		return values, r, err
	}
	return values, r, nil
}

// phase is one set of calls at one concurrency. Each lane writes only the calls it has drawn, so records need no lock.
type phase[T any] struct {
	plan           Closed
	op             func(context.Context, int) (T, error)
	first          int // index of calls[0] as op sees it
	calls          []Call
	values         []T // nil: not kept
	began          time.Time
	next           atomic.Int64
	inFlight, peak atomic.Int64
}

func (p *phase[T]) run(ctx context.Context) {
	for i := range p.calls {
		p.calls[i] = Call{Index: p.first + i, Lane: -1, State: NotSent}
	}
	p.began = time.Now()
	var lanes sync.WaitGroup
	for lane := range min(p.plan.Concurrency, len(p.calls)) {
		lanes.Go(func() { p.lane(ctx, lane) })
	}
	lanes.Wait()
}

func (p *phase[T]) lane(ctx context.Context, lane int) {
	var free time.Duration // when this lane could have sent: the due time in a closed loop
	for ctx.Err() == nil {
		k := int(p.next.Add(1)) - 1
		if k >= len(p.calls) {
			return
		}
		c := &p.calls[k]
		c.Lane, c.Due = lane, free
		v, returned := p.call(ctx, c)
		if !returned {
			return // still in flight here: another call beside it would break the concurrency
		}
		if p.values != nil {
			p.values[k] = v
		}
		free = c.End
	}
}

// call makes one call in a goroutine of its own, so that an operation which never returns costs its lane and no more.
func (p *phase[T]) call(ctx context.Context, c *Call) (v T, returned bool) {
	type answer struct {
		value T
		err   error
		end   time.Duration
	}
	own, cancel := context.WithTimeoutCause(ctx, p.plan.Limit, fmt.Errorf("limit of %v: %w", p.plan.Limit, context.DeadlineExceeded))
	defer cancel()
	done := make(chan answer, 1) // room for an answer that nobody waits for any more
	c.Start = time.Since(p.began)
	raise(&p.peak, p.inFlight.Add(1))
	go func() {
		var a answer
		a.err = errExited
		defer func() {
			a.end = time.Since(p.began)
			p.inFlight.Add(-1)
			done <- a
		}()
		defer func() {
			if x := recover(); x != nil {
				a.err = newPanicError(x)
			}
		}()
		a.value, a.err = p.op(own, c.Index)
	}()

	var a answer
	select {
	case a = <-done:
	case <-own.Done():
		grace := time.NewTimer(p.plan.Grace)
		defer grace.Stop()
		select {
		case a = <-done:
		case <-grace.C:
			c.End, c.State = time.Since(p.began), Stuck
			c.Err = fmt.Errorf("%w %v after its context ended (%w)", ErrStuck, p.plan.Grace, context.Cause(own))
			return v, false
		}
	}
	c.End, c.Err = a.end, a.err
	switch {
	case a.err == nil && c.End-c.Start > p.plan.Limit:
		// It ignored its context and came back with a success that a user would no longer have waited for.
		c.Err = fmt.Errorf("returned after %v, over its limit of %v", c.End-c.Start, p.plan.Limit)
		c.State = Failed
	case a.err == nil:
		c.State = OK
	case ctx.Err() != nil:
		c.State = Cancelled // the run ended under it; whatever it says, it is no failure of the target
	default:
		c.State = Failed
	}
	return a.value, true
}

func raise(peak *atomic.Int64, n int64) {
	for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
	}
}
