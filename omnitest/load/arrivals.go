package load

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Arrivals is an arrival process: a name, and a pure function from a number of calls and random numbers to the times at which
// they are due. Its values are here: [Poisson], [VLLM], [Gamma], [Constant], [Ramp], [MMPP], [Burst] and [Trace].
type Arrivals interface {
	// Times gives the due times of n >= 1 calls since the start of the run, ascending from 0 on. The same numbers give the same
	// times. An impossible process (a rate of 0, an empty trace) is an error.
	Times(n int, rng *rand.Rand) ([]time.Duration, error)
	// String is the name with its parameters, for results: "poisson(10/s)".
	String() string
}

// Poisson calls have exponential gaps, the first one included: users who know nothing of each other. The number of calls in a
// time varies as it does in the field, and so does the achieved rate of a short run (by 1/sqrt(n)).
type Poisson struct{ Rate float64 } // calls/s

func (p Poisson) String() string { return fmt.Sprintf("poisson(%g/s)", p.Rate) }

func (p Poisson) Times(n int, rng *rand.Rand) ([]time.Duration, error) {
	if err := checkRate("poisson", p.Rate); err != nil {
		return nil, err
	}
	return cumulate(n, func() float64 { return rng.ExpFloat64() / p.Rate })
}

// Gamma calls have gamma-distributed gaps of mean 1/Rate and squared coefficient of variation 1/Burstiness: below 1 they come in
// bursts, 1 is Poisson, above 1 they are more even.
type Gamma struct {
	Rate       float64 // calls/s
	Burstiness float64 // shape; 0: 1. +Inf: constant gaps
}

func (g Gamma) String() string {
	return fmt.Sprintf("gamma(%g/s, burstiness %g)", g.Rate, orOne(g.Burstiness))
}

func (g Gamma) Times(n int, rng *rand.Rand) ([]time.Duration, error) {
	gap, err := gammaGap("gamma", g.Rate, g.Burstiness, rng)
	if err != nil {
		return nil, err
	}
	return cumulate(n, gap)
}

// VLLM is the schedule of `vllm bench serve` (--request-rate, --burstiness): gamma gaps, cumulated, and then all multiplied so
// that the last call is due at n/Rate. So every run has the same length, and the number of calls in a time varies less than that
// of a Poisson process. Rate +Inf is all at once, as there.
//
// Source: vllm/benchmarks/serve.py, get_request. It draws from numpy's generator: for the very same times export one schedule and
// give it to both tools.
type VLLM struct {
	Rate       float64 // --request-rate, calls/s
	Burstiness float64 // --burstiness; 0: 1
}

func (v VLLM) String() string {
	return fmt.Sprintf("vllm(%g/s, burstiness %g)", v.Rate, orOne(v.Burstiness))
}

func (v VLLM) Times(n int, rng *rand.Rand) ([]time.Duration, error) {
	if math.IsInf(v.Rate, 1) {
		return make([]time.Duration, n), nil
	}
	gap, err := gammaGap("vllm", v.Rate, v.Burstiness, rng)
	if err != nil {
		return nil, err
	}
	at := make([]float64, n)
	sum := 0.0
	for i := range at {
		sum += gap()
		at[i] = sum
	}
	if sum > 0 { // a tiny burstiness can draw gaps of 0 alone
		for i := range at {
			at[i] *= float64(n) / v.Rate / sum
		}
	}
	return durations(at)
}

// Constant calls come at equal distances, the first at 0. (The "constant" of inference-perf has exponential gaps.)
type Constant struct{ Rate float64 } // calls/s

func (c Constant) String() string { return fmt.Sprintf("constant(%g/s)", c.Rate) }

func (c Constant) Times(n int, _ *rand.Rand) ([]time.Duration, error) {
	if err := checkRate("constant", c.Rate); err != nil {
		return nil, err
	}
	at := make([]float64, n)
	for i := range at {
		at[i] = float64(i) / c.Rate // no sum: it would drift by its rounding
	}
	return durations(at)
}

// Burst calls are all due at once.
type Burst struct{}

func (Burst) String() string { return "burst" }

func (Burst) Times(n int, _ *rand.Rand) ([]time.Duration, error) {
	return make([]time.Duration, n), nil
}

func orOne(v float64) float64 {
	if v == 0 {
		return 1
	}
	return v
}

var errRate = errors.New("want a number of calls per second above 0")

func checkRate(process string, rate float64) error {
	if math.IsInf(rate, 1) {
		return fmt.Errorf("load: %s: rate +Inf: all at once is Burst", process)
	}
	if !(rate > 0) {
		return fmt.Errorf("load: %s: rate %v: %w", process, rate, errRate)
	}
	return nil
}

func gammaGap(process string, rate, burstiness float64, rng *rand.Rand) (func() float64, error) {
	if err := checkRate(process, rate); err != nil {
		return nil, err
	}
	b := orOne(burstiness)
	switch {
	case !(b > 0):
		return nil, fmt.Errorf("load: %s: burstiness %v: want a number above 0", process, burstiness)
	case math.IsInf(b, 1):
		return func() float64 { return 1 / rate }, nil
	case b == 1:
		return func() float64 { return rng.ExpFloat64() / rate }, nil
	}
	return func() float64 { return gamma(b, rng) / (rate * b) }, nil
}

// gamma draws from the gamma distribution of this shape and scale 1. Source: Marsaglia and Tsang, "A simple method for
// generating gamma variables", 2000; below shape 1 with their boost by U^(1/shape).
func gamma(shape float64, rng *rand.Rand) float64 {
	if shape < 1 {
		return gamma(shape+1, rng) * math.Pow(1-rng.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v *= v * v
		if math.Log(1-rng.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

func cumulate(n int, gap func() float64) ([]time.Duration, error) {
	at := make([]float64, n)
	sum := 0.0
	for i := range at {
		sum += gap()
		at[i] = sum
	}
	return durations(at)
}

// durations converts seconds.
func durations(at []float64) ([]time.Duration, error) {
	due := make([]time.Duration, len(at))
	for i, s := range at {
		if ns := s * 1e9; ns < math.MaxInt64 {
			due[i] = time.Duration(math.Round(ns))
		} else {
			return nil, fmt.Errorf("load: call %d would be due after %g s: the rate is too small for this number of calls", i, s)
		}
	}
	return due, nil
}
