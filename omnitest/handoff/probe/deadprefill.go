package probe

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const deadPrefillClaim = "with prefill broken nothing is answered as if it were not"

// fallbackHeader declares on an answer that decode gave it alone; the proxy of this suite sends it.
const fallbackHeader = "X-Omnitest-Fallback"

// deadPrefillLimit is the default of Options.Limit in DeadPrefill: longer than a proxy waits for a prefill that hangs (ours: 60 s),
// so that its error is seen and not taken for a hang.
const deadPrefillLimit = 90 * time.Second

// deadPrefillCheck is how long the broken prefill itself is given to show that it is broken.
const deadPrefillCheck = 5 * time.Second

// DeadPrefill breaks prefill (Options.Break: dead, answering errors, or hanging) and sends one request through the entry. It must
// be an error within Limit (0: 90 s here), or an answer that declares its fallback, by the header X-Omnitest-Fallback or in the
// flow ledger: an undeclared 200 is decode alone, at the price of a prefill that nobody measures (llm-d's sidecar up to v0.8).
// Then prefill is mended, and one of the next three requests must be the right answer again.
//
// It sends 6 requests, two more where connections broke: two controls and a good one before, one to prefill itself to see that it
// is broken, one through the entry, one after. It leaves prefill mended, also where it fails.
func DeadPrefill(ctx context.Context, s handoff.Source, o Options) (res Result, err error) {
	if o.Limit <= 0 {
		o.Limit = deadPrefillLimit
	}
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	switch {
	case s.Entry == nil:
		return p.done(deadPrefillClaim, handoff.StateInconclusive, "no-entry", "there is no entry to send through: Source.Entry is not given")
	case p.Break == nil:
		return p.done(deadPrefillClaim, handoff.StateInconclusive, "no-break", "nobody can break this stack's prefill: Options.Break is not given")
	}
	x, err := p.subject(ctx, "before")
	if err != nil {
		return p.result, fmt.Errorf("dead prefill: %w", err)
	}
	if why, err := p.throughEntry(ctx, "entry before", x); why != "" || err != nil {
		if ctx.Err() != nil {
			return p.result, fmt.Errorf("dead prefill: %w", context.Cause(ctx))
		}
		if err != nil {
			why = err.Error()
		}
		return p.done(deadPrefillClaim, handoff.StateInconclusive, "not-well-before", "the stack was not well before prefill was broken: %s", why)
	}
	// The controls of what follows are asked now: broken, prefill gives none.
	after, err := p.subject(ctx, "after")
	if err != nil {
		return p.result, fmt.Errorf("dead prefill: %w", err)
	}
	ledger, err := handoff.Follow(ctx, s)
	if err != nil {
		return p.result, fmt.Errorf("dead prefill: %w", err)
	}
	mend, err := p.Break(ctx, "prefill")
	if err != nil {
		return p.result, fmt.Errorf("dead prefill: break prefill: %w", err)
	}
	mended := false
	defer func() {
		if mended {
			return
		}
		if bad := mend(); bad != nil && err == nil {
			err = fmt.Errorf("dead prefill: mend prefill: %w", bad)
		}
	}()
	p.forgetConnections()
	v, err := p.broken(ctx, ledger)
	if err != nil {
		return p.result, fmt.Errorf("dead prefill: %w", err)
	}
	p.result.Verdict = v
	if v.State != handoff.StateProven {
		return p.result, nil
	}
	mended = true
	if err := mend(); err != nil {
		return p.result, fmt.Errorf("dead prefill: mend prefill: %w", err)
	}
	return p.wellAgain(ctx, v, after)
}

// broken sends the one request that counts.
func (p *probe) broken(ctx context.Context, ledger *handoff.Following) (handoff.Verdict, error) {
	say := func(s handoff.State, rule, format string, args ...any) (handoff.Verdict, error) {
		return verdictOf(deadPrefillClaim, []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}, nil, nil), nil
	}
	how := p.howBroken(ctx)
	if how == "" {
		return say(handoff.StateInconclusive, "not-broken", "prefill still answers after Options.Break: nothing was tried")
	}
	r := p.Prompt()
	r.MaxTokens, r.Temperature = p.output(r), 0
	began := time.Now()
	t, err := p.ask(ctx, "entry", p.Source.Entry, "entry with prefill broken", r)
	took := time.Since(began)
	if ctx.Err() != nil {
		return handoff.Verdict{}, context.Cause(ctx)
	}
	seen := ledger.Read(ctx)
	var rec *flow.Record
	if n := len(seen.Records); n > 0 {
		rec = &seen.Records[n-1]
	}
	if err != nil {
		if k := api.KindOf(err); k == api.Timeout || k == api.Canceled {
			return say(handoff.StateRefuted, "hung", "prefill is broken (%s), and the entry gave no answer within %v: %s", how, p.Limit, lastEvent(rec))
		}
		return say(handoff.StateProven, "failed-openly", "with prefill broken (%s) the request failed after %.1f s: %v", how, took.Seconds(), err)
	}
	switch declared := t.Header.Get(fallbackHeader); {
	case declared != "":
		return say(handoff.StateProven, "declared", "with prefill broken (%s) decode answered alone and said so: %s: %s", how, fallbackHeader, declared)
	case rec != nil && rec.Fallback:
		return say(handoff.StateProven, "declared", "with prefill broken (%s) decode answered alone, and the flow ledger says so", how)
	case rec != nil && rec.Hop("prefill") != nil && rec.Hop("prefill").Status == http.StatusOK && rec.Hop("prefill").TicketOut != nil:
		return say(handoff.StateInconclusive, "not-broken", "the proxy's own prefill answered with a ticket: what Options.Break broke is another one (%s)", how)
	}
	return say(handoff.StateRefuted, "silent-fallback", "prefill is broken (%s), yet the entry answered 200 with %s and declared no fallback: decode answered alone; %s",
		how, textcheck.Quote(t.String()), lastEvent(rec))
}

func lastEvent(r *flow.Record) string {
	if r == nil {
		return "no flow ledger tells why"
	}
	return "the flow ledger: " + r.String()
}

// howBroken asks prefill itself for a ticket; "": it gives one.
func (p *probe) howBroken(ctx context.Context) string {
	r := p.Prompt()
	r.MaxTokens, r.Temperature, r.Ticket = 1, 0, p.dialect().Ask
	ctx, cancel := context.WithTimeoutCause(ctx, min(deadPrefillCheck, p.Limit), fmt.Errorf("it hangs"))
	defer cancel()
	t, err := p.Source.Prefill.API.Complete(ctx, r)
	p.keep("prefill itself, broken", "prefill", r, t, err)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx).Error()
	case err != nil:
		return err.Error()
	case p.dialect().Ask != nil && len(t.Ticket) == 0:
		return "it gives no ticket"
	}
	return ""
}

// throughEntry sends a subject through the proxy; why is what is wrong with the answer.
func (p *probe) throughEntry(ctx context.Context, role string, x *subject) (why string, err error) {
	t, err := p.ask(ctx, "entry", p.Source.Entry, role, x.request)
	if err != nil {
		return "", err
	}
	if declared := t.Header.Get(fallbackHeader); declared != "" {
		return "decode answers alone: " + declared, nil
	}
	if !p.rightText(t.String(), x) {
		return textcheck.Divergence(t.String(), x.control), nil
	}
	return "", nil
}

// wellAgain: prefill is mended. The proxy's connection that broke with it may cost a request, and so may the address of prefill
// that decode remembers.
func (p *probe) wellAgain(ctx context.Context, v handoff.Verdict, x *subject) (Result, error) {
	const tries = 3
	why := ""
	for i := range tries {
		var err error
		why, err = p.throughEntry(ctx, "entry after prefill was mended", x)
		if ctx.Err() != nil {
			return p.result, fmt.Errorf("dead prefill: %w", context.Cause(ctx))
		}
		if why == "" && err == nil {
			if i > 0 {
				v.Notes = append(v.Notes, fmt.Sprintf("after prefill was mended %d request%s failed first", i, plural(i)))
			}
			v.Reasons[0].Text += "; mended, it answers rightly again"
			p.result.Verdict = v
			return p.result, nil
		}
		if err != nil {
			why = err.Error()
		}
	}
	return p.done(deadPrefillClaim, handoff.StateRefuted, "not-well-again", "prefill was broken and mended, and the entry is still not well after %d requests: %s", tries, why)
}
