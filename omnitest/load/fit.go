package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"gonum.org/v1/gonum/mathext"

	"github.com/omnitest/suite/omnitest/stats"
)

// Fit is a Kolmogorov-Smirnov test of the times at which calls were sent against the process they were planned by. Below P 0.01 they
// are not that process: the client drifted, or could not keep up.
type Fit struct {
	N    int     // values compared
	D, P float64 // distance, and the probability of this distance or more
}

func (f Fit) String() string { return fmt.Sprintf("KS D %.4f, p %.3g (n %d)", f.D, f.P, f.N) }

// fixedSlack is how late a call may be where nothing about its time is random.
const fixedSlack = 5 * time.Millisecond

// FitTimes tests sent times against the process and the schedule that it gave. A random process is tested by its own law: each gap,
// given what came before, is turned into a number that is even on 0 to 1 if the process is the right one (Rosenblatt 1952). Of
// processes that hold nothing random, and of those of other packages, the schedule itself is the law, and D is the largest share of calls that is
// more than 5 ms behind or ahead of it.
func FitTimes(a Arrivals, due, sent []time.Duration) Fit {
	at := make([]float64, len(sent))
	for i, d := range sent {
		at[i] = d.Seconds()
	}
	slices.Sort(at)
	if l, ok := a.(law); ok {
		if u := l.uniforms(at, due); u != nil {
			d := stats.KolmogorovD(u)
			return Fit{N: len(u), D: d, P: stats.KolmogorovP(d, len(u))}
		}
	}
	off := 0
	for i, t := range at {
		if math.Abs(t-due[i].Seconds()) > fixedSlack.Seconds() {
			off++
		}
	}
	d := float64(off) / float64(len(at))
	return Fit{N: len(at), D: d, P: stats.KolmogorovP(d, len(at))}
}

// Fit tests the sent times of an open loop, less the waits for a slot. A run that is incomplete, or closed, has no such test.
func (r *Result) Fit() (Fit, error) {
	if r.Plan.Arrivals == nil {
		return Fit{}, errors.New("load: a closed loop has no arrival process")
	}
	var due, sent []time.Duration
	for i := range r.Calls {
		c := &r.Calls[i]
		if c.Turn > 0 {
			continue
		}
		if c.State == NotSent {
			return Fit{}, fmt.Errorf("load: call %d was not sent: the run does not have its process", c.Index)
		}
		due, sent = append(due, c.Due), append(sent, c.Sent-c.Queue)
	}
	return FitTimes(r.Plan.Arrivals, due, sent), nil
}

// law is a process that knows the distribution of each gap after what came before.
type law interface {
	// uniforms gives a number from 0 to 1 for each of the ascending times in seconds; nil: nothing in them is random.
	uniforms(at []float64, due []time.Duration) []float64
}

// each turns the gaps, the first from 0, into numbers.
func each(at []float64, of func(i int, gap float64) float64) []float64 {
	u := make([]float64, len(at))
	last := 0.0
	for i, t := range at {
		u[i] = of(i, max(0, t-last))
		last = t
	}
	return u
}

func (p Poisson) uniforms(at []float64, _ []time.Duration) []float64 {
	return each(at, func(_ int, gap float64) float64 { return -math.Expm1(-p.Rate * gap) })
}

func (g Gamma) uniforms(at []float64, _ []time.Duration) []float64 {
	b := orOne(g.Burstiness)
	if math.IsInf(b, 1) {
		return nil
	}
	return each(at, func(_ int, gap float64) float64 { return mathext.GammaIncReg(b, g.Rate*b*gap) })
}

// uniforms uses that n gamma gaps over their sum are Dirichlet: each is, of what the gaps before have left, a beta(b, b m) share,
// where m gaps follow. The last gap has no freedom.
func (v VLLM) uniforms(at []float64, due []time.Duration) []float64 {
	b, n := orOne(v.Burstiness), len(at)
	whole := float64(n) / v.Rate
	if math.IsInf(b, 1) || math.IsInf(v.Rate, 1) || len(due) != n || n < 2 || math.Abs(due[n-1].Seconds()-whole) > 1e-6 {
		return nil // constant, all at once, or cut by a Duration
	}
	left := whole
	return each(at[:n-1], func(i int, gap float64) float64 {
		share := 1.0
		if left > 0 {
			share = min(1, gap/left)
		}
		left -= gap
		return mathext.RegIncBeta(b, b*float64(n-1-i), share)
	})
}

// uniforms uses that the expected number of calls until each call is a Poisson process of rate 1.
func (r Ramp) uniforms(at []float64, _ []time.Duration) []float64 {
	over, last := r.over(len(at)), 0.0
	u := make([]float64, len(at))
	for i, t := range at {
		now := r.expected(t, over)
		u[i] = -math.Expm1(last - now)
		last = now
	}
	return u
}

// uniforms follows how probable either state is, given the calls so far. Between calls the pair of probabilities that the state is s and
// no call has come is the row p exp((Q - L) t), with Q the rates of change and L the rates of calls; a call multiplies it by L.
func (m MMPP) uniforms(at []float64, _ []time.Duration) []float64 {
	q0, q1 := 1/m.CalmFor.Seconds(), 1/m.HighFor.Seconds()
	p0, p1 := q1/(q0+q1), q0/(q0+q1)
	a, d := -(q0 + m.Calm), -(q1 + m.High)
	middle, s := (a+d)/2, math.Sqrt((a-d)*(a-d)/4+q0*q1)
	return each(at, func(_ int, gap float64) float64 {
		slow, fast := math.Exp((middle+s)*gap), math.Exp((middle-s)*gap)
		even, odd := (slow+fast)/2, (slow-fast)/(2*s) // exp = even I + odd (Q - L - middle I)
		r0 := p0*(even+odd*(a-middle)) + p1*odd*q1
		r1 := p0*odd*q0 + p1*(even+odd*(d-middle))
		u := 1 - (r0 + r1)
		r0, r1 = r0*m.Calm, r1*m.High
		if sum := r0 + r1; sum > 0 {
			p0, p1 = r0/sum, r1/sum
		} else { // a gap so long that nothing of it is left in the numbers
			p0, p1 = 0, 1
		}
		return u
	})
}
