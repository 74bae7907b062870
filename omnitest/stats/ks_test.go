package stats_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/stats"
)

func TestKolmogorovD(t *testing.T) {
	assert.Zero(t, stats.KolmogorovD(nil))
	assert.InDelta(t, 0.5, stats.KolmogorovD([]float64{0.5}), 1e-15)
	assert.InDelta(t, 0.125, stats.KolmogorovD([]float64{0.875, 0.125, 0.375, 0.625}), 1e-15) // the best that four can do
	assert.InDelta(t, 0.75, stats.KolmogorovD([]float64{0.9, 0.75, 0.8, 0.85}), 1e-15)
	assert.InDelta(t, 1, stats.KolmogorovD([]float64{2, 3}), 1e-15)
	assert.InDelta(t, 1, stats.KolmogorovD([]float64{-2, -3}), 1e-15)
}

// Quantiles of the Kolmogorov law as tabulated (Smirnov 1948): the asymptotic critical values 1.2238, 1.3581 and 1.6276 for 10, 5 and
// 1 %. For n = 20 the exact tables (Miller 1956) give 0.26473, 0.29408 and 0.35241.
func TestKolmogorovP(t *testing.T) {
	for _, c := range []struct{ x, p float64 }{{0.5, 0.96394524}, {1, 0.26999967}, {1.2238, 0.10}, {1.3581, 0.05}, {1.6276, 0.01}, {2, 0.00067092}} {
		const n = 1e12
		assert.InDelta(t, c.p, stats.KolmogorovP(c.x/1e6, n), 5e-5, "x %v", c.x)
	}
	for _, c := range []struct{ d, p float64 }{{0.26473, 0.10}, {0.29408, 0.05}, {0.35241, 0.01}} {
		assert.InEpsilon(t, c.p, stats.KolmogorovP(c.d, 20), 0.03, "d %v", c.d)
	}
	assert.Equal(t, 1.0, stats.KolmogorovP(0, 10))
	assert.InDelta(t, 0, stats.KolmogorovP(1, 100), 1e-80)
	assert.True(t, math.IsNaN(stats.KolmogorovP(0.1, 0)))
	assert.True(t, math.IsNaN(stats.KolmogorovP(math.NaN(), 5)))
	// Both forms meet.
	assert.InDelta(t, stats.KolmogorovP(1.1799999e-6, 1e12), stats.KolmogorovP(1.1800001e-6, 1e12), 1e-6)
}

// Of uniform values 5 % are refused at 5 %, of others nearly all.
func TestKolmogorovIsCalibrated(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const tries, n = 600, 200
	refused, caught := 0, 0
	for range tries {
		u, v := make([]float64, n), make([]float64, n)
		for i := range u {
			u[i] = rng.Float64()
			v[i] = math.Pow(rng.Float64(), 1.5)
		}
		if stats.KolmogorovP(stats.KolmogorovD(u), n) < 0.05 {
			refused++
		}
		if stats.KolmogorovP(stats.KolmogorovD(v), n) < 0.05 {
			caught++
		}
	}
	assert.InDelta(t, 0.05*tries, refused, 17) // standard deviation 5.3
	assert.Greater(t, caught, tries*9/10)
}
