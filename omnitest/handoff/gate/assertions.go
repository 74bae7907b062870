package gate

import (
	"context"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
)

// Assertion is one question about a handoff. It judges the shared window, makes experiments, or both.
type Assertion struct {
	ID       int
	Name     string
	Claim    string
	Judge    func(*handoff.Evidence) handoff.Verdict
	Probes   []Experiment
	since    func(began *handoff.Usage) Experiment // holds what is left against what was held when the gate began; nil: none
	Advisory bool                                  // says something, and does not fail the gate
	needs    []need
	ledger   bool // Judge sees nothing without a flow ledger
	pictures bool // Judge is given the window of pictures
}

// Experiment is a probe.
type Experiment func(context.Context, handoff.Source, probe.Options) (probe.Result, error)

// need is something that a Target must have for a question to be asked.
type need struct {
	what string
	has  func(*Target) bool
}

var (
	entry    = need{"an entry: a proxy to send requests to", func(t *Target) bool { return t.Entry != nil || t.Traffic != nil }}
	engines  = need{"API clients of prefill and decode", func(t *Target) bool { return t.Prefill.API != nil && t.Decode.API != nil }}
	dit      = need{"a DiT", func(t *Target) bool { return t.DiT != nil }}
	restart  = need{"Options.Restart, which only the stack's owner can give", func(t *Target) bool { return t.Restart != nil }}
	breaking = need{"Options.Break, which only the stack's owner can give", func(t *Target) bool { return t.Break != nil }}
)

// missing says what a target lacks for this question, "" if nothing.
func (a *Assertion) missing(t *Target) string {
	for _, n := range a.needs {
		if !n.has(t) {
			return "needs " + n.what
		}
	}
	return ""
}

// Assertions are the sixteen, in the order in which they are asked: what only looks first, what may damage the stack last.
func Assertions() []Assertion {
	return []Assertion{
		{ID: 1, Name: "handoff-proven", Claim: "decode used the KV cache that prefill computed",
			Judge: handoff.Proven, needs: []need{entry}},
		{ID: 4, Name: "no-silent-fallback", Claim: "no answer came from decode alone, or from a cache in front of it, without saying so",
			Judge: handoff.NoSilentFallback, Probes: []Experiment{Crowd, Repeat}, needs: []need{entry}},
		{ID: 6, Name: "bounded-termination", Claim: "every request ends within its limit",
			Judge: handoff.Bounded, needs: []need{entry}},
		{ID: 7, Name: "proxy-conformance", Claim: "the proxy speaks the two-leg protocol",
			Judge: handoff.Conformant, ledger: true, needs: []need{entry}},
		{ID: 8, Name: "ticket-well-formed", Claim: "every ticket is one that decode can use",
			Judge: handoff.TicketsWellFormed, ledger: true, needs: []need{entry}},
		{ID: 10, Name: "bytes-conserved", Claim: "bytes moved are those of whole blocks, and grow with the prompt",
			Judge: handoff.Conserved, Probes: []Experiment{probe.BytesSlope}, needs: []need{entry, engines}},
		{ID: 15, Name: "metric-sanity", Claim: "the counters agree with themselves and with what was asked",
			Judge: handoff.Sane, needs: []need{entry}},
		{ID: 12, Name: "engine-alive", Claim: "prefill and decode are healthy and hand over",
			Probes: []Experiment{probe.Alive}, needs: []need{engines}},
		{ID: 2, Name: "content-parity", Claim: "a handoff changes the answer no more than two controls differ",
			Probes: []Experiment{probe.Parity}, needs: []need{engines}},
		{ID: 3, Name: "no-foreign-content", Claim: "decode consumes the KV that a ticket names, and no answer holds another request's content",
			Probes: []Experiment{probe.CrossedTickets, probe.WithheldTicket, probe.ForeignContent}, needs: []need{engines}},
		{ID: 13, Name: "sentinel-drift", Claim: "fixed prompts are answered alike before, during and after load",
			Probes: []Experiment{probe.Drift}, needs: []need{engines}},
		{ID: 16, Name: "payload-proven", Claim: "the DiT paints from the plan that decode made for this request",
			Judge: handoff.PayloadProven, ledger: true, pictures: true, Probes: []Experiment{probe.CrossedPayload}, needs: []need{entry, dit}},
		{ID: 16, Name: "plan-read-whole", Claim: "the picture shows the end of its plan",
			Probes: []Experiment{PlanEnd}, needs: []need{dit}},
		{ID: 14, Name: "handoff-timing", Claim: "with a ticket decode answers sooner than without", Advisory: true,
			Probes: []Experiment{probe.Timing}, needs: []need{engines}},
		{ID: 5, Name: "blocks-released", Claim: "engines give back what they held for requests that were left",
			Probes: []Experiment{probe.Released}, needs: []need{engines}},
		{ID: 5, Name: "nothing-kept", Claim: "no request leaves a KV block behind",
			since: Kept, needs: []need{entry, engines}},
		{ID: 9, Name: "ticket-tampering", Claim: "a tampered ticket ends in an error or a right answer, and decode lives",
			Probes: []Experiment{probe.Tampering}, needs: []need{engines}},
		{ID: 4, Name: "dead-prefill", Claim: "with prefill broken there is an error or a declared fallback",
			Probes: []Experiment{probe.DeadPrefill}, needs: []need{entry, engines, breaking}},
		{ID: 11, Name: "peer-recovery", Claim: "after a restart of either engine the handoff works again",
			Probes: []Experiment{probe.Recovery}, needs: []need{engines, restart}},
	}
}
