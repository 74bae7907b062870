package handoff

import (
	"fmt"
	"strings"
)

// NoSilentFallback judges whether every answer of the window was made with prefill's KV, or said that it was not: an answer that
// decode made alone looks the same and takes as long as one without disaggregation (F1, F21: llm-d's sidecar up to v0.8 answered
// 200 whatever became of prefill).
//
// A fallback that the proxy declared is no silent one: the claim stands, and a note counts them. A request that failed openly
// also fulfils it. The flow ledger tells who was asked; decode's counters tell of prompts that it computed although it was handed
// a ticket (F17), and carry the verdict alone where no ledger is kept.
func NoSilentFallback(e *Evidence) Verdict {
	return judge(e, "no answer was made by decode alone without saying so",
		[]rule{decodeCounts, ledgerWhole, silentLegs, silentCompute, exclusive, attestNoFallback})
}

// decodeCounts: only decode's counters matter here. That prefill is dead is what this claim is often asked about.
func decodeCounts(c *exam) {
	if c.answered() == 0 {
		return
	}
	for _, fall := range c.Decode.Resets {
		c.doubt("counter-reset", "", "counter of decode fell back: %s: restarted?", fall)
		break // the others say the same
	}
	if c.Decode.Problem != "" {
		c.doubt("stage-problem", "", "%s", c.Decode.Problem)
	}
}

// ledgerWhole: what a ledger could not tell for certain is doubt about each claim that rests on it.
func ledgerWhole(c *exam) {
	switch {
	case c.Flow.Kept && c.Flow.Note != "":
		c.doubt("ledger-lost", "", "flow ledger %s", c.Flow.Note)
	case !c.Flow.Kept:
		c.note("no flow ledger (%s): which stages were asked is not known", c.Flow.Note)
	}
}

// answered200 is a request whose client has an answer that looks good. A client's own word outranks the ledger's, which may have
// been put together from legs alone.
func (r request) answered200() bool {
	switch {
	case r.obs != nil && r.obs.Err != nil:
		return false
	case r.obs != nil:
		return true
	}
	return r.rec.Outcome == "ok" && r.rec.Status < 300
}

// declared: the proxy's ledger or the answer's header says that decode ran alone.
func (r request) declared() bool {
	return r.rec != nil && r.rec.Fallback || r.obs != nil && r.obs.Fallback != ""
}

// silentLegs looks at the legs: an answer without prefill's ticket behind it.
func silentLegs(c *exam) {
	for _, r := range c.requests {
		if r.leftByUs() {
			c.doubt("own-deadline", r.id, "ended by our own deadline or cancellation: what it would have been answered is not known")
			continue
		}
		if !r.answered200() || r.declared() {
			continue
		}
		if r.rec == nil {
			if c.Flow.Kept && c.Flow.Note == "" && r.obs.RequestID != "" {
				c.doubt("not-in-ledger", r.id, "not in the flow ledger: which stages were asked for its answer is not known")
			}
			continue
		}
		if r.rec.Outcome == "in-flight" || r.rec.Outcome == "cancelled" {
			c.doubt(r.rec.Outcome, r.id, "%s at the end of the window, yet its client has an answer", r.rec.Outcome)
			continue
		}
		p, d := lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
		switch {
		case d == nil && p == nil:
			c.doubt("no-legs", r.id, "answered, and no stage was asked that the ledger knows of")
		case d == nil:
			c.doubt("no-decode", r.id, "answered, and decode was never called: the answer came from prefill or from elsewhere")
		case p == nil:
			c.refute("no-prefill", r.id, "answered by decode alone, prefill was never called, and no fallback was declared")
		case p.Status != 200 || p.Error != "" && p.TicketOut == nil:
			c.refute("silent-fallback", r.id, "prefill failed (%s), yet decode answered and no fallback was declared", orUnknown(hopFailure(p)))
		case c.d.Ask == nil: // prefill gives no tickets: the counters tell
		case p.TicketOut == nil:
			c.refute("silent-fallback", r.id, "prefill answered at +%.0f ms without a ticket, yet decode answered and no fallback was declared", p.EndMS)
		case p.TicketOut != nil && d.TicketIn == nil:
			c.refute("silent-fallback", r.id, "prefill's ticket of +%.0f ms was never forwarded, yet decode answered and no fallback was declared", p.EndMS)
		}
	}
}

// silentCompute looks at the sums: decode prefilled more than declared fallbacks explain.
func silentCompute(c *exam) {
	if c.answered() == 0 {
		return
	}
	computed, ok := c.computed()
	if !ok {
		c.doubt("absent-series", "", "decode does not tell what it computed itself (%s %s)", c.d.LocalCompute, c.Decode.signed(c.d.LocalCompute))
		return
	}
	declared, unknown := 0, false
	for _, r := range c.requests {
		if r.declared() && r.answered200() {
			declared += r.tokens()
			unknown = unknown || r.tokens() == 0
		}
	}
	if computed <= float64(declared)+c.tail() || unknown {
		if unknown {
			c.note("the prompts of declared fallbacks are of unknown length: decode's %.0f computed tokens are not split", computed)
		}
		return
	}
	text := fmt.Sprintf("decode computed %.0f of %s prompt tokens itself (iteration_tokens %s, bytes %s)",
		computed, count(&c.Decode, c.d.PromptTokens), c.Decode.signed(c.d.Iteration), unsigned(&c.Decode, c.d.Bytes)) + c.whose(computed)
	if declared > 0 {
		text += fmt.Sprintf(", and declared fallbacks explain only %d", declared)
	}
	if c.excused {
		c.doubt("computed-itself", "", "%s, but a request was preempted or aborted", text)
		return
	}
	if n := c.others(); n > 0 && computed-c.othersTokens() <= float64(declared)+c.tail() {
		c.doubt("computed-itself", "", "%s for %d answered requests and %.0f of somebody else's", text, c.answered(), n)
		return
	}
	c.refute("computed-itself", "", "%s for %d answered request%s", text, c.answered(), plural(float64(c.answered())))
}

// attestNoFallback counts what became of the requests.
func attestNoFallback(c *exam) {
	good, declared, failed := 0, 0, 0
	why := ""
	for _, r := range c.requests {
		switch {
		case r.leftByUs():
		case !r.answered200():
			if failed++; why == "" && r.rec != nil {
				why = r.rec.Error
			}
			if why == "" && r.obs != nil && r.obs.Err != nil {
				why = r.obs.Err.Error()
			}
		case r.declared():
			declared++
		default:
			good++
		}
	}
	if declared > 0 {
		c.note("%d fallback%s declared: decode answered alone and said so", declared, plural(float64(declared)))
	}
	var parts []string
	if good > 0 {
		computed, ok := c.computed()
		if !ok {
			return // without that, nothing speaks for these answers
		}
		parts = append(parts, fmt.Sprintf("%d answered, of whose prompts decode computed %.0f token%s itself", good, computed, plural(computed)))
	}
	if declared > 0 {
		parts = append(parts, fmt.Sprintf("%d declared as fallback", declared))
	}
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed openly: %s", failed, orUnknown(why)))
	}
	if len(parts) > 0 {
		c.attest("no-silent-fallback", "%s", strings.Join(parts, ", "))
	}
}
