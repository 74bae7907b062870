package prom

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// State says what a difference of two scrapes is worth.
type State string

const (
	Present State = "present"
	Absent  State = "absent" // no such series in the later scrape: nothing is known, least of all that it is 0
	Reset   State = "reset"  // it is lower than before: the process restarted or the counter lies
)

// Delta is after minus before for the sum over every series of this name and these labels.
//
// A series that the earlier scrape lacks counts from 0, because client libraries create labelled children at first use. A
// fall of any single series is a Reset even if the sum rose: with data-parallel engines one of them may restart alone.
func Delta(before, after *Snapshot, name string, labels Labels) (value float64, state State) {
	end, present := after.Sum(name, labels)
	if !present {
		return 0, Absent
	}
	start, known := before.Sum(name, labels)
	if !known && before.Has(name, labels) { // NaN: it did not begin at 0
		return 0, Absent
	}
	earlier := before.index(name, labels)
	for key, now := range after.index(name, labels) {
		if old, ok := earlier[key]; ok && now < old {
			return end - start, Reset
		}
	}
	if end < start { // a series with a large count vanished
		return end - start, Reset
	}
	return end - start, Present
}

// Fall is one counter that is lower than it was.
type Fall struct {
	Series   string // as on the page: name{label="value"}
	From, To float64
}

func (f Fall) String() string {
	if f.Series == startTime && f.To < f.From { // whoever started later does not become the one that started earlier
		return fmt.Sprintf("another process answers (%s went from %.0f to %.0f)", startTime, f.From, f.To)
	}
	if f.Series == startTime {
		return fmt.Sprintf("the process started anew (%s went from %.0f to %.0f)", startTime, f.From, f.To)
	}
	return fmt.Sprintf("%s fell from %g to %g", f.Series, f.From, f.To)
}

// startTime is the collector's own word about a restart; it catches one whose counters have already grown past the old ones.
const startTime = "process_start_time_seconds"

// clockSlack is how far it may move in a process that goes on, in seconds: Go's collector makes it from the boot time of the
// kernel, which is whole seconds and follows the clock when that is set.
const clockSlack = 1.5

// Resets lists the counters that fell between two scrapes, and a changed process start time, ordered by name.
func Resets(before, after *Snapshot) []Fall {
	var falls []Fall
	for name, samples := range after.series {
		if !slices.ContainsFunc(samples, func(x sample) bool { return x.counter }) {
			continue
		}
		earlier := before.index(name, nil)
		for key, now := range after.index(name, nil) {
			if old, ok := earlier[key]; ok && now < old {
				falls = append(falls, Fall{name + key, old, now})
			}
		}
	}
	slices.SortFunc(falls, func(a, b Fall) int { return strings.Compare(a.Series, b.Series) })
	old, ok1 := before.Sum(startTime, nil)
	now, ok2 := after.Sum(startTime, nil)
	if ok1 && ok2 && math.Abs(now-old) > clockSlack {
		falls = append([]Fall{{Series: startTime, From: old, To: now}}, falls...)
	}
	return falls
}

// index maps the label set of each series of a name, of those with these labels, to its value. One that stands on the page
// twice counts as the sum.
func (s *Snapshot) index(name string, labels Labels) map[string]float64 {
	samples := s.lookup(name)
	m := make(map[string]float64, len(samples))
	for i := range samples {
		if x := &samples[i]; !x.void && x.matches(labels) {
			m[x.key()] += x.value
		}
	}
	return m
}

// key is the label set in the page's own notation, names sorted, "" without labels.
func (x *sample) key() string {
	if len(x.labels) == 0 {
		return ""
	}
	parts := make([]string, len(x.labels))
	for i, l := range x.labels {
		parts[i] = fmt.Sprintf("%s=%q", l.GetName(), l.GetValue())
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}"
}
