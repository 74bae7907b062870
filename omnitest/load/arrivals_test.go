package load_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/load"
)

func times(t *testing.T, a load.Arrivals, n int, seed uint64) []time.Duration {
	t.Helper()
	due, err := a.Times(n, rand.New(rand.NewPCG(seed, 1)))
	require.NoError(t, err)
	require.Len(t, due, n)
	require.True(t, slices.IsSorted(due))
	require.GreaterOrEqual(t, due[0], time.Duration(0))
	return due
}

// moments of the gaps: mean in seconds and squared coefficient of variation.
func gaps(due []time.Duration) (mean, scv float64) {
	var sum, square float64
	for i := 1; i < len(due); i++ {
		g := (due[i] - due[i-1]).Seconds()
		sum += g
		square += g * g
	}
	n := float64(len(due) - 1)
	mean = sum / n
	return mean, square/n/(mean*mean) - 1
}

// The textbook values: a gamma process of shape b has gaps of squared coefficient of variation 1/b.
func TestArrivalsHaveTheirMoments(t *testing.T) {
	const n = 50_000
	for _, c := range []struct {
		a         load.Arrivals
		mean, scv float64
	}{
		{load.Poisson{Rate: 100}, 0.01, 1},
		{load.Gamma{Rate: 100}, 0.01, 1},
		{load.Gamma{Rate: 100, Burstiness: 0.25}, 0.01, 4},
		{load.Gamma{Rate: 100, Burstiness: 4}, 0.01, 0.25},
		{load.VLLM{Rate: 100}, 0.01, 1},
		{load.VLLM{Rate: 100, Burstiness: 0.5}, 0.01, 2},
		{load.Constant{Rate: 100}, 0.01, 0},
		{load.VLLM{Rate: 100, Burstiness: math.Inf(1)}, 0.01, 0},
	} {
		mean, scv := gaps(times(t, c.a, n, 3))
		assert.InEpsilon(t, c.mean, mean, 0.03, "%v", c.a)
		assert.InDelta(t, c.scv, scv, 0.08*c.scv+1e-9, "%v", c.a)
	}
}

// vLLM multiplies its schedule so that the last of n calls is due at n / rate, whatever was drawn.
func TestVLLMEndsAtItsTime(t *testing.T) {
	for seed := range uint64(20) {
		for _, b := range []float64{0, 0.2, 5} {
			due := times(t, load.VLLM{Rate: 8, Burstiness: b}, 40, seed)
			assert.Equal(t, 5*time.Second, due[39])
		}
	}
	assert.Equal(t, make([]time.Duration, 9), times(t, load.VLLM{Rate: math.Inf(1)}, 9, 1), "--request-rate inf")
	assert.Equal(t, []time.Duration{500 * time.Millisecond, time.Second}, times(t, load.VLLM{Rate: 2, Burstiness: math.Inf(1)}, 2, 1))
}

func TestConstantIsConstant(t *testing.T) {
	due := times(t, load.Constant{Rate: 3}, 3_000_001, 1)
	assert.Equal(t, time.Duration(0), due[0])
	assert.Equal(t, 333333333*time.Nanosecond, due[1])
	assert.Equal(t, 1_000_000*time.Second, due[3_000_000], "no rounding adds up")
	assert.Equal(t, make([]time.Duration, 4), times(t, load.Burst{}, 4, 1))
}

// The number of calls by a time is the integral of the rate.
func TestRampsFollowTheirRate(t *testing.T) {
	count := func(due []time.Duration, until time.Duration) float64 {
		n, _ := slices.BinarySearch(due, until)
		return float64(n)
	}
	const n = 40_000
	up := times(t, load.Ramp{From: 100, To: 1100, Over: 20 * time.Second}, n, 1)
	assert.InEpsilon(t, 100*10+50*10*10/2, count(up, 10*time.Second), 0.05)          // 3,500
	assert.InEpsilon(t, 12000, count(up, 20*time.Second), 0.03)                      // mean of 600/s
	assert.InEpsilon(t, 12000+5*1100, count(up, 25*time.Second), 0.03, "and stays")  //
	down := times(t, load.Ramp{From: 1000, To: 0}, n, 1)                             // 80 s
	assert.InEpsilon(t, 30_000, count(down, 40*time.Second), 0.03)                   // 3/4 of the calls in half of the time
	grow := load.Ramp{From: 10, To: 1000, Exponential: true, Over: 10 * time.Second} // x 100 in 10 s
	exp := times(t, grow, n, 1)                                                      //
	k := math.Log(100) / 10                                                          //
	assert.InEpsilon(t, 10/k*(math.Exp(5*k)-1), count(exp, 5*time.Second), 0.20)     // 195
	assert.InEpsilon(t, 10/k*(math.Exp(10*k)-1), count(exp, 10*time.Second), 0.06)   // 2,150
	whole := times(t, load.Ramp{From: 10, To: 1000, Exponential: true}, n, 1)        //
	assert.InEpsilon(t, n*math.Log(100)/990, whole[n-1].Seconds(), 0.03, "one ramp") //
	flat := times(t, load.Ramp{From: 50, To: 50, Exponential: true}, n, 1)
	assert.InEpsilon(t, n/50, flat[n-1].Seconds(), 0.03)
}

func TestMMPPBursts(t *testing.T) {
	m := load.MMPP{Calm: 10, High: 500, CalmFor: 9 * time.Second, HighFor: time.Second}
	assert.InDelta(t, 59, m.Mean(), 1e-9)
	due := times(t, m, 60_000, 1)
	assert.InEpsilon(t, 59, 60_000/due[59_999].Seconds(), 0.15)
	_, scv := gaps(due)
	assert.Greater(t, scv, 3.0, "Poisson calls of this rate have 1")
	onOff := times(t, load.MMPP{High: 100, CalmFor: time.Second, HighFor: time.Second}, 20_000, 1)
	assert.InEpsilon(t, 50, 20_000/onOff[19_999].Seconds(), 0.15)
}

func TestTheSameSeedGivesTheSameTimes(t *testing.T) {
	for _, a := range processes() {
		assert.Equal(t, times(t, a, 100, 5), times(t, a, 100, 5), "%v", a)
	}
	assert.NotEqual(t, times(t, load.Poisson{Rate: 1}, 100, 5), times(t, load.Poisson{Rate: 1}, 100, 6))
}

func TestBadArrivals(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	const want = ": want a number of calls per second above 0"
	for _, c := range []struct {
		a    load.Arrivals
		text string
	}{
		{load.Poisson{}, "load: poisson: rate 0" + want},
		{load.Poisson{Rate: -3}, "load: poisson: rate -3" + want},
		{load.Poisson{Rate: nan}, "load: poisson: rate NaN" + want},
		{load.Poisson{Rate: inf}, "load: poisson: rate +Inf: all at once is Burst"},
		{load.Poisson{Rate: -inf}, "load: poisson: rate -Inf" + want},
		{load.Poisson{Rate: 1e-300}, "load: call 0 would be due after 5.55e+299 s: the rate is too small for this number of calls"},
		{load.Constant{}, "load: constant: rate 0" + want},
		{load.Constant{Rate: nan}, "load: constant: rate NaN" + want},
		{load.Constant{Rate: inf}, "load: constant: rate +Inf: all at once is Burst"},
		{load.Gamma{}, "load: gamma: rate 0" + want},
		{load.Gamma{Rate: 5, Burstiness: -1}, "load: gamma: burstiness -1: want a number above 0"},
		{load.Gamma{Rate: 5, Burstiness: nan}, "load: gamma: burstiness NaN: want a number above 0"},
		{load.VLLM{}, "load: vllm: rate 0" + want},
		{load.VLLM{Rate: -1}, "load: vllm: rate -1" + want},
		{load.VLLM{Rate: nan}, "load: vllm: rate NaN" + want},
		{load.VLLM{Rate: 5, Burstiness: -1}, "load: vllm: burstiness -1: want a number above 0"},
		{load.Ramp{}, "load: linear ramp(0 to 0/s): rate 0" + want},
		{load.Ramp{From: -1, To: 5}, "load: linear ramp(-1 to 5/s): rate -1" + want},
		{load.Ramp{From: 1, To: nan}, "load: linear ramp(1 to NaN/s): rate NaN" + want},
		{load.Ramp{From: 1, To: inf}, "load: linear ramp(1 to +Inf/s): rate +Inf" + want},
		{load.Ramp{To: 5, Exponential: true}, "load: exponential ramp(0 to 5/s): rate 0" + want},
		{load.Ramp{From: 1, To: 5, Over: -1}, "load: linear ramp(1 to 5/s): the ramp takes -1ns"},
		{load.Ramp{From: 5, Over: time.Second}, "load: linear ramp(5 to 0/s over 1s): no more calls would come after the ramp: leave Over at 0"},
		{load.MMPP{}, "load: mmpp: rate 0" + want},
		{load.MMPP{High: 5, Calm: -1}, "load: mmpp: rate -1" + want},
		{load.MMPP{High: 5, Calm: nan}, "load: mmpp: rate NaN" + want},
		{load.MMPP{High: 5}, "load: mmpp: states that last 0s and 0s: want times above 0"},
		{load.Trace{Name: "t.csv"}, "load: trace t.csv holds no times"},
		{load.Trace{Name: "t.csv", Due: []time.Duration{1, 2}}, "load: trace t.csv holds 2 times, not 3"},
	} {
		_, err := c.a.Times(3, rand.New(rand.NewPCG(4, 4)))
		if strings.Contains(c.text, "would be due") {
			require.Error(t, err)
			assert.Regexp(t, `^load: call 0 would be due after \S+ s: the rate is too small for this number of calls$`, err.Error())
		} else {
			assert.EqualError(t, err, c.text)
		}
		// The run says the same, and makes no call.
		r, err2 := load.Run(t.Context(), load.Plan{Arrivals: c.a, Requests: 3, Seed: 4}, nil2)
		require.Error(t, err2, "%v", c.a)
		assert.Equal(t, load.Counts{NotSent: 3}, r.Counts)
	}
}

// processes are all of them, at rates around 1,000 calls/s.
func processes() []load.Arrivals {
	var due []time.Duration
	for i := range 4000 {
		due = append(due, time.Duration(i)*900*time.Microsecond+time.Duration(i%7)*100*time.Microsecond)
	}
	slices.Sort(due)
	return []load.Arrivals{
		load.Poisson{Rate: 1000},
		load.VLLM{Rate: 1000},
		load.VLLM{Rate: 1000, Burstiness: 0.3},
		load.VLLM{Rate: 1000, Burstiness: 6},
		load.Gamma{Rate: 1000, Burstiness: 0.4},
		load.Gamma{Rate: 1000, Burstiness: 5},
		load.Constant{Rate: 1000},
		load.Ramp{From: 200, To: 2000, Over: 3 * time.Second},
		load.Ramp{From: 1000, To: 0},
		load.Ramp{From: 200, To: 3000, Exponential: true},
		load.MMPP{Calm: 300, High: 3000, CalmFor: 300 * time.Millisecond, HighFor: 100 * time.Millisecond},
		load.MMPP{High: 2000, CalmFor: 200 * time.Millisecond, HighFor: 200 * time.Millisecond},
		load.Burst{},
		load.Trace{Name: "recorded", Due: due},
	}
}

func name(a load.Arrivals) string {
	return strings.NewReplacer(" ", "-", "/", "-per-").Replace(fmt.Sprint(a))
}
