package handoff

import (
	"fmt"
	"slices"
	"strings"
)

// Sane judges the instruments and not the handoff: the series that this dialect reads are there, on both stages, no value is NaN or
// below 0, no counter fell, tokens by source add up to the prompts and to the steps, histograms count the requests that finished, and labels
// tell engines apart the same way everywhere. A contradiction refutes; what is missing is doubt.
//
// The identities held in every case recorded on vLLM 0.32.0, failed loads, aborts and the death of the peer included, but for the
// sums of lengths: of a request whose load fails the histogram has the prompt and the counter has not.
func Sane(e *Evidence) Verdict {
	return judge(e, "the metrics of prefill and decode are whole and agree with themselves",
		[]rule{stageProblems, alternates, oddities, gauges, sources, steps, histograms, exclusive, frozen, absentSeries, labels, attestSane})
}

// stages pairs each stage with its name, decode first as in all reports.
func (c *exam) stages() []stageOf {
	return []stageOf{{"decode", &c.Decode}, {"prefill", &c.Prefill}}
}

type stageOf struct {
	name string
	*Stage
}

// whole tells that differences of this stage's counters mean something.
func (s stageOf) whole() bool {
	return len(s.Counters) > 0 && len(s.Resets) == 0 && s.Problem == "" && (s.Page == nil || !s.Page.Alternates)
}

// alternates: two engines behind one URL answer scrapes in turn, and every difference compares one with the other.
func alternates(c *exam) {
	for _, s := range c.stages() {
		if s.Page != nil && s.Page.Alternates {
			c.doubt("alternating", "", "counters of %s fall and rise again while it is idle: two engines behind one URL? (%s)", s.name, s.MetricsURL)
		}
	}
}

// oddities: a sum with a NaN in it is no sum, and a count below 0 counts nothing.
func oddities(c *exam) {
	for _, s := range c.stages() {
		if s.Page == nil {
			continue
		}
		for _, odd := range s.Page.Odd {
			if strings.Contains(odd, " is -") && !strings.HasSuffix(odd, "Inf") {
				c.refute("below-zero", "", "%s on %s's page: a counter", odd, s.name)
			} else {
				c.doubt("not-a-number", "", "%s on %s's page: not measured", odd, s.name)
			}
		}
		if n := len(s.Page.Strange); n > 0 {
			c.note("%s on %s's page, which no rule reads%s", s.Page.Strange[0], s.name, andMore(n-1))
		}
	}
}

// gauges: the share of a pool is a share.
func gauges(c *exam) {
	for _, s := range c.stages() {
		for _, v := range []*float64{s.UsageBefore, s.UsageAfter} {
			if v != nil && (*v < 0 || *v > 1) {
				c.refute("usage-out-of-range", "", "%s of %s is %g, a share is from 0 to 1", c.d.Usage, s.name, *v)
				break
			}
		}
		if s.whole() && s.UsageAfter == nil {
			c.doubt("absent-series", "", "series absent: %s of %s", c.d.Usage, s.name)
		}
	}
}

// sources: every prompt token came from somewhere, once. About vLLM 0.16 to 0.19 the last token of a prompt that was otherwise
// cached was counted as computed as well, and told as recomputed.
func sources(c *exam) {
	for _, s := range c.stages() {
		local, ok1 := s.get(c.d.LocalCompute)
		hit, ok2 := s.get(c.d.LocalHit)
		external, ok3 := s.get(c.d.External)
		total, ok4 := s.get(c.d.PromptTokens)
		if !s.whole() || !ok1 || !ok2 || !ok4 {
			continue
		}
		if !ok3 && s.name == "decode" {
			continue // its absence is the finding
		}
		again, old := s.get(c.d.Recomputed)
		if sum := local + hit + external - again; sum != total {
			text := fmt.Sprintf("prompt tokens of %s by source do not add up: computed %.0f + cached %.0f + from the other engine %.0f", s.name, local, hit, external)
			if old {
				text += fmt.Sprintf(" - recomputed %.0f", again)
			}
			c.contradict("sources", "%s = %.0f, prompt_tokens %.0f", text, sum, total)
		}
		if cached, ok := s.get(c.d.Cached); ok && cached != hit+external && !old {
			c.contradict("sources", "%s of %s rose by %.0f, by source it is %.0f", c.d.Cached, s.name, cached, hit+external)
		}
	}
}

// steps: what an engine computed of prompts is in its steps as well, beside the tokens it generated. An engine that claims a
// transfer and computes the prompt says the truth in one of the two.
func steps(c *exam) {
	for _, s := range c.stages() {
		iteration, ok1 := s.get(c.d.Iteration)
		generated, ok2 := s.get(c.d.Generated)
		local, ok3 := s.get(c.d.LocalCompute)
		if _, old := s.get(c.d.Recomputed); old || !s.whole() || !ok1 || !ok2 || !ok3 || iteration < generated {
			continue // less is the finding of the rule frozen
		}
		if n, ok := s.get(c.d.Preemptions); ok && n > 0 && iteration-generated > local {
			c.note("%s preempted %.0f time%s: the %.0f prompt tokens that it computed again are in its steps alone", s.name, n, plural(n), iteration-generated-local)
			continue
		}
		if iteration-generated != local {
			c.contradict("steps", "the steps of %s hold %.0f prompt tokens (iteration_tokens %.0f - generated %.0f), by source it computed %.0f",
				s.name, iteration-generated, iteration, generated, local)
		}
	}
}

// histograms: each finished request is in each histogram once, and lengths add up to the counters.
func histograms(c *exam) {
	for _, s := range c.stages() {
		finished, ok := s.get(c.d.Finished)
		if !s.whole() || !ok {
			continue
		}
		for _, h := range []Series{c.d.Prompts, c.d.Outputs} {
			if n, ok := s.get(h); ok && h.Name != "" && n != finished {
				c.contradict("histogram", "%s of %s rose by %.0f, %.0f request%s finished", h, s.name, n, finished, plural(finished))
			}
		}
		if c.failed > 0 || c.excused {
			continue // a request that ends early is in the histogram with what it asked for
		}
		for _, pair := range [][2]Series{{c.d.PromptSum, c.d.PromptTokens}, {c.d.OutputSum, c.d.Generated}} {
			sum, ok1 := s.get(pair[0])
			count, ok2 := s.get(pair[1])
			if ok1 && ok2 && pair[0].Name != "" && sum != count {
				c.contradict("histogram", "%s of %s rose by %.0f, %s by %.0f", pair[0], s.name, sum, pair[1], count)
			}
		}
	}
}

// contradict refutes, unless a request was cut short: its tokens may be in one count and not yet, or never, in the other.
func (c *exam) contradict(rule, format string, args ...any) {
	if c.excused {
		c.doubt(rule, "", format+", but a request was preempted or aborted", args...)
		return
	}
	c.refute(rule, "", format, args...)
}

// labels: a label that only some series have makes sums over engines count some twice, or miss some.
func labels(c *exam) {
	for _, s := range c.stages() {
		p := s.Page
		if p == nil {
			continue
		}
		if n := len(p.Bare); n > 0 {
			c.doubt("labels", "", "labels of %s are incomplete: %s, which others have%s", s.name, p.Bare[0], andMore(n-1))
		}
		if n := len(p.Repeated); n > 0 {
			c.doubt("repeated", "", "%s%s stands more than once on %s's page: pages of several engines put together?", p.Repeated[0], andMore(n-1), s.name)
		}
		if len(p.Gone) > 0 {
			c.doubt("engine-gone", "", "engine %s vanished from %s's page inside the window", strings.Join(p.Gone, ", "), s.name)
		}
		if s.whole() && len(p.Engines)+len(p.Models) == 0 {
			c.note("series of %s have no label engine or model_name: how many engines stand behind its page is not told", s.name)
		}
	}
	if p, d := c.Prefill.Page, c.Decode.Page; p != nil && d != nil && len(p.Models) > 0 && len(d.Models) > 0 && !slices.Equal(p.Models, d.Models) {
		c.note("prefill serves %s, decode %s", strings.Join(p.Models, ", "), strings.Join(d.Models, ", "))
	}
}

func attestSane(c *exam) {
	for _, s := range c.stages() {
		total, ok1 := s.get(c.d.PromptTokens)
		finished, ok2 := s.get(c.d.Finished)
		if !s.whole() || !ok1 || !ok2 || finished == 0 {
			return // nothing moved: nothing was held against anything
		}
		text := fmt.Sprintf("%s counted %.0f prompt tokens of %.0f request%s, every way the same", s.name, total, finished, plural(finished))
		if whose := s.Page.describe(); whose != "" {
			text += " (" + whose + ")"
		}
		c.attest("sane", "%s", text)
	}
}

func andMore(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}
