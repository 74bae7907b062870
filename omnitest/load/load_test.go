package load_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/load"
)

// nap sleeps as a well-behaved operation does.
func nap(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// In fake time the arithmetic of a closed loop is exact.
func TestClosedLoopHoldsItsConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		r, err := load.Run(t.Context(), load.Plan{Concurrency: 3, Requests: 10}, func(ctx context.Context, i int) error {
			n := now.Add(1)
			defer now.Add(-1)
			if n > most.Load() {
				most.Store(n)
			}
			return nap(ctx, time.Second)
		})
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 10, OK: 10}, r.Counts)
		assert.Equal(t, 3, r.Peak)
		assert.EqualValues(t, 3, most.Load())
		assert.Equal(t, 4*time.Second, r.Wall) // 3 + 3 + 3 + 1
		assert.InDelta(t, 10.0/4, r.MeanInFlight, 1e-9)
		require.Len(t, r.Calls, 10)
		for i, c := range r.Calls {
			assert.Equal(t, i, c.Index)
			assert.Equal(t, time.Duration(i/3)*time.Second, c.Sent)
			assert.Equal(t, c.Sent, c.Due)
			assert.Equal(t, c.Sent+time.Second, c.End)
			assert.Less(t, c.Lane, 3)
		}
	})
}

func TestZeroPlanMakesOneCall(t *testing.T) {
	r, err := load.Run(t.Context(), load.Plan{}, func(context.Context, int) error { return nil })
	require.NoError(t, err)
	assert.Equal(t, load.Counts{Sent: 1, OK: 1}, r.Counts)
	assert.Equal(t, load.Plan{Concurrency: 1, Requests: 1, Limit: 5 * time.Minute, Grace: 5 * time.Second}, r.Plan)
}

func TestWarmupComesFirstAndIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var seen []int
		values, r, err := load.Collect(t.Context(), load.Plan{Requests: 3, Warmup: 2}, func(ctx context.Context, i int) (int, error) {
			seen = append(seen, i)
			if i == -1 {
				return 0, errors.New("cold")
			}
			return i * i, nap(ctx, time.Second)
		})
		require.NoError(t, err)
		assert.Equal(t, []int{-2, -1, 0, 1, 2}, seen)
		assert.Equal(t, []int{0, 1, 4}, values)
		assert.Equal(t, load.Counts{Sent: 3, OK: 3}, r.Counts)
		assert.Equal(t, load.Counts{Sent: 2, OK: 1, Failed: 1}, r.Warmup)
		assert.EqualError(t, r.WarmupErr, "warm-up call -1: cold")
		assert.Equal(t, 3*time.Second, r.Wall)
		assert.Equal(t, time.Second, r.Began.Sub(began))
	})
}

func TestFailuresAreCountedAndKeepTheirValues(t *testing.T) {
	partial, r, err := load.Collect(t.Context(), load.Plan{Requests: 4}, func(_ context.Context, i int) (string, error) {
		if i%2 == 1 {
			return "half", fmt.Errorf("call %d: HTTP 503", i)
		}
		return "whole", nil
	})
	require.NoError(t, err, "failed calls are the target's, not the run's")
	assert.Equal(t, []string{"whole", "half", "whole", "half"}, partial)
	assert.Equal(t, load.Counts{Sent: 4, OK: 2, Failed: 2}, r.Counts)
	assert.EqualError(t, r.Calls[3].Err, "call 3: HTTP 503")
	assert.NoError(t, r.Calls[2].Err)
}

func TestImpossiblePlans(t *testing.T) {
	op := func(context.Context, int) error { panic("must not be called") }
	r, err := load.Run(t.Context(), load.Plan{Concurrency: 8, Requests: 4}, op)
	assert.EqualError(t, err, "load: concurrency 8 cannot be held with 4 requests: plan at least as many requests")
	assert.Equal(t, load.Counts{NotSent: 4}, r.Counts)
	_, err = load.Run(t.Context(), load.Plan{Warmup: -1}, op)
	assert.EqualError(t, err, "load: Plan.Warmup is negative")
	_, err = load.Run(t.Context(), load.Plan{}, nil)
	assert.EqualError(t, err, "load: no operation")
	_, _, err = load.Collect[int](t.Context(), load.Plan{}, nil)
	assert.EqualError(t, err, "load: no operation")
}

func TestEndOfContextStopsAtOnceAndIsAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(2500*time.Millisecond, func() { cancel(errors.New("decode died")) })
		r, err := load.Run(ctx, load.Plan{Concurrency: 2, Requests: 20}, func(ctx context.Context, i int) error {
			return nap(ctx, time.Second)
		})
		assert.EqualError(t, err, "load: incomplete: 14 of 20 calls not sent, 2 cancelled in flight: decode died")
		assert.Equal(t, load.Counts{Sent: 6, OK: 4, Cancelled: 2, NotSent: 14}, r.Counts)
		assert.Equal(t, 2500*time.Millisecond, r.Wall)
		assert.Equal(t, load.Call{Index: 19, Session: 19, Lane: -1, State: load.NotSent}, r.Calls[19])
		var inc *load.Incomplete
		require.ErrorAs(t, err, &inc)
		assert.Equal(t, 14, inc.NotSent)
	})
}

func TestEndOfContextInTheWarmupMeasuresNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	values, r, err := load.Collect(ctx, load.Plan{Requests: 3, Warmup: 2}, func(_ context.Context, i int) (int, error) {
		cancel()
		return 1, nil
	})
	assert.EqualError(t, err, "load: warm-up incomplete: 1 of 2 calls not sent: context canceled")
	require.ErrorIs(t, err, context.Canceled)
	assert.Nil(t, values)
	assert.Equal(t, load.Counts{NotSent: 3}, r.Counts)
	assert.Empty(t, r.Calls)
}

func TestLimitEndsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Plan{Requests: 2, Limit: 3 * time.Second}, func(ctx context.Context, i int) error {
			if i == 0 {
				return nap(ctx, time.Hour)
			}
			time.Sleep(4 * time.Second) // deaf, but back within the grace
			return nil
		})
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 2, Failed: 2}, r.Counts)
		require.ErrorIs(t, r.Calls[0].Err, context.DeadlineExceeded)
		assert.EqualError(t, r.Calls[0].Err, "limit of 3s: context deadline exceeded")
		assert.EqualError(t, r.Calls[1].Err, "returned after 4s, over its limit of 3s")
	})
}

// A call that ignores its context costs its lane. The others finish the plan, and the error names the call.
func TestStuckCallDoesNotHangTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		plan := load.Plan{Concurrency: 2, Requests: 9, Limit: 3 * time.Second, Grace: time.Second}
		values, r, err := load.Collect(t.Context(), plan, func(ctx context.Context, i int) (int, error) {
			if i == 1 {
				<-release
			}
			return i + 100, nap(ctx, time.Second)
		})
		assert.EqualError(t, err, "load: incomplete: call 1 stuck: had not returned 1s after its context ended (limit 3s)")
		require.ErrorIs(t, err, load.ErrStuck)
		assert.Equal(t, load.Counts{Sent: 9, OK: 8, Stuck: 1}, r.Counts)
		assert.Equal(t, []int{100, 0, 102, 103, 104, 105, 106, 107, 108}, values)
		assert.Equal(t, 2, r.Peak, "the stuck call is still in flight, so its lane makes no other")
		assert.Equal(t, 8*time.Second, r.Wall)
		assert.EqualError(t, r.Calls[1].Err,
			"stuck: the operation had not returned 1s after its context ended (limit of 3s: context deadline exceeded)")
		assert.Equal(t, 4*time.Second, r.Calls[1].End)

		close(release) // the late answer must not touch what was given out
		synctest.Wait()
		time.Sleep(time.Second)
		assert.Equal(t, 0, values[1])
	})
}

func TestAllLanesStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, err := load.Run(ctx, load.Plan{Concurrency: 2, Requests: 9}, func(context.Context, int) error {
			<-release
			return nil
		})
		assert.EqualError(t, err, "load: incomplete: call 0 1 stuck: had not returned 5s after its context ended (limit 5m0s), "+
			"7 of 9 calls not sent: context deadline exceeded")
		assert.Equal(t, load.Counts{Sent: 2, Stuck: 2, NotSent: 7}, r.Counts)
		assert.Equal(t, 6*time.Second, r.Wall)
		close(release)
	})
}

func TestPanicAndGoexitBecomeErrors(t *testing.T) {
	r, err := load.Run(t.Context(), load.Plan{Requests: 4}, func(_ context.Context, i int) error {
		switch i {
		case 0:
			panic("KV pool is empty")
		case 1:
			runtime.Goexit()
		case 2:
			var m map[string]int
			m["x"] = 1
		}
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, load.Counts{Sent: 4, OK: 1, Failed: 3}, r.Counts)
	var p *load.PanicError
	require.ErrorAs(t, r.Calls[0].Err, &p)
	assert.Regexp(t, `^the operation panicked at load_test\.go:\d+: KV pool is empty$`, p.Error())
	assert.Contains(t, string(p.Stack), "TestPanicAndGoexitBecomeErrors")
	assert.ErrorContains(t, r.Calls[1].Err, "no t.FailNow, require or t.Skip inside a load operation")
	assert.Regexp(t, `^the operation panicked at load_test\.go:\d+: assignment to entry in nil map$`, r.Calls[2].Err.Error())
}

// Whatever the plan and the operation, every planned call is accounted for once and the concurrency is what was asked.
func TestEveryCallIsAccountedFor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		conc := rapid.IntRange(1, 8).Draw(rt, "concurrency")
		plan := load.Plan{Concurrency: conc, Requests: conc + rapid.IntRange(0, 30).Draw(rt, "more"), Warmup: rapid.IntRange(0, 5).Draw(rt, "warmup")}
		stopAt := rapid.IntRange(0, 60).Draw(rt, "stop at call")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var made atomic.Int64
		r, err := load.Run(ctx, plan, func(ctx context.Context, i int) error {
			runtime.Gosched()
			if i == stopAt {
				cancel()
			}
			if i >= 0 {
				made.Add(1)
			}
			if i%3 == 0 {
				return errors.New("third")
			}
			return ctx.Err()
		})
		n := r.Counts
		if n.OK+n.Failed+n.Cancelled+n.Stuck != n.Sent || n.Sent+n.NotSent != plan.Requests || n.Sent != int(made.Load()) {
			rt.Fatalf("%+v does not account for %d requests, %d made", n, plan.Requests, made.Load())
		}
		if r.Peak > conc {
			rt.Fatalf("peak %d over concurrency %d", r.Peak, conc)
		}
		if (err == nil) != (n.NotSent+n.Cancelled+n.Stuck == 0) {
			rt.Fatalf("%+v with error %v", n, err)
		}
	})
}
