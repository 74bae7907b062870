// Package load sends many requests at a target and keeps the account of each one.
//
// A [Plan] says when. Without Arrivals it is a closed loop: a fixed number of calls is held in flight, each lane makes its
// next call when its last one has ended. That answers "how fast is the target with this many users waiting", and it cannot
// show queueing: a slow target slows the sender down. With Arrivals it is an open loop, which sends by a schedule whatever
// the target does. With Arrivals and a Concurrency the calls of the schedule wait for a free slot, and the wait is theirs:
// it is counted from the time the call was due ([Call.Queue]). A tool that counts from the moment the slot was got reports
// 506 ms where users of that service wait 1,932 ms (vllm#54101).
//
// [Run] makes the calls, [Collect] also keeps what they returned, [Converse] makes conversations of several turns. All give a
// [Result] in which every planned call is accounted for: ok, failed, abandoned, cancelled, stuck, skipped or not sent. Nothing
// is dropped silently.
package load

import (
	"context"
	"errors"
	"fmt"
)

// Run makes the planned calls of op. A call that fails is counted and the run goes on; the error of Run says that the
// run itself is not what was planned: an impossible plan, or an [*Incomplete] run. The Result is valid in each case.
//
// op must be safe for concurrent use and should return when its context ends. A panic or a runtime.Goexit in it (t.FailNow
// outside the test's goroutine) becomes that call's error. If op ignores its context for Limit + Grace the call is
// reported as stuck and its lane is given up, as the call is still in flight there; its goroutine cannot be ended.
func Run(ctx context.Context, plan Plan, op func(ctx context.Context, i int) error) (Result, error) {
	if op == nil {
		return Result{Plan: plan}, errNoOp
	}
	_, result, err := Collect(ctx, plan, func(ctx context.Context, i int) (struct{}, error) {
		return struct{}{}, op(ctx, i)
	})
	return result, err
}

// Collect is Run for operations that return something: values[i] is what measured call i returned, also beside an
// error. It is the zero T where the call never returned; Result.Calls[i].State tells.
func Collect[T any](ctx context.Context, plan Plan, op func(ctx context.Context, i int) (T, error)) (values []T, _ Result, _ error) {
	if op == nil {
		return nil, Result{Plan: plan}, errNoOp
	}
	return Converse(ctx, plan, Sessions{}, func(ctx context.Context, t Turn[T]) (T, error) {
		return op(ctx, t.Index)
	})
}

// Converse is Collect for conversations. Plan.Requests counts conversations then, and Plan.Arrivals are the due times of
// their first turns; a conversation keeps its lane until its last turn has ended. Result.Calls and values hold all turns, those of
// a conversation side by side. A conversation whose turn failed or was abandoned ends there: its other turns are Skipped.
func Converse[T any](ctx context.Context, plan Plan, sessions Sessions, op func(context.Context, Turn[T]) (T, error)) (values []T, _ Result, _ error) {
	r := Result{Plan: plan}
	if op == nil {
		return nil, r, errNoOp
	}
	if sessions.Turns < 0 {
		return nil, r, fmt.Errorf("load: Sessions.Turns is %d", sessions.Turns)
	}
	plan, due, err := plan.filled()
	r.Plan = plan
	if err != nil {
		r.NotSent = max(plan.Requests, 0)
		return nil, r, err
	}
	if plan.Warmup > 0 {
		calm := plan // a warm-up is a closed loop, and all at once where the plan sets no bound
		calm.Arrivals, calm.Cancel, calm.Duration, calm.Requests = nil, Cancel{}, 0, plan.Warmup
		if calm.Concurrency == 0 {
			calm.Concurrency = plan.Warmup
		}
		warm := phase[T]{plan: calm, op: op, first: -plan.Warmup}
		warm.run(ctx)
		calls, _ := warm.records(false)
		r.Warmup = count(calls)
		for i := range calls {
			if c := &calls[i]; c.Err != nil {
				r.WarmupErr = fmt.Errorf("warm-up call %d: %w", c.Index, c.Err)
				break
			}
		}
		if err := warm.incomplete(ctx, calls); err != nil {
			err.Warmup = true
			r.NotSent = plan.Requests
			return nil, r, err
		}
	}
	main := phase[T]{plan: plan, op: op, sessions: sessions, due: due}
	main.run(ctx)
	calls, values := main.records(true)
	r.Began = main.began
	r.account(calls, int(main.peak.Load()))
	if err := main.incomplete(ctx, calls); err != nil {
		return values, r, err
	}
	return values, r, nil
}

var errNoOp = errors.New("load: no operation")
