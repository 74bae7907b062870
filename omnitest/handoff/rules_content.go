package handoff

import (
	"fmt"
	"strings"

	"github.com/omnitest/suite/omnitest/textcheck"
)

// answers: every answer is the wanted one, and nobody else's.
func answers(c *exam) {
	for _, r := range c.requests {
		switch o := r.obs; {
		case r.broken():
			// said by the rule failures
		case o == nil:
			c.doubt("not-observed", r.id, "its answer was not shown to the window: content not compared")
		case o.Want == "" && o.WantFrom == "" && len(o.Foreign) == 0:
			c.doubt("not-compared", r.id, "nothing to compare its answer with")
		default:
			c.compare(r)
		}
	}
}

func (c *exam) compare(r request) {
	o := r.obs
	for _, f := range o.Foreign {
		if f != "" && strings.Contains(o.Got, f) && !strings.Contains(o.Want, f) {
			c.refute("foreign-content", r.id, "answer contains %s, which belongs to another request", textcheck.Quote(f))
			return
		}
		if from, to := textcheck.ForeignRun(o.Got, f, o.Want); to > from && o.Want != "" {
			c.refute("foreign-content", r.id, "bytes %d to %d of the answer, %s, belong to another request", from, to, textcheck.Quote(o.Got[from:to]))
			return
		}
	}
	if o.Want == "" && o.WantFrom == "" {
		c.doubt("not-compared", r.id, "nothing to compare its answer with")
		return
	}
	if o.Got == o.Want {
		return
	}
	for _, other := range c.requests {
		if other.obs == nil || other.obs == o || other.obs.Want == o.Want {
			continue
		}
		if o.Got == other.obs.Want {
			c.refute("foreign-content", r.id, "answered with the text of request %s: %s%s", other.id, textcheck.Quote(o.Got), c.ownTicket(r))
			return
		}
		if from, to := textcheck.ForeignRun(o.Got, other.obs.Want, o.Want); to > from {
			c.refute("foreign-content", r.id, "bytes %d to %d of the answer are the text of request %s: %s%s", from, to, other.id, textcheck.Quote(o.Got[from:to]), c.ownTicket(r))
			return
		}
	}
	if m, ok := textcheck.Undecided(o.Margins, o.Got, o.Want); ok {
		c.doubt("near-tie", r.id, "%s (%s), but there the control itself was undecided: %.3f nats between its two best tokens",
			textcheck.Divergence(o.Got, o.Want), orUnknown(o.WantFrom), m.Nats)
		return
	}
	c.refute("wrong-content", r.id, "%s (%s)%s", textcheck.Divergence(o.Got, o.Want), orUnknown(o.WantFrom), c.partialHit())
}

// partialHit names the trap of a transfer behind a prefix that decode has already: the blocks that follow must come from the
// middle of the ticket, and bytes and tokens are the same if they come from its beginning. "" where it does not apply.
func (c *exam) partialHit() string {
	hit, ok1 := c.Decode.get(c.d.LocalHit)
	external, ok2 := c.Decode.get(c.d.External)
	if !ok1 || !ok2 || hit == 0 || external == 0 || len(c.requests) > 1 {
		return ""
	}
	return fmt.Sprintf("; decode had %.0f tokens itself and took %.0f: wrong blocks of the ticket behind that prefix?", hit, external)
}

// ownTicket says, of an answer with another request's text, that the ticket was the right one: then the blocks themselves were
// given to somebody else too early, and the counters may tell that the lease had ended. "" where the flow is not known.
func (c *exam) ownTicket(r request) string {
	if r.rec == nil {
		return ""
	}
	p, d := lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
	if p == nil || d == nil || p.TicketOut == nil || !sameTicket(p.TicketOut, d.TicketIn) {
		return ""
	}
	expired, _ := c.Prefill.get(c.d.Expired)
	late, _ := c.Prefill.get(c.d.LateNotices)
	if n := max(expired, late); n > 0 {
		return fmt.Sprintf(", though it had its own ticket: prefill had given up %.0f ticket%s, its lease ended too early", n, plural(n))
	}
	return ", though it had its own ticket: blocks freed too early, or the wrong ones read"
}

// attestContent names the yardstick of the answers.
func attestContent(c *exam) {
	by := map[string]int{}
	var order []string
	for _, r := range c.requests {
		if r.obs == nil || r.obs.Err != nil || r.obs.Got != r.obs.Want {
			continue
		}
		if by[r.obs.WantFrom]++; by[r.obs.WantFrom] == 1 {
			order = append(order, r.obs.WantFrom)
		}
	}
	for _, from := range order {
		c.attest("content", "%d answer%s as wanted (%s)", by[from], plural(float64(by[from])), orUnknown(from))
	}
}
