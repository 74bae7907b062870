package handoff

import (
	"strings"

	"github.com/omnitest/suite/omnitest/flow"
)

// hops: every request went to prefill and then to decode, and both answered.
func hops(c *exam) {
	if c.Flow.Kept && c.Flow.Note != "" {
		c.doubt("ledger-lost", "", "flow ledger %s", c.Flow.Note)
		return
	}
	if !c.Flow.Kept {
		c.note("no flow ledger (%s): who carried which ticket is not known, counters and answers decide", c.Flow.Note)
		return
	}
	for _, r := range c.requests {
		switch {
		case r.rec == nil && r.obs.RequestID == "":
			c.note("request %s has no id: it was not looked up in the flow ledger", r.id)
			continue
		case r.rec == nil:
			c.doubt("not-in-ledger", r.id, "not in the proxy's flow ledger")
			continue
		case r.rec.Outcome == "cancelled":
			if !r.leftByUs() { // said by the rule failures, with the cause
				c.doubt("cancelled", r.id, "the client went away before the end")
			}
			continue
		case r.rec.Outcome == "in-flight":
			c.doubt("in-flight", r.id, "still in flight at the end of the window")
			continue
		}
		p, d := lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
		switch {
		case p == nil && d == nil:
			// Refused before any stage was asked: the proxy's error is the finding, made below.
		case p == nil:
			c.refute("no-prefill", r.id, "sent to decode without having been at prefill")
		case d == nil && p.TicketOut != nil:
			c.refute("no-decode", r.id, "prefill answered at +%.0f ms, decode was never called", p.EndMS)
		}
	}
}

// failures: a request that gave no answer shows no handoff, whatever moved before it failed. One that we ended ourselves
// shows nothing at all.
func failures(c *exam) {
	for _, r := range c.requests {
		switch {
		case r.leftByUs():
			c.doubt("own-deadline", r.id, "ended by our own deadline or cancellation, not by the stack: %v", r.obs.Err)
		case r.obs != nil && r.obs.Err != nil:
			c.refute("request-failed", r.id, "request failed: %v", r.obs.Err)
		case r.rec != nil && r.rec.Outcome == "failed":
			c.refute("request-failed", r.id, "proxy failed the request: %s", orUnknown(r.rec.Error))
		}
	}
}

// fallback: declared is honest, but it is not a handoff.
func fallback(c *exam) {
	for _, r := range c.requests {
		if r.rec != nil && r.rec.Fallback {
			c.refute("fallback", r.id, "proxy let decode run without a ticket and declared it: %s", orUnknown(prefillError(r.rec)))
		}
	}
}

// tickets: prefill gave a usable one, and decode got that very one.
func tickets(c *exam) {
	if c.d.Ask == nil {
		return
	}
	for _, r := range c.requests {
		if r.rec == nil || r.rec.Outcome == "cancelled" || r.rec.Outcome == "in-flight" {
			continue
		}
		p, d := lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
		if n := ticketsGiven(r.rec); n > 1 {
			c.refute("ticket-unused", r.id, "prefill was made to give %d tickets for it: the blocks of all but one wait for their lease to end", n)
		}
		switch {
		case p == nil:
		case p.TicketOut == nil:
			if p.Status == 200 && p.Error == "" {
				c.refute("no-ticket", r.id, "prefill answered at +%.0f ms without a ticket", p.EndMS)
			} else if r.rec.Outcome == "ok" && !r.rec.Fallback {
				c.refute("no-ticket", r.id, "prefill failed (%s), yet decode answered without a declared fallback", orUnknown(p.Error))
			}
		case d == nil:
		case d.TicketIn == nil:
			c.refute("ticket-dropped", r.id, "ticket was sent by prefill at +%.0f ms, never forwarded by proxy", p.EndMS)
		case !sameTicket(p.TicketOut, d.TicketIn):
			if owner := c.ownerOf(d, r.rec); owner != "" {
				c.refute("ticket-crossed", r.id, "decode was given the ticket of request %s", owner)
			} else {
				c.refute("ticket-altered", r.id, "ticket was altered between prefill and decode: %s", ticketChange(p.TicketOut, d.TicketIn))
			}
		default:
			if string(compact(p.TicketOut)) != string(compact(d.TicketIn)) {
				c.note("request %s: the proxy decoded its ticket and encoded it again, the values are the same", r.id)
			}
			if err := CheckTicket(c.d, p.TicketOut); err != nil {
				c.refute("ticket-malformed", r.id, "prefill's %v", err)
			}
		}
	}
}

func ticketsGiven(r *flow.Record) int {
	n := 0
	for i := range r.Hops {
		if r.Hops[i].Stage == "prefill" && r.Hops[i].TicketOut != nil {
			n++
		}
	}
	return n
}

// ownerOf finds the request whose ticket a decode leg was given. A ticket from before the window is recognised by the
// request id inside it: vLLM's remote_request_id is "cmpl-<X-Request-Id>-0-<suffix>".
func (c *exam) ownerOf(d *flow.Hop, self *flow.Record) string {
	if c.owners == nil {
		c.owners = map[string]string{}
		for i := range c.Flow.Records {
			r := &c.Flow.Records[i]
			for j := range r.Hops {
				if t := r.Hops[j].TicketOut; t != nil {
					c.owners[string(canonical(t))] = r.RequestID
				}
			}
		}
	}
	if owner := c.owners[string(canonical(d.TicketIn))]; owner != "" {
		return owner
	}
	theirs, ours := remoteRequest(d.TicketIn), ""
	if p := lastHop(self, "prefill"); p != nil {
		ours = remoteRequest(p.TicketOut)
	}
	if theirs != "" && ours != "" && theirs != ours {
		return strings.TrimPrefix(strings.TrimPrefix(theirs, "chat"), "cmpl-") + " (from before the window)"
	}
	return ""
}

func prefillError(r *flow.Record) string {
	if h := lastHop(r, "prefill"); h != nil && h.Error != "" {
		return "prefill: " + h.Error
	}
	return r.Error
}

func orUnknown(s string) string {
	if s == "" {
		return "no cause given"
	}
	return s
}
