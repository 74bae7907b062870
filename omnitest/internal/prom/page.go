package prom

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Oddity is one series that no sane engine shows.
type Oddity struct {
	Series string  // as on the page: name{label="value"}
	Value  float64 // NaN, infinite, or below 0 for a counter
}

func (o Oddity) String() string { return fmt.Sprintf("%s is %g", o.Series, o.Value) }

// Name is the series without its labels.
func (o Oddity) Name() string { name, _, _ := strings.Cut(o.Series, "{"); return name }

// Oddities lists the series that are NaN or infinite and the counters below 0, ordered by name. Sums of histograms may be
// below 0: vLLM 0.32.0 adds a negative queue time, about minus an hour, when the load of a ticket's blocks fails (recorded).
func (s *Snapshot) Oddities() []Oddity {
	var odd []Oddity
	for name, samples := range s.series {
		for i := range samples {
			if x := &samples[i]; x.void || x.counter && x.value < 0 {
				odd = append(odd, Oddity{name + x.key(), x.value})
			}
		}
	}
	slices.SortFunc(odd, func(a, b Oddity) int { return strings.Compare(a.Series, b.Series) })
	return odd
}

// Has tells that some series of this name and these labels is on the page, whatever its value.
func (s *Snapshot) Has(name string, labels Labels) bool {
	for _, x := range s.lookup(name) {
		if x.matches(labels) {
			return true
		}
	}
	return false
}

// Repeated lists the series that stand on the page more than once, sorted: pages that were put together from those of several
// engines, without a label to tell them apart. It spells out every series: not for each scrape.
func (s *Snapshot) Repeated() []string {
	var all []string
	for name, samples := range s.series {
		seen := make(map[string]int, len(samples))
		for i := range samples {
			if key := samples[i].key(); seen[key] < 2 {
				if seen[key]++; seen[key] == 2 {
					all = append(all, name+key)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// Names are the names of all series on the page, sorted; of a histogram h they are h_sum and h_count.
func (s *Snapshot) Names() []string { return slices.Sorted(maps.Keys(s.series)) }

// Values are the values that one label has on the series of this name, sorted; bare is how many of those lack it.
func (s *Snapshot) Values(name, label string) (values []string, bare int) {
	seen := map[string]bool{}
	for _, x := range s.lookup(name) {
		if v, ok := x.label(label); ok {
			seen[v] = true
		} else {
			bare++
		}
	}
	return slices.Sorted(maps.Keys(seen)), bare
}

// Labelled finds the values that a label has on any series of the page, sorted. It reads every series: not for each scrape.
func (s *Snapshot) Labelled(label string) []string {
	seen := map[string]bool{}
	for _, samples := range s.series {
		for i := range samples {
			if v, ok := samples[i].label(label); ok {
				seen[v] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// Alternates tells that page c, scraped after b, has gone back to where page a was, although b had fallen behind a: a counter
// of a process never does that, two processes behind one URL do. For the clock of a restart, process_start_time_seconds,
// going back is proof as well.
func Alternates(a, b, c *Snapshot) bool {
	for _, f := range Resets(a, b) {
		name, _, _ := strings.Cut(f.Series, "{")
		now, ok := c.index(name, nil)[strings.TrimPrefix(f.Series, name)]
		if name == startTime && ok && math.Abs(now-f.From) <= clockSlack {
			return true
		}
		if name != startTime && ok && now >= f.From {
			return true
		}
	}
	return false
}
