package textcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Result is one question put to an answer: what was measured and what was wanted.
type Result struct {
	Check     string  // stable name: "repetition-loop", "entropy-collapse", ...
	Value     float64 // NaN: not measured, which never passes
	Bound     float64
	Direction string // "<=", ">=": what the value must be to the bound
	Key       string // whose bound it is; "": the default
	Note      string // where, and what was seen there
}

// ErrNotMeasured is an answer that cannot be asked the question: no log probabilities, no control, too short.
var ErrNotMeasured = errors.New("not measured")

// OK is true when the value keeps its bound.
func (r Result) OK() bool {
	switch r.Direction {
	case "<=":
		return r.Value <= r.Bound // false for NaN
	case ">=":
		return r.Value >= r.Bound
	}
	return false
}

// Err is nil when the value keeps its bound.
func (r Result) Err() error {
	switch {
	case r.OK():
		return nil
	case math.IsNaN(r.Value):
		return fmt.Errorf("%s %w: %s", r.Check, ErrNotMeasured, r.Note)
	}
	return errors.New(r.String())
}

// String gives `repetition-loop 0.9, want <= 0.25 (default): "ab" 40 times from character 11 of 91 to the end`.
func (r Result) String() string {
	key := r.Key
	if key == "" {
		key = "default"
	}
	s := fmt.Sprintf("%s %s, want %s %s (%s)", r.Check, number(r.Value), r.Direction, number(r.Bound), key)
	if r.Note != "" {
		s += ": " + r.Note
	}
	return s
}

// MarshalJSON writes what was not measured as null.
func (r Result) MarshalJSON() ([]byte, error) {
	var value *float64
	if !math.IsNaN(r.Value) && !math.IsInf(r.Value, 0) {
		value = &r.Value
	}
	return json.Marshal(struct {
		Check     string   `json:"check"`
		Value     *float64 `json:"value"`
		Bound     float64  `json:"bound"`
		Direction string   `json:"direction"`
		Key       string   `json:"key,omitempty"`
		Note      string   `json:"note,omitempty"`
		OK        bool     `json:"ok"`
	}{r.Check, value, r.Bound, r.Direction, r.Key, r.Note, r.OK()})
}

func number(v float64) string {
	if math.IsNaN(v) {
		return "not measured"
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
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

// unmeasured is a question that could not be put.
func unmeasured(check, direction string, bound float64, key, why string, args ...any) Result {
	return Result{Check: check, Value: math.NaN(), Bound: bound, Direction: direction, Key: key, Note: fmt.Sprintf(why, args...)}
}
