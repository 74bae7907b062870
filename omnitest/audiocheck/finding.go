package audiocheck

import (
	"cmp"
	"fmt"

	"github.com/omnitest/suite/omnitest/measure"
)

// finding collects what one check measures on one sound and turns it into nil or an *Error.
type finding struct {
	check   string
	prefix  string // opens the summary: "sound differs from golden"
	first   string // sentence of the first failure
	more    int    // failures after it
	bounds  Bounds
	source  string // of the bounds
	metrics []Metric
	remedy  string
	cause   error

	expected *Sound // what the evidence shows beside the sound itself; nil: nothing
	golden   string // path of the approved sound, where there is one
}

// check makes a Check of a function that fills a finding.
func check(name, prefix string, judge func(s Sound, f *finding)) Check {
	return func(s Sound) error {
		f := &finding{check: name, prefix: prefix}
		f.bounds, f.source = s.Case.bounds()
		switch {
		case s.derived == nil:
			f.fail("there is no sound (make one with ReadWAV, ReadPCM or Of)")
		case len(s.Samples) == 0:
			f.fail("it has no samples")
		default:
			judge(s, f)
		}
		for i := range f.metrics {
			if f.metrics[i].Direction != "" && f.metrics[i].Key == "" {
				f.metrics[i].Key = cmp.Or(f.source, measure.Default)
			}
		}
		if s.Case.Observe != nil {
			s.Case.Observe(name, f.metrics)
		}
		if f.first == "" {
			return nil
		}
		return f.report(s)
	}
}

// atMost records a metric and fails if it is above its bound. The sentence is "<what> 0.4, limit 0.1 (<unit>)".
func (f *finding) atMost(name string, value, bound float64, what, unit string) bool {
	return f.judge(Metric{Name: name, Value: value, Bound: bound, Direction: "<=", Note: unit}, what)
}

// atLeast is atMost for lower bounds: "<what> -61, at least -50 (<unit>)".
func (f *finding) atLeast(name string, value, bound float64, what, unit string) bool {
	return f.judge(Metric{Name: name, Value: value, Bound: bound, Direction: ">=", Note: unit}, what)
}

// note records a metric that has no bound.
func (f *finding) note(name string, value float64, note string) {
	f.metrics = append(f.metrics, Metric{Name: name, Value: value, Note: note})
}

func (f *finding) judge(m Metric, what string) bool {
	f.metrics = append(f.metrics, m)
	if m.OK() {
		return true
	}
	limit, unit := "limit", ""
	if m.Direction == ">=" {
		limit = "at least"
	}
	if m.Note != "" {
		unit = " (" + m.Note + ")"
	}
	f.fail("%s %s, %s %s%s", what, number(m.Value), limit, number(m.Bound), unit)
	return false
}

// fail records a failure that is no number.
func (f *finding) fail(format string, args ...any) {
	if f.first == "" {
		f.first = fmt.Sprintf(format, args...)
		return
	}
	f.more++
}

// report writes the evidence, then makes the error.
func (f *finding) report(s Sound) *Error {
	summary := f.prefix + ": " + f.first
	if f.more > 0 {
		summary += fmt.Sprintf("; and %d more", f.more)
	}
	e := &Error{Check: f.check, Summary: summary, Metrics: f.metrics, Case: s.Case, Bounds: f.source, Remedy: f.remedy, Err: f.cause}
	e.Files.Golden = f.golden
	if s.Case.Dir != "" && s.derived != nil {
		if err := f.keep(s, e); err != nil && e.Err == nil {
			e.Err = fmt.Errorf("evidence not complete: %w", err)
		}
	}
	return e
}
