package handoff

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/omnitest/suite/omnitest/flow"
)

// Conformant judges whether the proxy speaks the two-leg protocol (facts: vLLM's disaggregated-prefill proxies): prefill is asked
// once, for one token, not streamed, and to keep its blocks; decode gets the client's own request with prefill's ticket verbatim,
// under the same X-Request-Id; decode is not called when prefill failed; an error of a stage reaches the client as an error.
//
// It rests on the bodies of the legs (flow.Hop.Sent) and on the client's own request (flow.Record.Sent or Observation.Sent).
// What was not recorded is inconclusive. Package wiretap records both for any proxy.
func Conformant(e *Evidence) Verdict { return Conformance{}.Judge(e) }

// Conformance is what a proxy has declared to do differently. The zero value is Conformant.
type Conformance struct {
	OwnIDs    bool     // the legs carry different request ids on purpose
	MayChange []string // members of the client's request that decode may get changed, such as "model" behind a router
}

// Judge is Conformant with these declarations.
func (p Conformance) Judge(e *Evidence) Verdict {
	return judge(e, "the proxy speaks the two-leg protocol", []rule{ledgerKept, p.legRules, errorsReachClients, attestConformant})
}

// ledgerKept: without a ledger nothing of this can be seen.
func ledgerKept(c *exam) {
	switch {
	case !c.Flow.Kept:
		c.doubt("no-ledger", "", "no flow ledger (%s): put a wiretap in front of the stages", c.Flow.Note)
	case c.Flow.Note != "":
		c.doubt("ledger-lost", "", "flow ledger %s", c.Flow.Note)
	}
}

// legRules goes through the requests one by one.
func (p Conformance) legRules(c *exam) {
	if !c.Flow.Kept {
		return
	}
	for _, r := range c.requests {
		switch {
		case r.rec == nil:
			if c.Flow.Note == "" {
				c.doubt("not-in-ledger", r.id, "not in the flow ledger")
			}
			continue
		case r.rec.Outcome == "in-flight":
			c.doubt("in-flight", r.id, "still in flight at the end of the window")
			continue
		}
		pre, dec := answeredHops(r.rec, "prefill"), answeredHops(r.rec, "decode")
		if len(pre) > 1 {
			c.refute("second-prefill", r.id, "prefill was asked %d times and answered each: %s", len(pre), when(pre))
		}
		if len(dec) > 1 {
			c.refute("second-decode", r.id, "decode was asked %d times and answered each: %s", len(dec), when(dec))
		}
		ph, dh := lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
		if ph == nil && dh == nil {
			continue // refused before any stage was asked: no leg to judge
		}
		if ph == nil {
			c.refute("no-prefill", r.id, "sent to decode at %s without having been at prefill", at(dh.StartMS))
			continue
		}
		c.prefillLeg(r, ph)
		if dh == nil {
			if ph.TicketOut != nil && hopFailure(ph) == "" && r.rec.Outcome != "cancelled" {
				c.refute("no-decode", r.id, "prefill answered at %s with a ticket, decode was never called: its blocks wait for the lease to end", at(ph.EndMS))
			}
			continue
		}
		c.decodeAfterFailure(r, ph, dh)
		c.ticketVerbatim(r, ph, dh)
		if !p.OwnIDs {
			c.oneID(r, ph, dh)
		}
		p.restored(c, r, dh)
	}
}

func answeredHops(rec *flow.Record, stage string) []*flow.Hop {
	var found []*flow.Hop
	for i := range rec.Hops {
		if h := &rec.Hops[i]; h.Stage == stage && h.Status == 200 && h.Error == "" {
			found = append(found, h)
		}
	}
	return found
}

func when(hops []*flow.Hop) string {
	times := make([]string, len(hops))
	for i, h := range hops {
		times[i] = at(h.StartMS)
	}
	return strings.Join(times, ", ")
}

// decodeAfterFailure: a ticket is what decode is called with; who has none has nothing to hand on.
func (c *exam) decodeAfterFailure(r request, p, d *flow.Hop) {
	if r.declared() || p.EndMS == 0 || d.StartMS < p.EndMS { // legs that run side by side: some connectors want it so
		return
	}
	switch {
	case p.Status != 200 || p.Error != "":
		c.refute("decode-after-failure", r.id, "prefill failed at %s (%s), decode was called all the same at %s", at(p.EndMS), orUnknown(hopFailure(p)), at(d.StartMS))
	case c.d.Ask != nil && p.TicketOut == nil:
		c.refute("decode-after-failure", r.id, "prefill answered at %s without a ticket, decode was called all the same at %s", at(p.EndMS), at(d.StartMS))
	}
}

func (c *exam) ticketVerbatim(r request, p, d *flow.Hop) {
	if c.d.Ask == nil || p.TicketOut == nil || sameTicket(p.TicketOut, d.TicketIn) {
		return
	}
	if d.TicketIn == nil {
		c.refute("ticket-dropped", r.id, "ticket was sent by prefill at %s, never forwarded by proxy", at(p.EndMS))
	} else if owner := c.ownerOf(d, r.rec); owner != "" {
		c.refute("ticket-crossed", r.id, "decode was given the ticket of request %s", owner)
	} else {
		c.refute("ticket-altered", r.id, "ticket was altered between prefill and decode: %s", ticketChange(p.TicketOut, d.TicketIn))
	}
}

// oneID: vLLM names a response after X-Request-Id, and logs of two engines are joined by nothing else.
func (c *exam) oneID(r request, p, d *flow.Hop) {
	switch {
	case p.RequestID == "" && d.RequestID == "":
		c.note("request %s: no X-Request-Id on either leg: each engine makes its own", r.id)
	case p.RequestID != d.RequestID:
		c.refute("two-ids", r.id, "the legs carry different request ids: prefill %s, decode %s", quoted(p.RequestID), quoted(d.RequestID))
	}
}

func quoted(id string) string {
	if id == "" {
		return "none"
	}
	return fmt.Sprintf("%q", id)
}

// errorsReachClients: a stage's error that the client never hears of is F19 and F21 in one.
func errorsReachClients(c *exam) {
	for _, r := range c.requests {
		if r.rec == nil || r.rec.Outcome == "in-flight" || r.rec.Outcome == "cancelled" || len(r.rec.Hops) == 0 {
			continue
		}
		last := &r.rec.Hops[len(r.rec.Hops)-1]
		failure := hopFailure(last)
		if failure == "" || r.declared() {
			continue
		}
		switch {
		case r.obs == nil && r.rec.Taps == "stages":
			c.doubt("client-not-seen", r.id, "%s failed (%s); what the client was told was not recorded", last.Stage, failure)
		case r.answered200():
			c.refute("swallowed-error", r.id, "%s failed at %s (%s), and the client was answered as if it had not", last.Stage, at(last.EndMS), failure)
		}
	}
}

// attestConformant counts what was seen. Requests that show nothing of a leg attest nothing.
func attestConformant(c *exam) {
	whole, failed := 0, 0
	for _, r := range c.requests {
		if r.rec == nil {
			continue
		}
		p, d := lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
		switch {
		case p == nil || p.Sent == nil:
		case d != nil && d.Sent != nil:
			whole++
		case d == nil && hopFailure(p) != "" && !r.answered200():
			failed++
		}
	}
	var parts []string
	if whole > 0 {
		parts = append(parts, fmt.Sprintf("%d request%s: prefill asked once for one token, decode given the client's own request", whole, plural(float64(whole))))
		if c.d.Ask != nil {
			parts[0] += " with the ticket verbatim"
		}
	}
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d that failed at prefill: decode not called, client told", failed))
	}
	if len(parts) > 0 {
		c.attest("conformant", "%s", strings.Join(parts, "; "))
	}
}

// members reads a request as flow.Sent keeps it.
func members(sent json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(sent, &m) // nil: not recorded
	for k, v := range m {
		if string(v) == "null" { // a null is what an absent member is
			delete(m, k)
		}
	}
	return m
}
