package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Ramp is a Poisson process whose rate goes from From to To over the time Over and stays there: linearly, or exponentially
// (by the same factor in equal times). Over 0: as long as the run has calls, so that the last one is due near the end of the
// ramp. (vLLM's --ramp-up-strategy lets the rate follow the number of the call, and not the time; with Over 0 the ends are the same.)
type Ramp struct {
	From, To    float64 // calls/s; a linear ramp may begin or end at 0
	Over        time.Duration
	Exponential bool
}

func (r Ramp) shape() string {
	if r.Exponential {
		return "exponential"
	}
	return "linear"
}

func (r Ramp) String() string {
	s := fmt.Sprintf("%s ramp(%g to %g/s", r.shape(), r.From, r.To)
	if r.Over > 0 {
		s += fmt.Sprintf(" over %v", r.Over)
	}
	return s + ")"
}

func (r Ramp) check() error {
	for _, rate := range []float64{r.From, r.To} {
		switch {
		case math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0:
			return fmt.Errorf("load: %v: rate %v: %w", r, rate, errRate)
		case rate == 0 && (r.Exponential || r.From == r.To):
			return fmt.Errorf("load: %v: rate 0: %w", r, errRate)
		}
	}
	switch {
	case r.Over < 0:
		return fmt.Errorf("load: %v: the ramp takes %v", r, r.Over)
	case r.To == 0 && r.Over > 0:
		return fmt.Errorf("load: %v: no more calls would come after the ramp: leave Over at 0", r)
	}
	return nil
}

// over is the length of the ramp in seconds: without Over, the time in which it brings n calls on average.
func (r Ramp) over(n int) float64 {
	switch {
	case r.Over > 0:
		return r.Over.Seconds()
	case r.Exponential && r.From != r.To:
		return float64(n) * math.Log(r.To/r.From) / (r.To - r.From)
	default:
		return 2 * float64(n) / (r.From + r.To)
	}
}

// Times inverts the expected number of calls by t, at the times of a Poisson process of rate 1.
func (r Ramp) Times(n int, rng *rand.Rand) ([]time.Duration, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	over := r.over(n)
	at := make([]float64, n)
	unit := 0.0
	for i := range at {
		unit += rng.ExpFloat64()
		at[i] = r.when(unit, over)
	}
	return durations(at)
}

// expected is the mean number of calls by t seconds.
func (r Ramp) expected(t, over float64) float64 {
	in := min(t, over)
	var calls float64
	if r.Exponential && r.From != r.To {
		k := math.Log(r.To/r.From) / over
		calls = r.From * math.Expm1(k*in) / k
	} else {
		calls = r.From*in + (r.To-r.From)*in*in/(2*over)
	}
	return calls + r.last()*(t-in)
}

// last is the rate after the ramp. One that goes down to 0 must still bring the calls that chance has left over: they come at
// a tenth of its mean rate.
func (r Ramp) last() float64 {
	if r.To == 0 {
		return r.From / 20
	}
	return r.To
}

// when is the inverse of expected.
func (r Ramp) when(calls, over float64) float64 {
	if whole := r.expected(over, over); calls >= whole {
		return over + (calls-whole)/r.last()
	}
	if r.Exponential && r.From != r.To {
		k := math.Log(r.To/r.From) / over
		return math.Log1p(calls*k/r.From) / k
	}
	a := (r.To - r.From) / (2 * over)
	// The root of a t^2 + From t = calls in the form that loses no digits where a is small.
	return 2 * calls / (r.From + math.Sqrt(max(0, r.From*r.From+4*a*calls)))
}

// MMPP is a Markov-modulated Poisson process with two states: the rate is Calm and, now and then, High; how long each state
// lasts is exponential. It begins in either with the probability it has in the long run. Bursts of this kind overrun a queue that
// Poisson calls of the same mean rate do not.
type MMPP struct {
	Calm, High       float64       // calls/s; Calm may be 0
	CalmFor, HighFor time.Duration // mean stay
}

func (m MMPP) String() string {
	return fmt.Sprintf("mmpp(%g/s for %v, %g/s for %v)", m.Calm, m.CalmFor, m.High, m.HighFor)
}

// Mean is the rate in the long run, calls/s.
func (m MMPP) Mean() float64 {
	return (m.Calm*m.CalmFor.Seconds() + m.High*m.HighFor.Seconds()) / (m.CalmFor + m.HighFor).Seconds()
}

func (m MMPP) check() error {
	if err := checkRate("mmpp", m.High); err != nil {
		return err
	}
	if !(m.Calm >= 0) || math.IsInf(m.Calm, 1) {
		return fmt.Errorf("load: mmpp: rate %v: %w", m.Calm, errRate)
	}
	if m.CalmFor <= 0 || m.HighFor <= 0 {
		return fmt.Errorf("load: mmpp: states that last %v and %v: want times above 0", m.CalmFor, m.HighFor)
	}
	return nil
}

func (m MMPP) Times(n int, rng *rand.Rand) ([]time.Duration, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	rates := [2]float64{m.Calm, m.High}
	leave := [2]float64{1 / m.CalmFor.Seconds(), 1 / m.HighFor.Seconds()}
	state := 0
	if rng.Float64() < leave[0]/(leave[0]+leave[1]) { // the long-run probability of High is its share of the time
		state = 1
	}
	at := make([]float64, n)
	now := 0.0
	for i := 0; i < n; {
		// Whatever comes first, a call or the end of the state; both clocks have no memory.
		all := rates[state] + leave[state]
		now += rng.ExpFloat64() / all
		if rng.Float64()*all < rates[state] {
			at[i] = now
			i++
		} else {
			state = 1 - state
		}
	}
	return durations(at)
}
