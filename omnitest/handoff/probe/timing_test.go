package probe

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// The printed tables of the signed-rank test, 0.05 two-sided.
func TestSignedRankTail(t *testing.T) {
	for n, want := range map[int]int{5: -1, 6: 0, 7: 2, 8: 3, 9: 5, 10: 8, 12: 13, 15: 25, 20: 52, 25: 89} {
		assert.Equal(t, want, signedRankTail(n), "n = %d", n)
	}
}

// The depression scale factors of Hollander and Wolfe (table 3.1): they give 0.46, and 0.010 to 0.786 at 96.1 %.
func TestHodgesLehmann(t *testing.T) {
	x := []float64{1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30}
	y := []float64{0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29}
	for i := range x {
		x[i] -= y[i]
	}
	got, ok := hodgesLehmann(x)
	require.True(t, ok)
	assert.InDelta(t, 0.46, got.estimate, 0.005)
	assert.InDelta(t, 0.010, got.low, 0.0005)
	assert.InDelta(t, 0.786, got.high, 0.0005)
	_, ok = hodgesLehmann(x[:5])
	assert.False(t, ok, "five differences have no such interval")
	assert.True(t, math.IsNaN(median(nil)))
}

func TestHodgesLehmannProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SliceOfN(rapid.Float64Range(-100, 100), leastPairs, 30).Draw(t, "differences")
		a, _ := hodgesLehmann(d)
		assert.True(t, a.low <= a.estimate && a.estimate <= a.high, "%+v", a)
		for i := range d {
			d[i] += 7
		}
		b, _ := hodgesLehmann(d)
		assert.InDelta(t, a.low+7, b.low, 1e-9)
		assert.InDelta(t, a.estimate+7, b.estimate, 1e-9)
		assert.InDelta(t, a.high+7, b.high, 1e-9)
	})
}

// The interval holds the truth about as often as it says: 95.1 % for 10 pairs.
func TestHodgesLehmannCoverage(t *testing.T) {
	rng, held := rand.New(rand.NewPCG(1, 2)), 0
	for range 4000 {
		d := make([]float64, 10)
		for i := range d {
			d[i] = 3 + rng.NormFloat64()
		}
		if x, _ := hodgesLehmann(d); x.low <= 3 && 3 <= x.high {
			held++
		}
	}
	assert.InDelta(t, 0.951, float64(held)/4000, 0.01)
}

func TestJudgeTiming(t *testing.T) {
	const ms = time.Millisecond
	pairs := func(with, without time.Duration, n int) []timingPair {
		var all []timingPair
		for i := range n { // some pairs are slower as a whole, as on a busy machine
			f := time.Duration(i%3 + 1)
			all = append(all, timingPair{with * f, without * f, 2048})
		}
		return all
	}
	spanning := pairs(100*ms, 100*ms, 10)
	for i := range spanning {
		spanning[i].with += time.Duration(i%2*40-20) * ms
	}
	for _, c := range []struct {
		name  string
		pairs []timingPair
		want  string
	}{
		{"sooner", pairs(10*ms, 100*ms, 9), "proven: decode's first token came after 20.0 ms with a ticket, 200.0 ms without (medians of 9 pairs of 2048 tokens): ratio 0.10, 95 % interval 0.10 to 0.10"},
		{"spans 1", spanning, "inconclusive: advisory: decode's first token came after "},
		{"a few percent", pairs(97*ms, 100*ms, 10), "inconclusive: advisory: decode's first token came after "},
		{"later by a little", pairs(60*ms, 3*ms, 10), "inconclusive: advisory: "},
		{"later by much", pairs(400*ms, 100*ms, 9), "refuted: decode's first token came after 800.0 ms with a ticket, 200.0 ms without (medians of 9 pairs of 2048 tokens): ratio 4.00, 95 % interval 4.00 to 4.00: the ticket costs 600 ms (300 to 900), more than computing the prompt"},
		{"later now and then", append(pairs(10*ms, 10*ms, 8), timingPair{30 * time.Second, 10 * ms, 2048}, timingPair{30 * time.Second, 10 * ms, 2048}), "inconclusive: advisory: "},
		{"too few", pairs(10*ms, 100*ms, 5), "inconclusive: advisory: 5 pairs were measured, 6 are the fewest"},
		{"not measured", pairs(0, 100*ms, 9), "inconclusive: advisory: 0 pairs were measured, 6 are the fewest"},
	} {
		assert.Contains(t, judgeTiming(c.pairs).String(), c.want, c.name)
	}
}

func TestTransferTime(t *testing.T) {
	page := func(body string) *prom.Snapshot {
		s, err := prom.Parse([]byte("up 1\n" + body))
		require.NoError(t, err)
		return s
	}
	hist := func(sum, count string) *prom.Snapshot {
		return page("# TYPE vllm:nixl_xfer_time_seconds histogram\nvllm:nixl_xfer_time_seconds_bucket{le=\"+Inf\"} " + count +
			"\nvllm:nixl_xfer_time_seconds_sum " + sum + "\nvllm:nixl_xfer_time_seconds_count " + count + "\n")
	}
	for _, c := range []struct {
		before, after *prom.Snapshot
		want          string
		measured      bool
	}{
		{hist("1.0", "10"), hist("1.4", "20"), "a transfer took 40.0 ms (decode's mean of 10)", true},
		{hist("1.0", "10"), hist("1.0", "10"), "transfer time not measured: decode counted no transfer", false},
		{page(""), page(""), "transfer time not measured: vllm:nixl_xfer_time_seconds absent", false},
		{hist("1.0", "10"), hist("0.1", "1"), "transfer time not measured: vllm:nixl_xfer_time_seconds reset", false},
	} {
		numbers := map[string]float64{}
		assert.Equal(t, c.want, transferTime(c.before, c.after, numbers))
		_, measured := numbers["transfer_ms"]
		assert.Equal(t, c.measured, measured, "what was not measured is missing, never 0")
	}
}

func TestTimingCannotBeRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := fakepd.New(t)
	s := sourceOf(f)
	_, err := Timing(ctx, s, Options{}) // the scripted pair does not stream
	assert.ErrorContains(t, err, "timing: decode with, warm-up (decode): ")
	assert.ErrorContains(t, err, "asked for a stream")
	s.Decode.API = &api.Client{BaseURL: fakepd.Hanging(t)}
	r, err := Timing(ctx, s, Options{Limit: 100 * time.Millisecond})
	assert.ErrorContains(t, err, "timing: decode with, warm-up (decode): no answer within 100ms")
	assert.Equal(t, 2, r.Requests)
	r, err = Timing(ctx, s, Options{Rounds: 5})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: advisory: 5 pairs have no 95 % interval, 6 are the fewest", r.Verdict.String())
	assert.Zero(t, r.Requests)
	s.Dialect = &handoff.Example
	r, err = Timing(ctx, s, Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: advisory: connector example has no tickets", r.Verdict.String())
	_, err = Timing(ctx, handoff.Source{}, Options{})
	assert.Error(t, err)
	assert.NoError(t, ctx.Err())
}
