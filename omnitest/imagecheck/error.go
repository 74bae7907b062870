package imagecheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Metric is one measured value with its bound.
type Metric struct {
	Name      string  // "text-0.ExtP256"
	Value     float64 // NaN: not measured, which never passes. +Inf: the PSNR of equal pictures
	Bound     float64
	Direction string // "<=", ">=" : what the value must be to the bound; "" for a metric that is only reported
	Note      string // "" or what the value belongs to: the text of a box, a unit
	Key       string // where the bound comes from: the Key of a Row, "default", "case over ..."; "" without a bound
}

// OK is true when the value keeps its bound or has none.
func (m Metric) OK() bool {
	switch m.Direction {
	case "<=":
		return m.Value <= m.Bound // false for NaN
	case ">=":
		return m.Value >= m.Bound
	}
	return true
}

// String gives `text-0.ExtP256 14, want <= 6 ("OPEN 24 HOURS")`.
func (m Metric) String() string {
	s := m.Name + " " + number(m.Value)
	if m.Direction != "" {
		s += ", want " + m.Direction + " " + number(m.Bound)
	}
	if m.Note != "" {
		s += " (" + m.Note + ")"
	}
	return s
}

// MarshalJSON writes values that JSON has no number for as strings.
func (m Metric) MarshalJSON() ([]byte, error) {
	val := func(v float64) any {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return number(v)
		}
		return v
	}
	out := struct {
		Name      string `json:"name"`
		Value     any    `json:"value"`
		Bound     any    `json:"bound,omitempty"`
		Direction string `json:"direction,omitempty"`
		Note      string `json:"note,omitempty"`
		Key       string `json:"key,omitempty"`
		OK        bool   `json:"ok"`
	}{Name: m.Name, Value: val(m.Value), Direction: m.Direction, Note: m.Note, Key: m.Key, OK: m.OK()}
	if m.Direction != "" {
		out.Bound = val(m.Bound)
	}
	return json.Marshal(out)
}

// number prints a value with as many digits as a reader can use.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "not measured"
	case math.IsInf(v, 1):
		return "inf"
	case v == math.Trunc(v) && math.Abs(v) < 1e9:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// Files are the paths of the evidence of one failure; "" where there is none.
type Files struct {
	Dir    string // the folder that holds them, with metrics.json
	Got    string // actual.png, or raw.bin where decoding failed
	Golden string // the approved picture, or expected.png
	Diff   string // side-by-side.png
	Replay string // repro.sh
}

// Error is a failed check: a small report. Its text is for people; the fields are for programs.
type Error struct {
	Check   string   // stable name of the check: "size", "format", "not-blank", "golden", "text", "edit-outside", ...
	Summary string   // the first line: what is wrong, with value and limit
	Metrics []Metric // everything the check measured, also what kept its bound
	Case    Case
	Key     *Key // provenance of the golden; nil where none is involved
	Files   Files
	Remedy  string // what to do, where that is known
	Err     error  // cause, or a failure to write the evidence; nil: none

	names []error // what errors.Is finds beside the cause: ErrSize, ErrKey, ...
}

// Is tells the named errors of this package apart: errors.Is(err, ErrSize).
func (e *Error) Is(target error) bool {
	return slices.ContainsFunc(e.names, func(n error) bool { return errors.Is(n, target) })
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Error gives the report, several lines without a final newline.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Summary)
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "\n  %-7s %s", label, text)
		}
	}
	for _, m := range e.Metrics {
		if !m.OK() {
			text := m.String()
			if m.Key != "" && m.Key != "default" {
				text += "   bounds of " + m.Key
			}
			line("metric", text)
		}
	}
	line("case", e.Case.line())
	if e.Key != nil {
		line("key", e.Key.String())
	}
	var first, files string
	expected := "golden"
	if e.Key == nil {
		expected = "expected" // another picture of this test, not an approved one
	}
	for _, f := range []struct{ label, path string }{
		{"got", e.Files.Got}, {expected, e.Files.Golden}, {"diff", e.Files.Diff}, {"replay", e.Files.Replay},
	} {
		switch {
		case f.path == "":
		case first == "":
			first, files = f.label, f.path
		default:
			files += "   " + f.label + " " + f.path
		}
	}
	line(first, files)
	if e.Err != nil {
		line("cause", e.Err.Error())
	}
	line("remedy", e.Remedy)
	line("stack", e.Case.Stack)
	return b.String()
}

// line is the request in one line.
func (c Case) line() string {
	var parts []string
	if c.Name != "" {
		parts = append(parts, c.Name)
	}
	if c.Prompt != "" {
		parts = append(parts, "prompt "+strconv.Quote(clip(c.Prompt, 80)))
	}
	var nums []string
	if c.Size.W > 0 {
		nums = append(nums, "size "+c.Size.String())
	}
	if c.Steps > 0 {
		nums = append(nums, "steps "+strconv.Itoa(c.Steps))
	}
	if len(parts)+len(nums) > 0 {
		nums = append(nums, "seed "+strconv.FormatInt(c.Seed, 10))
	}
	if len(nums) > 0 {
		parts = append(parts, strings.Join(nums, "  "))
	}
	return strings.Join(parts, "   ")
}

// clip shortens to n runes: prompts of drawing tests can be pages long.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-3]) + "..."
}
