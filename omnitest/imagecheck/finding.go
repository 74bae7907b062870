package imagecheck

import (
	"fmt"
	"image"
)

// finding collects what one check measures on one picture and turns it into nil or an *Error.
type finding struct {
	check   string
	prefix  string // opens the summary: "image differs from golden"
	first   string // sentence of the first failure
	more    int    // failures after it
	bounds  Bounds
	metrics []Metric
	key     *Key
	remedy  string
	cause   error
	names   []error // see Error.Is

	// What the evidence shows beside the picture itself.
	expected *image.RGBA     // nil: nothing to compare with
	input    bool            // expected is what was given to be edited
	golden   string          // path of the approved picture, where there is one
	judged   *tileSet        // tiles the check judged; nil: all
	regions  []image.Image   // where an edit may change something
	worst    image.Rectangle // the place that decided, where expected and picture can be compared
	marks    []mark          // places to be outlined in the picture
	texts    []textView
	readings []readView
}

// check makes a Check of a function that fills a finding.
func check(name, prefix string, measure func(p Picture, f *finding)) Check {
	return func(p Picture) error {
		if p.derived == nil {
			return &Error{Check: name, Case: p.Case, Summary: prefix + ": there is no picture (make one with Decode or Of)"}
		}
		f := &finding{check: name, prefix: prefix}
		var key string
		f.bounds, key = p.Case.bounds()
		if p.Image.Rect.Empty() {
			f.fail("it is empty, %s pixels", p.Size())
		} else {
			measure(p, f)
		}
		for i := range f.metrics {
			if f.metrics[i].Direction != "" && f.metrics[i].Key == "" {
				f.metrics[i].Key = key
			}
		}
		if p.Case.Observe != nil {
			p.Case.Observe(name, f.metrics)
		}
		if f.first == "" {
			return nil
		}
		return f.report(p)
	}
}

// atMost records a metric and fails if it is above its bound. The sentence is printed as "<what> 14, limit 6 (<unit>)".
func (f *finding) atMost(name string, value, bound float64, what, unit string) bool {
	return f.judge(Metric{Name: name, Value: value, Bound: bound, Direction: "<="}, what, unit)
}

// atLeast is atMost for lower bounds: "<what> 0.31, at least 0.95 (<unit>)".
func (f *finding) atLeast(name string, value, bound float64, what, unit string) bool {
	return f.judge(Metric{Name: name, Value: value, Bound: bound, Direction: ">="}, what, unit)
}

// atLeastBetter is atLeast with a warn level above the bound: what lies between is shown and passes. A level that a stricter
// bound has overtaken is none.
func (f *finding) atLeastBetter(name string, value, bound, warn float64, what, unit string) bool {
	if warn <= bound {
		warn = 0
	}
	return f.judge(Metric{Name: name, Value: value, Bound: bound, Warn: warn, Direction: ">="}, what, unit)
}

// note records a metric that has no bound.
func (f *finding) note(name string, value float64, note string) {
	f.metrics = append(f.metrics, Metric{Name: name, Value: value, Note: note})
}

func (f *finding) judge(m Metric, what, unit string) bool {
	f.metrics = append(f.metrics, m)
	if m.OK() {
		return true
	}
	limit := "limit"
	if m.Direction == ">=" {
		limit = "at least"
	}
	if unit != "" {
		unit = " (" + unit + ")"
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

// called gives the failure a name that errors.Is finds; its text stays as it is.
func (f *finding) called(e error) { f.names = append(f.names, e) }

// asked records metrics whose bound is the request itself, which no table can change.
func (f *finding) asked(metrics ...Metric) {
	for _, m := range metrics {
		m.Key = keyRequest
		f.metrics = append(f.metrics, m)
	}
}

// keyRequest is the key of bounds that are the request's own: a count, a size.
const keyRequest = "request"

// sameSize fails and returns false if the two cannot be compared pixel by pixel. A mismatch is never skipped.
func (f *finding) sameSize(p, other Picture, otherName string) bool {
	if other.derived == nil {
		f.fail("there is no %s to compare with", otherName)
		return false
	}
	if p.Size() != other.Size() {
		f.called(ErrSize)
		f.fail("it is %s, the %s is %s", p.Size(), otherName, other.Size())
		return false
	}
	return true
}

// report writes the evidence, then makes the error.
func (f *finding) report(p Picture) *Error {
	summary := f.prefix + ": " + f.first
	if f.more > 0 {
		summary += fmt.Sprintf("; and %d more", f.more)
	}
	e := &Error{Check: f.check, Summary: summary, Metrics: f.metrics, Case: p.Case, Key: f.key, Remedy: f.remedy, Err: f.cause, names: f.names}
	e.Files.Golden = f.golden
	if p.Case.Dir != "" {
		if err := f.keep(p, e); err != nil && e.Err == nil {
			e.Err = fmt.Errorf("evidence not complete: %w", err)
		}
	}
	return e
}
