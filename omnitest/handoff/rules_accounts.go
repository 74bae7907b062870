package handoff

import (
	"fmt"
	"strings"
)

// kvHeld: an engine that is idle has given back what the window's requests held. Prefill keeps the blocks of a ticket until
// decode says that it has them, so a decode that never says so fills prefill's pool, one lease long each; a decode that
// loses blocks fills its own for ever.
//
// Usage may fall in a window because older leases end, which hides a leak and accuses nobody. It may lag: Close waits for it.
func kvHeld(c *exam) {
	for _, s := range []struct {
		name string
		*Stage
	}{{"decode", &c.Decode}, {"prefill", &c.Prefill}} {
		if len(s.Counters) == 0 || s.Problem != "" || len(s.Resets) > 0 {
			continue // said by the rule stageProblems; it may not be idle
		}
		if s.UsageBefore == nil || s.UsageAfter == nil {
			c.note("%s of %s not told: whether all KV blocks were given back is not known", c.d.Usage, s.name)
			continue
		}
		before, after := *s.UsageBefore, *s.UsageAfter
		if after <= before+usageSlack {
			continue
		}
		text := fmt.Sprintf("%s is idle and still holds KV blocks: usage %.4f, before the window %.4f", s.name, after, before)
		switch {
		case c.excused || c.failed > 0:
			c.note("%s: a request was preempted, aborted or failed", text)
		case s.name == "prefill" && c.unpulled():
			c.note("%s: of a ticket that decode never pulled", text)
		case s.name == "prefill":
			c.refute("kv-held", "", "%s: was it told that decode has them?", text)
		default:
			c.refute("kv-held", "", "%s", text)
		}
	}
}

// unpulled tells that some ticket of the window was not pulled, as far as transfers tell: prefill then rightly holds its blocks
// until the lease ends, and why it was not pulled is other rules' finding.
func (c *exam) unpulled() bool {
	if c.d.Ask == nil {
		return false
	}
	pulls, ok := c.Decode.get(c.d.Transfers)
	legs := 0
	for _, r := range c.requests {
		if r.rec == nil || ticketsGiven(r.rec) > 0 {
			legs++
		}
	}
	return !ok || int(pulls) < legs
}

// prefillLegs: a prefill leg asks for one token, of the same prompt that decode gets. More means that prefill wrote the answer
// as well; that its KV was then used by decode is no longer what was tested.
func prefillLegs(c *exam) {
	if len(c.Prefill.Counters) == 0 || len(c.Prefill.Resets) > 0 || c.Prefill.Problem != "" {
		return
	}
	finished, ok := c.Prefill.get(c.d.Finished)
	if !ok {
		return
	}
	legs, most := c.legs()
	if int(finished) > most {
		c.doubt("not-exclusive", "", "prefill finished %.0f request%s in the window, only %d known: something else used the stack", finished, plural(finished), most)
		return // its sums are not ours
	}
	leg := "ticket leg"
	if c.d.Ask == nil {
		leg = "prefill leg"
	}
	asks := "asks"
	if most > 1 {
		leg, asks = leg+"s", "ask"
	}
	generated, ok := c.Prefill.get(c.d.Generated)
	switch {
	case !ok:
	case int(generated) > most:
		c.refute("prefill-generates", "", "prefill generated %.0f tokens for %d %s, which %s for %d", generated, most, leg, asks, most)
	case int(finished) == legs && generated > 0 && int(generated) < legs: // 0 is a frozen counter
		c.doubt("prefill-generates", "", "prefill generated %.0f token%s for %d %s, which %s for %d", generated, plural(generated), legs, leg, asks, legs)
	}

	did, ok1 := c.Prefill.get(c.d.PromptTokens)
	got, ok2 := c.Decode.get(c.d.PromptTokens)
	if ok1 && ok2 && did != got && did > 0 && got > 0 && legs == most && legs == len(c.requests) && int(finished) == legs && c.accountable() {
		c.doubt("prompts-differ", "", "prefill processed %.0f prompt tokens, decode %.0f: not the same prompts, or one of them miscounts", did, got)
	}
}

// legs bounds how many requests prefill finished for this window: exactly by the ledger, else one for each request, or for each
// of its choices where a proxy hands n on.
func (c *exam) legs() (least, most int) {
	for _, r := range c.requests {
		if r.rec == nil {
			least++
			most += r.choices()
			continue
		}
		for i := range r.rec.Hops {
			if h := &r.rec.Hops[i]; h.Stage == "prefill" {
				if most++; h.Status == 200 && h.Error == "" {
					least++
				}
			}
		}
		most += r.choices() - 1
	}
	return least, most
}

// accountable: every request was answered, with one choice, and decode finished as many as that. Only then are sums over
// requests and sums of counters the same thing.
func (c *exam) accountable() bool {
	finished, ok := c.Decode.get(c.d.Finished)
	if !ok || c.failed > 0 || c.excused || int(finished) != len(c.requests) || len(c.Decode.Resets) > 0 || c.Decode.Problem != "" {
		return false
	}
	for _, r := range c.requests {
		if r.choices() > 1 {
			return false
		}
	}
	return true
}

// usageLies: what the clients were told of tokens and what decode counted is one number, told twice (recorded equal in every
// case that was answered). It is the only check that all of an engine's counters are not scaled alike.
func usageLies(c *exam) {
	if !c.accountable() {
		return
	}
	prompts, outputs, cached, untold := 0, 0, 0, 0
	allPrompts, allOutputs := true, true
	for _, r := range c.requests {
		var o Observation
		if r.obs != nil {
			o = *r.obs
		}
		prompts, outputs, cached = prompts+o.PromptTokens, outputs+o.OutputTokens, cached+o.CachedTokens
		allPrompts, allOutputs = allPrompts && o.PromptTokens > 0, allOutputs && o.OutputTokens > 0
		if o.PromptTokens == 0 || o.OutputTokens == 0 {
			untold++
		}
		if o.CachedTokens > o.PromptTokens && o.PromptTokens > 0 {
			c.refute("usage-lies", r.id, "the client was told of %d cached tokens in a prompt of %d", o.CachedTokens, o.PromptTokens)
		}
	}
	if untold > 0 {
		c.note("usage of %d of %d answers not told: not compared with decode's counters", untold, len(c.requests))
	}
	who := "the client was"
	if len(c.requests) > 1 {
		who = "the clients were"
	}
	if counted, ok := c.Decode.get(c.d.PromptTokens); ok && allPrompts && counted > 0 && float64(prompts) != counted {
		c.refute("usage-lies", "", "%s told of %d prompt tokens, decode counted %.0f%s", who, prompts, counted, c.ticketsTell())
	}
	if counted, ok := c.Decode.get(c.d.Generated); ok && allOutputs && counted > 0 && float64(outputs) != counted {
		c.refute("usage-lies", "", "%s told of %d output tokens, decode counted %.0f", who, outputs, counted)
	}
	// cached_tokens are the local hits (recorded: 96 of 100 in 02, 0 for a transfer); another version may count what came from
	// the other engine as well.
	hit, ok1 := c.Decode.get(c.d.LocalHit)
	external, ok2 := c.Decode.get(c.d.External)
	if ok1 && ok2 && allPrompts && cached <= prompts && float64(cached) > hit+external {
		c.refute("usage-lies", "", "%s told of %d cached prompt tokens, decode counted %.0f from its cache and %.0f from prefill", who, cached, hit, external)
	}
}

// ticketsTell brings in a third witness of prompt lengths: the tickets.
func (c *exam) ticketsTell() string {
	sum := 0
	var odd []string
	for _, r := range c.requests {
		if r.rec == nil {
			return ""
		}
		h := lastHop(r.rec, "prefill")
		if h == nil || ticketTokens(h.TicketOut) == 0 {
			return ""
		}
		n := ticketTokens(h.TicketOut)
		sum += n
		if r.obs != nil && r.obs.PromptTokens != n && len(c.requests) > 1 {
			odd = append(odd, fmt.Sprintf("%d and %d for request %s", r.obs.PromptTokens, n, r.id))
		}
	}
	text := fmt.Sprintf(", prefill's tickets say %d", sum)
	if len(odd) > 0 {
		text += " (" + strings.Join(odd[:min(3, len(odd))], ", ") + ")"
	}
	return text
}

// frozen: a counter that stands still while its neighbours move is broken, and every rule that reads it passes for the wrong
// reason. That all stand still is the rule nothingToMove's finding.
func frozen(c *exam) {
	n := c.answered()
	if n == 0 {
		return
	}
	for _, s := range []struct {
		name string
		*Stage
	}{{"decode", &c.Decode}, {"prefill", &c.Prefill}} {
		if len(s.Resets) > 0 || s.Problem != "" {
			continue
		}
		var still []string
		moving := false
		for _, x := range []Series{c.d.PromptTokens, c.d.Generated, c.d.Iteration, c.d.Finished} {
			v, ok := s.get(x)
			moving = moving || ok && v > 0
			if ok && v == 0 {
				still = append(still, x.String())
			}
		}
		if moving && len(still) > 0 {
			verb := "was"
			if n > 1 {
				verb = "were"
			}
			c.doubt("frozen-counter", "", "%s of %s did not move although %d request%s %s answered", strings.Join(still, ", "), s.name, n, plural(float64(n)), verb)
		}
		// vLLM adds both up from one and the same step: the tokens it computed of prompts and those it generated.
		iteration, ok1 := s.get(c.d.Iteration)
		generated, ok2 := s.get(c.d.Generated)
		if ok1 && ok2 && iteration > 0 && iteration < generated {
			c.doubt("frozen-counter", "", "%s of %s rose by %.0f for %.0f generated tokens: it counts those and the computed ones", c.d.Iteration, s.name, iteration, generated)
		}
	}
}
