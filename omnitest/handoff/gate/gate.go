// Package gate asks all sixteen questions about a KV handoff of one stack, each answered by a verdict with its reasons. It is
// what an operator runs before a merge or after a deployment:
//
//	r, err := gate.Run(ctx, gate.Target{Source: handoff.Source{
//		Entry:   &api.Client{BaseURL: "http://10.0.0.10:8000"}, // the proxy
//		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: "http://10.0.0.11:8100"}},
//		Decode:  handoff.Endpoint{API: &api.Client{BaseURL: "http://10.0.0.12:8200"}},
//	}})
//	fmt.Println(r)       // a line per assertion
//	err = r.Err()        // nil only when nothing was refuted and everything that could be asked was proven
//
// Each assertion is usable alone: those that judge a window are functions of package handoff, the experiments are functions of
// package probe. All of them send requests of their own or need a stack to themselves; none is for an engine in production.
package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
)

// Target is the stack to be judged and what its owner can do to it. Source alone will do; what then cannot be asked is
// said, see Outcome.NotAsked.
type Target struct {
	handoff.Source
	probe.Options
	// Traffic is a window that was observed already; nil: the gate makes its own with the requests of Texts and Pictures.
	Traffic *handoff.Evidence
	// Each bounds one assertion; 0: 3 minutes.
	Each time.Duration
	// Only are the assertions to run, by name; nil: all.
	Only []string
	// Require are the names of those that must be asked: what the target lacks for one of them is then no excuse.
	Require []string
}

// Outcome is what came of one assertion.
type Outcome struct {
	ID       int             `json:"id"` // 1 to 16, the order of value
	Name     string          `json:"name"`
	Verdict  handoff.Verdict `json:"verdict"`
	Requests int             `json:"requests"`            // sent for this assertion alone; the shared window's are in Report.Requests
	NotAsked string          `json:"not_asked,omitempty"` // why the question could not be put to this stack; the verdict is then inconclusive
	Required bool            `json:"required,omitempty"`  // not asked fails the gate
	Advisory bool            `json:"advisory,omitempty"`  // does not fail the gate
	Seconds  float64         `json:"seconds"`
}

// Report is the whole of a run.
type Report struct {
	Schema   string            `json:"schema"`
	State    handoff.State     `json:"state"` // the gate's own: refuted if anything is, proven if all that was asked is
	Outcomes []Outcome         `json:"outcomes"`
	Requests int               `json:"requests"` // of the shared windows, their controls included
	Texts    *handoff.Evidence `json:"texts,omitempty"`
	Pictures *handoff.Evidence `json:"pictures,omitempty"`
}

// Schema of a saved Report.
const Schema = "omnitest.gate/v1"

// Run asks every assertion in turn, those that may damage the stack last. An error means that there is no report: a name in Only
// or Require that nobody knows, an address that is none, a model that an engine does not serve, or ctx ended. A stack that cannot even be scraped is a report, full of refutations and doubts.
func Run(ctx context.Context, t Target) (*Report, error) {
	all := Assertions()
	for _, name := range slices.Concat(t.Only, t.Require) {
		if !slices.ContainsFunc(all, func(a Assertion) bool { return a.Name == name }) {
			return nil, fmt.Errorf("gate: no assertion is called %q; there are %s", name, names(all))
		}
	}
	if err := t.reachable(ctx); err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	if t.Each <= 0 {
		t.Each = 3 * time.Minute
	}
	r := &Report{Schema: Schema}
	if c := t.Prefill.API; t.Prompt == nil && c != nil {
		ctx, cancel := context.WithTimeout(ctx, t.Each)
		prompt, err := probe.Fitting(ctx, c, t.Tokens)
		cancel()
		if err == nil { // else the assertions find out what is wrong with prefill, each in its own words
			t.Prompt = prompt
		}
	}
	g := &run{Target: t, report: r}
	g.texts.evidence = t.Traffic
	if t.Prefill.API != nil && t.Decode.API != nil && len(t.Only) != 1 { // of a single assertion its own requests are judged
		ctx, cancel := context.WithTimeout(ctx, t.Each)
		if u, err := handoff.ReadUsage(ctx, t.Source); err == nil { // else the assertions say what is wrong
			g.began = &u
		}
		cancel()
	}
	for _, name := range t.Require {
		if len(t.Only) > 0 && !slices.Contains(t.Only, name) {
			return nil, fmt.Errorf("gate: %s is required and not among those that are asked", name)
		}
	}
	for _, a := range all {
		if len(t.Only) > 0 && !slices.Contains(t.Only, a.Name) {
			continue
		}
		r.Outcomes = append(r.Outcomes, g.ask(ctx, a))
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("gate: %s: %w", a.Name, context.Cause(ctx))
		}
	}
	r.Texts, r.Pictures = g.texts.evidence, g.pictures.evidence
	r.State = r.judge()
	return r, nil
}

// reachable finds the caller's own mistakes, which would else read as refutations of the stack. An engine that is down is none.
func (t *Target) reachable(ctx context.Context) error {
	for _, c := range []struct {
		name   string
		client *api.Client
	}{{"Entry", t.Entry}, {"Prefill.API", t.Prefill.API}, {"Decode.API", t.Decode.API}, {"DiT", t.DiT}} {
		if c.client == nil {
			continue
		}
		if err := c.client.Check(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if c.client.Model == "" || c.name == "DiT" {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, modelsLimit)
		models, err := c.client.Models(ctx)
		cancel()
		if err == nil && !slices.Contains(models, c.client.Model) {
			return fmt.Errorf("%s: %s serves no model %q", c.name, c.client.BaseURL, c.client.Model)
		}
	}
	return nil
}

// modelsLimit bounds the question for the models: an engine that hangs is for the assertions to tell.
const modelsLimit = 10 * time.Second

func names(all []Assertion) string {
	list := make([]string, len(all))
	for i, a := range all {
		list[i] = a.Name
	}
	return strings.Join(list, ", ")
}

// run is one Run under way.
type run struct {
	Target
	report          *Report
	texts, pictures shared
	began           *handoff.Usage // the KV pools before the first request; nil: they could not be read
}

// shared is a window that several assertions judge.
type shared struct {
	evidence *handoff.Evidence
	err      error // why there is none
}

// ask puts one assertion to the stack. What goes wrong on the way is a doubt that names it, never a pass.
func (g *run) ask(ctx context.Context, a Assertion) (o Outcome) {
	o = Outcome{ID: a.ID, Name: a.Name, Advisory: a.Advisory, Required: slices.Contains(g.Require, a.Name)}
	began := time.Now()
	defer func() { o.Seconds = time.Since(began).Seconds() }()
	ctx, cancel := context.WithTimeoutCause(ctx, g.Each, fmt.Errorf("assertion %s did not end within %v", a.Name, g.Each))
	defer cancel()
	if o.NotAsked = a.missing(&g.Target); o.NotAsked != "" {
		o.Verdict = doubt(a, "not-asked", o.NotAsked)
		return o
	}
	var verdicts []handoff.Verdict
	if a.ledger {
		if e, err := g.window(ctx, a); err == nil && !e.Flow.Kept {
			o.NotAsked = "needs a flow ledger, omnitest's own proxy or a wiretap: " + e.Flow.Note
			o.Verdict = doubt(a, "not-asked", o.NotAsked)
			return o
		}
	}
	probes := a.Probes
	if a.since != nil {
		probes = append(slices.Clone(probes), a.since(g.began))
	}
	for _, p := range probes {
		r, err := p(ctx, g.Source, g.Options)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = errors.Join(cause, err)
			}
			r.Verdict = doubt(a, "not-run", err.Error())
		}
		o.Requests += r.Requests
		verdicts = append(verdicts, r.Verdict)
	}
	if a.Judge != nil {
		e, err := g.window(ctx, a)
		if err != nil {
			verdicts = append(verdicts, doubt(a, "no-window", err.Error()))
		} else {
			verdicts = append(verdicts, a.Judge(calibrated(e, verdicts)))
		}
	}
	o.Verdict = together(a, verdicts)
	return o
}

// window makes the shared traffic once, with the first assertion that judges it.
func (g *run) window(ctx context.Context, a Assertion) (*handoff.Evidence, error) {
	w, traffic := &g.texts, Texts
	if a.pictures {
		w, traffic = &g.pictures, Pictures
	}
	if w.evidence == nil && w.err == nil {
		sent := 0
		w.evidence, sent, w.err = traffic(ctx, g.Source, g.Options)
		g.report.Requests += sent
	}
	return w.evidence, w.err
}

// calibrated holds a window to the bytes per token that an experiment of the same assertion has measured, where nobody gave them.
func calibrated(e *handoff.Evidence, measured []handoff.Verdict) *handoff.Evidence {
	for _, v := range measured {
		if n := v.Numbers["bytes_per_token"]; n > 0 && e.BytesPerToken == 0 && v.State == handoff.StateProven {
			c := *e
			c.BytesPerToken = n
			return &c
		}
	}
	return e
}

// together is the verdict of an assertion that is asked in several ways: any refutation refutes, any doubt is doubt.
func together(a Assertion, all []handoff.Verdict) handoff.Verdict {
	v := handoff.Verdict{Claim: a.Claim, State: handoff.StateProven, Numbers: map[string]float64{}}
	for _, x := range all {
		if rank(x.State) < rank(v.State) {
			v.State = x.State
		}
		v.Reasons = append(v.Reasons, x.Reasons...)
		v.Notes = append(v.Notes, x.Notes...)
		for name, n := range x.Numbers {
			v.Numbers[name] = n
		}
		if v.Evidence == "" {
			v.Evidence = x.Evidence
		}
	}
	slices.SortStableFunc(v.Reasons, func(a, b handoff.Reason) int { return rank(a.State) - rank(b.State) })
	if v.State != handoff.StateProven {
		v.Reasons = slices.DeleteFunc(v.Reasons, func(r handoff.Reason) bool { return r.State == handoff.StateProven })
	}
	if len(all) == 0 {
		v.State = handoff.StateInconclusive
	}
	return v
}

func doubt(a Assertion, rule, text string) handoff.Verdict {
	return handoff.Verdict{Claim: a.Claim, Reasons: []handoff.Reason{{State: handoff.StateInconclusive, Rule: rule, Text: text}}}
}

// rank orders states from the worst.
func rank(s handoff.State) int {
	switch s {
	case handoff.StateRefuted:
		return 0
	case handoff.StateProven:
		return 2
	}
	return 1
}
