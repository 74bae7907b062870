package load_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
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

const ms = time.Millisecond

// An open loop sends by its schedule and does not wait for a slow target.
func TestOpenLoopKeepsItsSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Plan{Arrivals: load.Constant{Rate: 10}, Requests: 20}, func(ctx context.Context, _ int) error {
			return nap(ctx, 950*ms)
		})
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 20, OK: 20}, r.Counts)
		for i, c := range r.Calls {
			assert.Equal(t, time.Duration(i)*100*ms, c.Due)
			assert.Equal(t, c.Due, c.Sent)
			assert.Zero(t, c.Queue)
			assert.Zero(t, c.Late())
			assert.Equal(t, c.Sent+950*ms, c.End)
		}
		assert.Equal(t, 10, r.Peak)
		assert.Equal(t, 2850*ms, r.Wall)
		planned, sent, ok := r.Rates()
		assert.True(t, ok)
		assert.InDelta(t, 10, planned, 1e-9)
		assert.InDelta(t, 10, sent, 1e-9)
	})
}

// vllm#54101: 8 requests at 10 per second, concurrency 1, a service of half a second. Reported were 506 ms, while from the schedule it
// was 1,932 ms on average (p99 507 and 3,330 ms). The gaps here have the sum of that run's.
func TestWaitForASlotCountsFromTheScheduledTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		due := []time.Duration{0, 100 * ms, 190 * ms, 290 * ms, 400 * ms, 500 * ms, 580 * ms, 700 * ms}
		plan := load.Plan{Arrivals: load.Trace{Name: "54101", Due: due}, Concurrency: 1}
		r, err := load.Run(t.Context(), plan, func(ctx context.Context, _ int) error { return nap(ctx, 506*ms) })
		require.NoError(t, err)
		var service, schedule, queue time.Duration
		for i, c := range r.Calls {
			assert.Equal(t, due[i], c.Due)
			assert.Equal(t, time.Duration(i)*506*ms-due[i], c.Queue)
			assert.Zero(t, c.Late(), "the client itself was not late")
			service, schedule, queue = service+c.End-c.Sent, schedule+c.End-c.Due, queue+c.Queue
		}
		assert.Equal(t, 506*ms, service/8)
		assert.Equal(t, 1932*ms, schedule/8)
		assert.Equal(t, 1426*ms, queue/8)
		assert.Equal(t, 1, r.Peak)
		_, sent, ok := r.Rates()
		assert.True(t, ok)
		assert.InDelta(t, 1/0.506, sent, 1e-9, "the rate that was asked for was not had")
		fit, err := r.Fit()
		require.NoError(t, err)
		assert.Greater(t, fit.P, 0.99, "the schedule was kept; the slots were taken")
		t.Logf("vllm#54101: mean service %v, mean from schedule %v", service/8, schedule/8)
	})
}

// Calls wait for slots in their order, also with more lanes than one.
func TestBothBoundsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Plan{Arrivals: load.Burst{}, Concurrency: 3, Requests: 8}, func(ctx context.Context, _ int) error {
			return nap(ctx, time.Second)
		})
		require.NoError(t, err)
		for i, c := range r.Calls {
			assert.Equal(t, time.Duration(i/3)*time.Second, c.Queue)
			assert.Equal(t, c.Queue, c.Sent)
			assert.Less(t, c.Lane, 3)
		}
		assert.Equal(t, 3, r.Peak)
		_, _, ok := r.Rates()
		assert.False(t, ok, "all were due at once")
	})
}

// A queue with a slot that comes free before the next call is due has no wait.
func TestNoQueueWhereASlotIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Plan{Arrivals: load.Constant{Rate: 1}, Concurrency: 1, Requests: 4}, func(ctx context.Context, _ int) error {
			return nap(ctx, 900*ms)
		})
		require.NoError(t, err)
		for _, c := range r.Calls {
			assert.Zero(t, c.Queue)
			assert.Equal(t, c.Due, c.Sent)
		}
	})
}

func TestBurstIsSentAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Plan{Arrivals: load.Burst{}, Requests: 512}, func(ctx context.Context, _ int) error {
			return nap(ctx, time.Second)
		})
		require.NoError(t, err)
		assert.Equal(t, 512, r.Peak)
		assert.Equal(t, time.Second, r.Wall)
		lanes := map[int]bool{}
		for _, c := range r.Calls {
			lanes[c.Lane] = true
		}
		assert.Len(t, lanes, 512)
	})
}

// In real time: the schedule is kept to the nature of the machine, and never ahead of time.
func TestOpenLoopInRealTime(t *testing.T) {
	r, err := load.Run(t.Context(), load.Plan{Arrivals: load.Poisson{Rate: 2000}, Requests: 200, Warmup: 3}, nil2)
	require.NoError(t, err)
	assert.Equal(t, load.Counts{Sent: 200, OK: 200}, r.Counts)
	assert.Equal(t, load.Counts{Sent: 3, OK: 3}, r.Warmup)
	for _, c := range r.Calls {
		assert.GreaterOrEqual(t, c.Late(), time.Duration(0))
	}
}

func TestOpenLoopStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(30*ms, func() { cancel(errors.New("decode died")) })
	began := time.Now()
	r, err := load.Run(ctx, load.Plan{Arrivals: load.Constant{Rate: 0.001}, Requests: 3}, nil2)
	assert.EqualError(t, err, "load: incomplete: 2 of 3 calls not sent: decode died")
	assert.Less(t, time.Since(began), 20*time.Second)
	assert.Equal(t, load.Counts{Sent: 1, OK: 1, NotSent: 2}, r.Counts)
}

// Stuck calls cost an open loop without a bound nothing; one with a bound loses their slots, and ends when it has none.
func TestStuckCallsOfAnOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		op := func(_ context.Context, i int) error {
			if i < 2 {
				<-release
			}
			return nil
		}
		plan := load.Plan{Arrivals: load.Constant{Rate: 10}, Requests: 6, Limit: time.Second, Grace: time.Second}
		r, err := load.Run(t.Context(), plan, op)
		assert.EqualError(t, err, "load: incomplete: call 0 1 stuck: had not returned 1s after its context ended (limit 1s)")
		assert.Equal(t, load.Counts{Sent: 6, OK: 4, Stuck: 2}, r.Counts)

		plan.Concurrency = 2
		r, err = load.Run(t.Context(), plan, op)
		assert.EqualError(t, err, "load: incomplete: call 0 1 stuck: had not returned 1s after its context ended (limit 1s), 4 of 6 calls not sent")
		assert.Equal(t, load.Counts{Sent: 2, Stuck: 2, NotSent: 4}, r.Counts)
		assert.Equal(t, 2100*ms, r.Wall)
		close(release)
	})
}

func TestGoexitInAnOpenLoop(t *testing.T) {
	for _, conc := range []int{0, 1} {
		r, err := load.Run(t.Context(), load.Plan{Arrivals: load.Burst{}, Concurrency: conc, Requests: 4}, func(_ context.Context, i int) error {
			if i%2 == 0 {
				runtime.Goexit()
			}
			return nil
		})
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 4, OK: 2, Failed: 2}, r.Counts)
	}
}

func TestDurationEndsTheSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := func(ctx context.Context, _ int) error { return nap(ctx, time.Second) }
		closed := load.Plan{Concurrency: 2, Duration: 3500 * ms}
		r, err := load.Run(t.Context(), closed, second)
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 8, OK: 8}, r.Counts, "those in flight are waited for")
		assert.Equal(t, 4*time.Second, r.Wall)

		closed.Requests = 5
		r, err = load.Run(t.Context(), closed, second)
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 5, OK: 5}, r.Counts, "whichever comes first")
		closed.Requests = 50
		r, err = load.Run(t.Context(), closed, second)
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 8, OK: 8}, r.Counts)

		ctx, cancel := context.WithTimeout(t.Context(), 2500*ms)
		defer cancel()
		r, err = load.Run(ctx, load.Plan{Concurrency: 2, Duration: time.Hour}, second)
		assert.EqualError(t, err, "load: incomplete: ended after 2.5s of 1h0m0s, 2 cancelled in flight: context deadline exceeded")
		assert.Equal(t, load.Counts{Sent: 6, OK: 4, Cancelled: 2}, r.Counts)

		for _, c := range []struct {
			plan load.Plan
			n    int
		}{
			{load.Plan{Arrivals: load.Constant{Rate: 10}, Duration: time.Second}, 11}, // 0.0 to 1.0
			{load.Plan{Arrivals: load.Constant{Rate: 10}, Duration: time.Second, Requests: 4}, 4},
			{load.Plan{Arrivals: load.Constant{Rate: 10}, Duration: time.Second, Requests: 40}, 11},
			{load.Plan{Arrivals: load.Trace{Due: []time.Duration{1, 2, time.Hour}}, Duration: time.Second}, 2},
			{load.Plan{Arrivals: load.Trace{Due: []time.Duration{1, 2, 3}}, Duration: time.Second}, 3},
			{load.Plan{Arrivals: load.Trace{Due: []time.Duration{1, 2, 3}}}, 3},
			{load.Plan{Arrivals: load.Constant{Rate: 10}}, 1},
			{load.Plan{Arrivals: load.Constant{Rate: 10}, Concurrency: 4}, 4},
		} {
			r, err := load.Run(t.Context(), c.plan, nil2)
			require.NoError(t, err)
			assert.Equal(t, c.n, r.OK, "%+v", c.plan)
			assert.Equal(t, c.n, r.Plan.Requests)
		}
		poisson := load.Plan{Arrivals: load.Poisson{Rate: 100}, Duration: 20 * time.Second, Seed: 3}
		r, err = load.Run(t.Context(), poisson, nil2)
		require.NoError(t, err)
		assert.InDelta(t, 2000, r.OK, 200)
		assert.LessOrEqual(t, r.Calls[len(r.Calls)-1].Due, 20*time.Second)
	})
}

// custom is a process of somebody else.
type custom []time.Duration

func (c custom) Times(int, *rand.Rand) ([]time.Duration, error) { return c, nil }
func (c custom) String() string                                 { return "custom" }

func TestImpossibleOpenPlans(t *testing.T) {
	op := func(context.Context, int) error { panic("must not be called") }
	for _, c := range []struct {
		plan load.Plan
		text string
	}{
		{load.Plan{Arrivals: load.Poisson{}}, "load: poisson: rate 0: want a number of calls per second above 0"},
		{load.Plan{Arrivals: load.Trace{Name: "x"}}, "load: trace x holds no times"},
		{load.Plan{Arrivals: load.Burst{}, Duration: time.Second}, "load: burst has more than 16777216 calls in 1s: set Plan.Requests"},
		{load.Plan{Arrivals: load.Trace{Name: "x", Due: []time.Duration{time.Hour}}, Duration: time.Second}, "load: trace(x, 1 calls): no call is due within 1s"},
		{load.Plan{Arrivals: custom{0, 1}, Requests: 3}, "load: custom: gave 2 due times for 3 calls"},
		{load.Plan{Arrivals: custom{0, 5, 4}, Requests: 3}, "load: custom: due time 2 is 4ns, after 5ns: times must ascend from 0"},
		{load.Plan{Arrivals: custom{-1, 5}, Requests: 2}, "load: custom: due time 0 is -1ns, after 0s: times must ascend from 0"},
		{load.Plan{Arrivals: load.Burst{}, Requests: -1}, "load: Plan.Requests is negative"},
		{load.Plan{Duration: -1}, "load: Plan.Duration is negative"},
		{load.Plan{Concurrency: -1}, "load: Plan.Concurrency is negative"},
		{load.Plan{Limit: -1}, "load: Plan.Limit is negative"},
		{load.Plan{Grace: -1}, "load: Plan.Grace is negative"},
		{load.Plan{Cancel: load.Cancel{Delay: -1}}, "load: Plan.Cancel.Delay is negative"},
		{load.Plan{Cancel: load.Cancel{Rate: 1.5}}, "load: Plan.Cancel.Rate 1.5: want a share from 0 to 1"},
		{load.Plan{Cancel: load.Cancel{Rate: -0.5}}, "load: Plan.Cancel.Rate -0.5: want a share from 0 to 1"},
		{load.Plan{Cancel: load.Cancel{Rate: math.NaN()}}, "load: Plan.Cancel.Rate NaN: want a share from 0 to 1"},
	} {
		_, err := load.Run(t.Context(), c.plan, op)
		assert.EqualError(t, err, c.text)
	}
}

// Whatever the plan, every planned call is accounted for once; of an open loop too.
func TestEveryOpenCallIsAccountedFor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plan := load.Plan{
			Arrivals: load.Gamma{Rate: 1e5, Burstiness: 0.2}, Seed: rapid.Uint64().Draw(rt, "seed"),
			Concurrency: rapid.IntRange(0, 4).Draw(rt, "concurrency"), Requests: rapid.IntRange(1, 60).Draw(rt, "requests"),
			Warmup: rapid.IntRange(0, 3).Draw(rt, "warmup"), Cancel: load.Cancel{Rate: 0.3},
		}
		stopAt := rapid.IntRange(0, 90).Draw(rt, "stop at call")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var made atomic.Int64
		r, err := load.Run(ctx, plan, func(ctx context.Context, i int) error {
			if i >= 0 {
				made.Add(1)
			}
			switch {
			case i == stopAt:
				cancel()
			case i%7 == 3:
				runtime.Goexit()
			case i%7 == 4:
				return errors.New("fourth")
			}
			runtime.Gosched()
			return ctx.Err()
		})
		n := r.Counts
		if n.OK+n.Failed+n.Abandoned+n.Cancelled+n.Stuck != n.Sent || n.Sent+n.NotSent != plan.Requests || n.Sent != int(made.Load()) || n.Skipped != 0 {
			rt.Fatalf("%+v does not account for %d requests, %d made", n, plan.Requests, made.Load())
		}
		if plan.Concurrency > 0 && r.Peak > plan.Concurrency {
			rt.Fatalf("peak %d over concurrency %d", r.Peak, plan.Concurrency)
		}
		if (err == nil) != (n.NotSent+n.Cancelled+n.Stuck == 0) {
			rt.Fatalf("%+v with error %v", n, err)
		}
		for i, c := range r.Calls {
			if c.Index != i || c.State != load.NotSent && c.Late() < 0 {
				rt.Fatalf("call %d: %s", i, fmt.Sprintf("%+v", c))
			}
		}
	})
}
