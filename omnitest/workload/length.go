package workload

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Length is a distribution of lengths: tokens of a prompt or of an answer, words of a picture's prompt. Its values are here:
// [Fixed], [Uniform], [LogNormal], [Quantiles] and [Empirical].
type Length interface {
	// Draw gives a length of at least 1. It is called only after Check was nil.
	Draw(rng *rand.Rand) int
	Check() error   // why nothing can be drawn; nil: it can
	String() string // with its parameters, for results
}

// Fixed is one length for all.
type Fixed int

func (f Fixed) Draw(*rand.Rand) int { return int(f) }
func (f Fixed) String() string      { return fmt.Sprintf("fixed %d", int(f)) }

func (f Fixed) Check() error {
	if f < 1 {
		return fmt.Errorf("workload: length %d: want at least 1", int(f))
	}
	return nil
}

// Uniform draws whole numbers from [(1-Ratio) Around, (1+Ratio) Around], the lower end rounded down and the upper one up, both
// included: --random-input-len, --random-output-len and --random-range-ratio of `vllm bench serve` 0.32 (get_sampling_params). The Rust client
// of vLLM means [Ratio x Around, Around] by the same flag: Uniform{Around: (1+r)/2 x L, Ratio: (1-r)/(1+r)}.
type Uniform struct {
	Around int
	Ratio  float64 // 0 to below 1
}

func (u Uniform) bounds() (low, high int) {
	low = int(math.Floor(float64(u.Around) * (1 - u.Ratio)))
	high = int(math.Ceil(float64(u.Around) * (1 + u.Ratio)))
	return max(low, 1), high
}

func (u Uniform) Draw(rng *rand.Rand) int {
	low, high := u.bounds()
	return low + rng.IntN(high-low+1)
}

func (u Uniform) String() string {
	low, high := u.bounds()
	return fmt.Sprintf("uniform %d to %d", low, high)
}

func (u Uniform) Check() error {
	if u.Around < 1 {
		return fmt.Errorf("workload: length %d: want at least 1", u.Around)
	}
	if !(u.Ratio >= 0 && u.Ratio < 1) {
		return fmt.Errorf("workload: range ratio %v: want 0 to below 1", u.Ratio)
	}
	return nil
}

// LogNormal draws exp(ln Median + Sigma z), rounded. What falls below Min or above Max is set to it.
type LogNormal struct {
	Median   float64
	Mean     float64 // instead of Median: Median = Mean exp(-Sigma^2/2)
	Sigma    float64 // standard deviation of the logarithm
	Min, Max int     // 0: 1, and no bound
}

func (l LogNormal) median() float64 {
	if l.Median == 0 {
		return l.Mean * math.Exp(-l.Sigma*l.Sigma/2)
	}
	return l.Median
}

func (l LogNormal) Draw(rng *rand.Rand) int {
	x := math.Round(l.median() * math.Exp(l.Sigma*rng.NormFloat64()))
	high := math.MaxInt32 // longer than any context
	if l.Max > 0 {
		high = l.Max
	}
	return max(int(min(x, float64(high))), l.Min, 1)
}

func (l LogNormal) String() string {
	s := fmt.Sprintf("lognormal median %g sigma %g", l.median(), l.Sigma)
	if l.Min > 0 {
		s += fmt.Sprintf(" min %d", l.Min)
	}
	if l.Max > 0 {
		s += fmt.Sprintf(" max %d", l.Max)
	}
	return s
}

func (l LogNormal) Check() error {
	switch {
	case l.Median != 0 && l.Mean != 0:
		return errors.New("workload: lognormal: both a median and a mean")
	case !(l.Sigma >= 0) || math.IsInf(l.Sigma, 1):
		return fmt.Errorf("workload: lognormal: sigma %v: want 0 or more", l.Sigma)
	case !(l.median() >= 1) || math.IsInf(l.median(), 1):
		return fmt.Errorf("workload: lognormal: median %v: want at least 1", l.median())
	case l.Min < 0 || l.Max < 0 || l.Max > 0 && l.Min > l.Max:
		return fmt.Errorf("workload: lognormal: min %d, max %d", l.Min, l.Max)
	}
	return nil
}

// Quantile says that a share P of all lengths is at most N.
type Quantile struct{ P, N float64 }

// Quantiles is a distribution known by some of its quantiles, linear between them. The first must be that of 0, the last that of 1.
type Quantiles struct {
	Name string // of the source, for results
	At   []Quantile
}

func (q Quantiles) Draw(rng *rand.Rand) int {
	u := rng.Float64()
	i := sort.Search(len(q.At)-1, func(i int) bool { return q.At[i+1].P >= u })
	a, b := q.At[i], q.At[i+1]
	return max(1, int(math.Round(a.N+(b.N-a.N)*(u-a.P)/(b.P-a.P))))
}

func (q Quantiles) String() string { return "quantiles of " + q.Name }

func (q Quantiles) Check() error {
	if len(q.At) < 2 || q.At[0].P != 0 || q.At[len(q.At)-1].P != 1 {
		return fmt.Errorf("workload: quantiles of %s: want at least those of 0 and of 1", q.Name)
	}
	for i, a := range q.At {
		if !(a.N >= 1) || a.N > math.MaxInt32 || i > 0 && (!(a.P > q.At[i-1].P) || a.N < q.At[i-1].N) {
			return fmt.Errorf("workload: quantiles of %s: %v does not follow", q.Name, a)
		}
	}
	return nil
}

// Empirical draws from lengths that were measured, each as likely as the others.
type Empirical struct {
	Name   string // of the source, for results
	Values []int
}

func (e Empirical) Draw(rng *rand.Rand) int { return e.Values[rng.IntN(len(e.Values))] }

func (e Empirical) String() string { return fmt.Sprintf("%d lengths of %s", len(e.Values), e.Name) }

func (e Empirical) Check() error {
	if len(e.Values) == 0 {
		return fmt.Errorf("workload: %s holds no lengths", e.Name)
	}
	if low := slices.Min(e.Values); low < 1 {
		return fmt.Errorf("workload: %s: length %d: want at least 1", e.Name, low)
	}
	return nil
}

// OpenLengths reads a file of lengths, one a line; lines that begin with # are left out.
func OpenLengths(path string) (Empirical, error) {
	f, err := os.Open(path)
	if err != nil {
		return Empirical{}, fmt.Errorf("workload: %w", err)
	}
	defer f.Close()
	return ReadLengths(f, path)
}

// ReadLengths is OpenLengths for what is open already.
func ReadLengths(r io.Reader, name string) (Empirical, error) {
	e := Empirical{Name: name}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < 1 {
			return Empirical{}, fmt.Errorf("workload: %s line %d: %q is no length", name, n, text)
		}
		e.Values = append(e.Values, v)
	}
	if err := lines.Err(); err != nil {
		return Empirical{}, fmt.Errorf("workload: %s: %w", name, err)
	}
	return e, e.Check()
}
