package workload_test

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/workload"
)

func draw(t *testing.T, l workload.Length, n int) []int {
	t.Helper()
	require.NoError(t, l.Check())
	rng := rand.New(rand.NewPCG(7, 7))
	all := make([]int, n)
	for i := range all {
		all[i] = l.Draw(rng)
	}
	slices.Sort(all)
	return all
}

func mean(v []int) float64 {
	sum := 0
	for _, x := range v {
		sum += x
	}
	return float64(sum) / float64(len(v))
}

func TestLengths(t *testing.T) {
	const n = 20_000
	assert.Equal(t, []int{9, 9, 9}, draw(t, workload.Fixed(9), 3))

	// vLLM: floor((1-r) L) to ceil((1+r) L), both included, all alike. Of 101 and 0.25: 75.75 and 126.25.
	u := draw(t, workload.Uniform{Around: 101, Ratio: 0.25}, n)
	assert.Equal(t, 75, u[0])
	assert.Equal(t, 127, u[n-1])
	counts := map[int]int{}
	for _, x := range u {
		counts[x]++
	}
	assert.Len(t, counts, 127-75+1)
	for x, c := range counts { // 377 each, standard deviation 19
		assert.InDelta(t, float64(n)/53, c, 100, "length %d", x)
	}
	assert.Equal(t, 1, draw(t, workload.Uniform{Around: 1, Ratio: 0.9}, 100)[0], "never 0")

	l := draw(t, workload.LogNormal{Median: 400, Sigma: 0.8}, n)
	assert.InEpsilon(t, 400, l[n/2], 0.03)
	assert.InEpsilon(t, 400*math.Exp(0.32), mean(l), 0.03)         // exp(sigma^2 / 2)
	assert.InEpsilon(t, 400*math.Exp(0.8*1.2816), l[n*9/10], 0.04) // 90th percentile of a normal
	assert.InEpsilon(t, 400, mean(draw(t, workload.LogNormal{Mean: 400, Sigma: 0.8}, n)), 0.03)
	cut := draw(t, workload.LogNormal{Median: 400, Sigma: 0.8, Min: 100, Max: 1000}, n)
	assert.Equal(t, 100, cut[0])
	assert.Equal(t, 1000, cut[n-1])
	assert.Equal(t, math.MaxInt32, draw(t, workload.LogNormal{Median: 2, Sigma: 500}, 100)[99], "no overflow")

	q := draw(t, workload.Quantiles{Name: "q", At: []workload.Quantile{{0, 10}, {0.5, 20}, {1, 220}}}, n)
	assert.InDelta(t, 20, q[n/2], 2)
	assert.InDelta(t, 15, q[n/4], 1)
	assert.InDelta(t, 120, q[n*3/4], 5)
	assert.GreaterOrEqual(t, q[0], 10)
	assert.LessOrEqual(t, q[n-1], 220)

	e := draw(t, workload.Empirical{Name: "e", Values: []int{5, 7, 7, 7}}, n)
	assert.InDelta(t, 6.5, mean(e), 0.03)
}

// The presets give the means of the data that their quantiles were taken from, as far as quantiles can: what is inside an interval is
// taken as even.
func TestPresetsHaveTheMeansOfTheirSources(t *testing.T) {
	for _, c := range []struct {
		length workload.Length
		mean   float64
	}{
		{workload.ChatInput, 1154.70}, {workload.ChatOutput, 211.13}, {workload.CodeInput, 2047.85},
		{workload.PictureWords, 9.12}, {workload.EditWords, 12.18},
	} {
		assert.InEpsilon(t, c.mean, mean(draw(t, c.length, 100_000)), 0.10, "%v", c.length)
	}
	// The last percent reaches from 251 to 1,899 and is nearly all at its lower end: known by two quantiles, it comes out too long.
	assert.InDelta(t, 27.88, mean(draw(t, workload.CodeOutput, 100_000)), 10)
}

func TestBadLengths(t *testing.T) {
	for _, c := range []struct {
		length workload.Length
		text   string
	}{
		{workload.Fixed(0), "workload: length 0: want at least 1"},
		{workload.Fixed(-3), "workload: length -3: want at least 1"},
		{workload.Uniform{}, "workload: length 0: want at least 1"},
		{workload.Uniform{Around: 5, Ratio: 1}, "workload: range ratio 1: want 0 to below 1"},
		{workload.Uniform{Around: 5, Ratio: -0.1}, "workload: range ratio -0.1: want 0 to below 1"},
		{workload.Uniform{Around: 5, Ratio: math.NaN()}, "workload: range ratio NaN: want 0 to below 1"},
		{workload.LogNormal{}, "workload: lognormal: median 0: want at least 1"},
		{workload.LogNormal{Median: 5, Mean: 5}, "workload: lognormal: both a median and a mean"},
		{workload.LogNormal{Median: 5, Sigma: -1}, "workload: lognormal: sigma -1: want 0 or more"},
		{workload.LogNormal{Median: 5, Sigma: math.NaN()}, "workload: lognormal: sigma NaN: want 0 or more"},
		{workload.LogNormal{Median: math.Inf(1)}, "workload: lognormal: median +Inf: want at least 1"},
		{workload.LogNormal{Median: 5, Min: 9, Max: 8}, "workload: lognormal: min 9, max 8"},
		{workload.Quantiles{Name: "q"}, "workload: quantiles of q: want at least those of 0 and of 1"},
		{workload.Quantiles{Name: "q", At: []workload.Quantile{{0, 4}, {0.5, 3}, {1, 5}}}, "workload: quantiles of q: {0.5 3} does not follow"},
		{workload.Quantiles{Name: "q", At: []workload.Quantile{{0, 4}, {0, 5}, {1, 5}}}, "workload: quantiles of q: {0 5} does not follow"},
		{workload.Empirical{Name: "e"}, "workload: e holds no lengths"},
		{workload.Empirical{Name: "e", Values: []int{3, 0}}, "workload: e: length 0: want at least 1"},
	} {
		assert.EqualError(t, c.length.Check(), c.text)
		_, err := workload.Text{Input: c.length}.Requests(1)
		assert.EqualError(t, err, c.text)
		_, err = workload.Text{Output: c.length}.Requests(1)
		assert.EqualError(t, err, c.text)
	}
}

func TestLengthFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lengths.txt")
	require.NoError(t, os.WriteFile(path, []byte("# tokens\n512\n\n 7 \n"), 0o600))
	e, err := workload.OpenLengths(path)
	require.NoError(t, err)
	assert.Equal(t, workload.Empirical{Name: path, Values: []int{512, 7}}, e)
	for text, want := range map[string]string{
		"":                     "workload: f holds no lengths",
		"# none\n":             "workload: f holds no lengths",
		"4\n1.5\n":             `workload: f line 2: "1.5" is no length`,
		"4\n\n-1":              `workload: f line 3: "-1" is no length`,
		"NaN":                  `workload: f line 1: "NaN" is no length`,
		"99999999999999999999": `workload: f line 1: "99999999999999999999" is no length`,
	} {
		_, err := workload.ReadLengths(strings.NewReader(text), "f")
		assert.EqualError(t, err, want)
	}
	_, err = workload.OpenLengths(filepath.Join(t.TempDir(), "none"))
	assert.ErrorContains(t, err, "no such file")
}
