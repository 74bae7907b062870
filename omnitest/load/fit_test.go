package load_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/load"
)

func nil2(context.Context, int) error { return nil }

// The sent times of a run are the process that was planned. A sender that sleeps for each gap, half a millisecond too long (what
// time.Sleep does on Linux), is not, whatever the process.
func TestSentTimesFitTheirProcess(t *testing.T) {
	const n = 4000
	for _, a := range processes() {
		t.Run(name(a), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := load.Run(t.Context(), load.Plan{Arrivals: a, Requests: n, Seed: 11}, nil2)
				require.NoError(t, err)
				fit, err := r.Fit()
				require.NoError(t, err)
				assert.Greater(t, fit.P, 0.01, "%v", fit)
				planned, sent, ok := r.Rates()
				if ok {
					assert.InEpsilon(t, planned, sent, 1e-12)
				}

				var drifted, due []time.Duration
				began, last := time.Now(), time.Duration(0)
				for i := range r.Calls {
					time.Sleep(r.Calls[i].Due - last + 500*time.Microsecond)
					last = r.Calls[i].Due
					due, drifted = append(due, last), append(drifted, time.Since(began))
				}
				fit = load.FitTimes(a, due, drifted)
				assert.Less(t, fit.P, 1e-6, "the drift goes unseen: %v", fit)
			})
		})
	}
}

// The test is calibrated: of the process's own times about 5 % are refused at 5 %, and of a process of the same rate with another
// burstiness nearly all.
func TestFitIsCalibrated(t *testing.T) {
	const tries, n = 200, 400
	share := func(draw, law load.Arrivals) (refused int) {
		for seed := range uint64(tries) {
			if load.FitTimes(law, times(t, law, n, seed), times(t, draw, n, seed)).P < 0.05 {
				refused++
			}
		}
		return refused
	}
	for _, a := range processes() {
		switch a.(type) {
		case load.Constant, load.Burst, load.Trace:
			assert.Zero(t, share(a, a), "%v: nothing is random", a)
		default: // binomial(200, 0.05): 2 to 20 but for 1 in 1,000
			refused := share(a, a)
			assert.True(t, refused >= 2 && refused <= 20, "%v: %d of %d refused", a, refused, tries)
		}
	}
	for _, c := range []struct{ draw, law load.Arrivals }{
		{load.Gamma{Rate: 1000, Burstiness: 2}, load.Poisson{Rate: 1000}},
		{load.Poisson{Rate: 1300}, load.Poisson{Rate: 1000}},
		{load.Constant{Rate: 1000}, load.Poisson{Rate: 1000}}, // the "constant" of another tool, the other way round
		{load.Poisson{Rate: 1000}, load.Constant{Rate: 1000}},
		{load.VLLM{Rate: 1000, Burstiness: 0.5}, load.VLLM{Rate: 1000}},
		{load.Poisson{Rate: 975}, load.MMPP{Calm: 300, High: 3000, CalmFor: 300 * time.Millisecond, HighFor: 100 * time.Millisecond}},
		{load.Poisson{Rate: 1000}, load.Ramp{From: 200, To: 1800, Over: time.Second / 2}},
	} {
		assert.Greater(t, share(c.draw, c.law), tries*9/10, "%v taken for %v", c.draw, c.law)
	}
}

func TestFitNeedsAWholeOpenRun(t *testing.T) {
	r, err := load.Run(t.Context(), load.Plan{Requests: 2}, nil2)
	require.NoError(t, err)
	_, err = r.Fit()
	assert.EqualError(t, err, "load: a closed loop has no arrival process")
	_, _, ok := r.Rates()
	assert.False(t, ok)

	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		r, err := load.Run(ctx, load.Plan{Arrivals: load.Constant{Rate: 1}, Requests: 5}, nil2)
		assert.EqualError(t, err, "load: incomplete: 2 of 5 calls not sent: context deadline exceeded")
		_, err = r.Fit()
		assert.EqualError(t, err, "load: call 3 was not sent: the run does not have its process")
	})
}
