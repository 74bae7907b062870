// Package measure holds what every check of an answer has in common, whether the answer is a picture, a sound or a text: a
// value with the bound that judges it, and the folder in which a failure leaves its evidence. It knows no kind of answer and
// imports nothing of this module.
package measure

import (
	"encoding/json"
	"math"
	"strconv"
)

// What a value must be to its bound.
const (
	AtMost  = "<="
	AtLeast = ">="
)

// Default is the key of a bound that nobody has set for a set-up.
const Default = "default"

// Metric is one measured value with its bound.
type Metric struct {
	Name      string  // "text-0.ExtP256"
	Value     float64 // NaN: not measured, which never passes. +Inf: the PSNR of equal pictures
	Bound     float64
	Direction string  // "<=", ">=": what the value must be to the bound; "" for a metric that is only reported
	Warn      float64 // a stricter level, which the value should keep and may miss; 0: none
	Note      string  // "" or what the value belongs to: the text of a box, a unit
	Key       string  // whose bound it is: a row of a table, "default", "case over ..."; "" without a bound
}

// OK is true when the value keeps its bound or has none.
func (m Metric) OK() bool {
	if m.Direction == "" {
		return true
	}
	return m.keeps(m.Bound)
}

// Warned is true when the value keeps its bound and misses its warn level: worth showing, no failure.
func (m Metric) Warned() bool {
	return m.Warn != 0 && m.Direction != "" && m.OK() && !m.keeps(m.Warn)
}

func (m Metric) keeps(level float64) bool {
	switch m.Direction {
	case AtMost:
		return m.Value <= level // false for NaN
	case AtLeast:
		return m.Value >= level
	}
	return false // a direction with a typing error judges nothing, and nothing passes unjudged
}

// String gives `text-0.ExtP256 14, want <= 6 ("OPEN 24 HOURS")`; of a value that is warned of
// `PSNR 28.4, want >= 27, better >= 30 (dB)`.
func (m Metric) String() string {
	s := m.Name + " " + Number(m.Value)
	if m.Direction != "" {
		s += ", want " + m.Direction + " " + Number(m.Bound)
	}
	if m.Warned() {
		s += ", better " + m.Direction + " " + Number(m.Warn)
	}
	if m.Note != "" {
		s += " (" + m.Note + ")"
	}
	return s
}

// MarshalJSON writes values that JSON has no number for as strings: "not measured", "inf".
func (m Metric) MarshalJSON() ([]byte, error) {
	val := func(v float64) any {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return Number(v)
		}
		return v
	}
	out := struct {
		Name      string  `json:"name"`
		Value     any     `json:"value"`
		Bound     any     `json:"bound,omitempty"`
		Direction string  `json:"direction,omitempty"`
		Warn      float64 `json:"warn,omitempty"`
		Note      string  `json:"note,omitempty"`
		Key       string  `json:"key,omitempty"`
		OK        bool    `json:"ok"`
		Warned    bool    `json:"warned,omitempty"`
	}{Name: m.Name, Value: val(m.Value), Direction: m.Direction, Warn: m.Warn, Note: m.Note, Key: m.Key, OK: m.OK(), Warned: m.Warned()}
	if m.Direction != "" {
		out.Bound = val(m.Bound)
	}
	return json.Marshal(out)
}

// Number prints a value with as many digits as a reader can use: four, whole numbers whole.
func Number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "not measured"
	case math.IsInf(v, 1):
		return "inf"
	case math.IsInf(v, -1):
		return "-inf"
	case v == math.Trunc(v) && math.Abs(v) < 1e9:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// Warnings makes an observer of checks that shows every value that kept its bound and missed its warn level, so that a
// passing test still says it: "parity: PSNR 28.4, want >= 27, better >= 30 (dB)". It may be used by several goroutines if
// show may.
func Warnings(show func(string)) func(check string, metrics []Metric) {
	return func(check string, metrics []Metric) {
		for _, m := range metrics {
			if m.Warned() {
				show(check + ": " + m.String())
			}
		}
	}
}
