package probe

import (
	"context"
	"fmt"

	"github.com/omnitest/suite/omnitest/handoff"
)

const withheldClaim = "the counters tell a handoff from a recompute"

// WithheldTicket tests the instrument: a fresh prompt goes to decode with no ticket and must be computed there, visibly, with
// no bytes moved; another one of the same length goes with a ticket and must not be computed there. If both look alike the
// counters are blind, and no green window on this stack means anything: inconclusive. If the one with the ticket was computed
// by decode as well, the handoff is refuted. It sends 3 requests.
func WithheldTicket(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	if p.dialect().Ask == nil {
		return p.done(withheldClaim, handoff.StateInconclusive, "no-tickets", "connector %s has no tickets to withhold", p.dialect().Name)
	}
	s.Entry, s.Ledger = nil, nil // the probe goes round the proxy: its ledger has nothing to say
	without, err := p.leg(ctx, s, "without")
	if err != nil {
		return p.result, fmt.Errorf("withheld ticket: %w", err)
	}
	with, err := p.leg(ctx, s, "with")
	if err != nil {
		return p.result, fmt.Errorf("withheld ticket: %w", err)
	}
	p.withheld(without, with)
	return p.result, nil
}

// leg sends one fresh prompt to decode, with or without a ticket, in a window of its own.
func (p *probe) leg(ctx context.Context, s handoff.Source, name string) (*handoff.Evidence, error) {
	x := &subject{name: name, request: p.Prompt()}
	x.request.MaxTokens, x.request.Temperature = p.output(x.request), 0
	w, err := handoff.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	if name == "with" {
		if err := p.prefill(ctx, x); err != nil {
			return nil, err
		}
	}
	t, err := p.decode(ctx, "decode "+name+" ticket", x, x.ticket)
	if err != nil {
		return nil, err
	}
	observed := handoff.Observed(t, nil)
	observed.RequestID = ""
	w.Observe(observed)
	e, err := w.Close(ctx)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (p *probe) withheld(without, with *handoff.Evidence) {
	say := func(s handoff.State, rule, format string, args ...any) {
		_, _ = p.done(withheldClaim, s, rule, format, args...)
	}
	for _, e := range []*handoff.Evidence{without, with} {
		if v := handoff.Countable(e); v.State != handoff.StateProven {
			say(handoff.StateInconclusive, v.Reasons[0].Rule, "%s", v.Reasons[0].Text)
			return
		}
	}
	d := p.dialect()
	alone, ok1 := without.Account().Computed()
	shared, ok2 := with.Account().Computed()
	total, ok3 := without.Decode.Delta(d.PromptTokens)
	movedAlone, ok4 := without.Decode.Delta(d.Bytes)
	moved, ok5 := with.Decode.Delta(d.Bytes)
	numbers := map[string]float64{}
	for name, v := range map[string]struct {
		value float64
		ok    bool
	}{"without.computed_tokens": {alone, ok1}, "with.computed_tokens": {shared, ok2}, "without.bytes": {movedAlone, ok4}, "with.bytes": {moved, ok5}} {
		if v.ok {
			numbers[name] = v.value
		}
	}
	switch {
	case !ok1 || !ok2 || !ok3:
		say(handoff.StateInconclusive, "absent-series", "instrument blind: decode does not tell what it computed (%s %s)",
			d.Iteration, without.Decode.Told(d.Iteration))
	case !ok4 || !ok5:
		say(handoff.StateInconclusive, "absent-series", "instrument blind: series absent: %s of decode", d.Bytes)
	case movedAlone > 0:
		say(handoff.StateInconclusive, "moved-unasked", "decode moved %.0f bytes for a prompt without a ticket", movedAlone)
	case alone < total-without.Account().Tail() || total == 0:
		say(handoff.StateInconclusive, "blind", "instrument blind: without a ticket decode counts only %.0f of %.0f prompt tokens as computed", alone, total)
	case shared > with.Account().Tail():
		say(handoff.StateRefuted, "computed-itself", "with a ticket decode computed %.0f prompt tokens itself, without one %.0f; %.0f bytes moved", shared, alone, moved)
	case moved == 0:
		say(handoff.StateRefuted, "claims-without-bytes", "with a ticket decode computed %.0f prompt tokens and moved 0 bytes: nothing explains its answer", shared)
	default:
		say(handoff.StateProven, "instrument-sees", "without a ticket decode computed %.0f of %.0f prompt tokens and moved 0 bytes, with one it computed %.0f and moved %.0f bytes",
			alone, total, shared, moved)
	}
	p.result.Verdict.Numbers = numbers
}
