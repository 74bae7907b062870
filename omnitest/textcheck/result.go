package textcheck

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/omnitest/suite/omnitest/measure"
)

// Result is one question put to an answer: what was measured and what was wanted. Its Name is the stable name of the check:
// "repetition-loop", "entropy-collapse". Its Note tells where, and what was seen there.
type Result struct{ measure.Metric }

// ErrNotMeasured is an answer that cannot be asked the question: no log probabilities, no control, too short.
var ErrNotMeasured = errors.New("not measured")

// OK is true when the value keeps its bound. Unlike a metric that is only told, a question without a bound is never answered.
func (r Result) OK() bool { return r.Direction != "" && r.Metric.OK() }

// Err is nil when the value keeps its bound.
func (r Result) Err() error {
	switch {
	case r.OK():
		return nil
	case math.IsNaN(r.Value):
		return fmt.Errorf("%s %w: %s", r.Name, ErrNotMeasured, r.Note)
	}
	return errors.New(r.String())
}

// String gives `repetition-loop 0.9, want <= 0.25 (default): "ab" 40 times from character 11 of 91 to the end`.
func (r Result) String() string {
	s := fmt.Sprintf("%s %s, want %s %s (%s)", r.Name, number(r.Value), r.Direction, number(r.Bound), r.Key)
	if r.Note != "" {
		s += ": " + r.Note
	}
	return s
}

func number(v float64) string { return measure.Number(v) }

// ask opens a result: a question with its bound, and whose it is.
func (b Bounds) ask(check, direction string, bound float64) Result {
	return Result{measure.Metric{Name: check, Direction: direction, Bound: bound, Key: cmp.Or(b.Key, measure.Default)}}
}

// unmeasured is a question that could not be put.
func (r Result) unmeasured(why string, args ...any) Result {
	r.Value, r.Note = math.NaN(), fmt.Sprintf(why, args...)
	return r
}

// Bounds are what the checks of this package hold answers to. A zero field is its default; the constants say what each was
// measured on. Key names whose bounds they are, an engine, a model and a GPU class, and stands in every failure.
type Bounds struct {
	Key           string
	Loop          float64 // Default: LoopShare
	NearLoop      float64 // NearLoopShare
	EntropyFall   float64 // EntropyFall
	EntropyMove   float64 // EntropyMove, in nats
	Damaged       float64 // characters of mojibake; 0: none
	PartedShare   float64 // PartedShare
	OnsetGain     float64 // OnsetGain, in nats
	NeedleMissing float64 // NeedleMissing
}

func or(v, otherwise float64) float64 {
	if v == 0 {
		return otherwise
	}
	return v
}
