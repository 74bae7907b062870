package handoff

import (
	"fmt"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// mostOdd bounds how many odd series are kept of one stage: with more, the page is no metrics page of an engine.
const mostOdd = 32

// Page is what a stage's metrics pages were like while a window was open, for Sane.
type Page struct {
	// Odd are series that the rules read and Strange all others that are NaN, infinite or a counter below 0: "name{...} is NaN".
	Odd     []string `json:"odd,omitempty"`
	Strange []string `json:"strange,omitempty"`
	// Repeated are series that stand on the last page more than once, mostOdd at most.
	Repeated []string `json:"repeated,omitempty"`
	// Alternates: counters fell and stood at their old values again. No process does that.
	Alternates bool `json:"alternates,omitempty"`
	// Engines and Models are the values of these labels on the series that the rules read; Gone are engines that the first page
	// had and the last has not. Bare are series without a label that others have: "name lacks model_name".
	Engines []string `json:"engines,omitempty"`
	Models  []string `json:"models,omitempty"`
	Gone    []string `json:"gone,omitempty"`
	Bare    []string `json:"bare,omitempty"`
}

// identity are the labels by which vLLM tells engines and models apart. vLLM-Omni has stage and replica in place of engine.
var identity = [][]string{{"engine", "replica"}, {"model_name"}}

func (w *watcher) page() *Page {
	p := &Page{Alternates: w.alternates}
	for _, o := range w.odd {
		if slices.ContainsFunc(w.series, func(x Series) bool { return x.Name == o.Name() || x.Name == o.Name()+"_total" }) {
			p.Odd = append(p.Odd, o.String())
		} else {
			p.Strange = append(p.Strange, o.String())
		}
	}
	if again := w.last.Repeated(); len(again) > 0 {
		p.Repeated = again[:min(mostOdd, len(again))]
	}
	engines := [2]map[string]bool{{}, {}}
	for i, page := range []*prom.Snapshot{w.first, w.last} {
		for _, x := range w.series {
			values, _ := anyOf(page, x.Name, identity[0])
			for _, v := range values {
				engines[i][v] = true
			}
		}
	}
	for e := range engines[1] {
		p.Engines = append(p.Engines, e)
	}
	for e := range engines[0] {
		if !engines[1][e] {
			p.Gone = append(p.Gone, e)
		}
	}
	for i, labels := range identity {
		var bare []string
		labelled := false
		for _, x := range w.series {
			values, without := anyOf(w.last, x.Name, labels)
			labelled = labelled || len(values) > 0
			if text := x.Name + " lacks " + labels[0]; without > 0 && !slices.Contains(bare, text) {
				bare = append(bare, text)
			}
			for _, v := range values {
				if i == 1 && !slices.Contains(p.Models, v) {
					p.Models = append(p.Models, v)
				}
			}
		}
		if labelled {
			p.Bare = append(p.Bare, bare...)
		}
	}
	for _, list := range [][]string{p.Engines, p.Models, p.Gone} {
		slices.Sort(list)
	}
	return p
}

// anyOf is the values of the first of these labels that series of this name have, and how many of them have none of it.
func anyOf(s *prom.Snapshot, name string, labels []string) (values []string, bare int) {
	for _, l := range labels {
		if values, bare = s.Values(name, l); len(values) > 0 {
			return values, bare
		}
	}
	return nil, bare
}

// describe tells whose page it was: "2 engines of m".
func (p *Page) describe() string {
	if p == nil || len(p.Engines) == 0 && len(p.Models) == 0 {
		return ""
	}
	text := fmt.Sprintf("%d engine%s", max(1, len(p.Engines)), plural(float64(max(1, len(p.Engines)))))
	if len(p.Models) > 0 {
		text += " of " + strings.Join(p.Models, ", ")
	}
	return text
}
