package handoff

import (
	"context"
	"fmt"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// PayloadProven judges the second handoff, from decode to the DiT, by the flow ledger: of each picture request the DiT was sent
// the very text that decode generated for it, after decode had ended. Text requests in the window are left out. It says nothing
// about what the DiT made of it: CrossedPayload (package probe) looks at the pictures.
//
// Where the plan is the client's own prompt, as an echoing model gives it, the ledger cannot tell which of the two was sent; a
// note says so.
func PayloadProven(e *Evidence) Verdict {
	return judge(e, "the DiT was sent the plan that decode made for this request", []rule{payloadLedger, payloads, failures})
}

// payloadLedger: without a ledger there is nothing to judge by.
func payloadLedger(c *exam) {
	switch {
	case !c.Flow.Kept:
		c.doubt("no-ledger", "", "no flow ledger (%s): what the DiT was sent is not known", orUnknown(c.Flow.Note))
	case c.Flow.Note != "":
		c.doubt("ledger-lost", "", "flow ledger %s", c.Flow.Note)
	}
}

// payloads compares, of every picture, what decode made with what the DiT was sent.
func payloads(c *exam) {
	makers := map[string]string{} // plan -> the request that decode made it for
	for i := range c.Flow.Records {
		if r := &c.Flow.Records[i]; lastHop(r, "decode") != nil {
			makers[lastHop(r, "decode").Plan] = r.RequestID
		}
	}
	sent, good := 0, 0
	for _, r := range c.requests {
		if r.rec == nil || r.rec.Outcome == "cancelled" || r.rec.Outcome == "in-flight" {
			if r.rec != nil && isPicture(r.rec) {
				c.doubt(r.rec.Outcome, r.id, "%s at the end of the window", r.rec.Outcome)
			} else if r.rec == nil && c.Flow.Kept && r.obs.Err == nil {
				c.doubt("not-in-ledger", r.id, "not in the proxy's flow ledger")
			}
			continue
		}
		d, t := lastHop(r.rec, "decode"), lastHop(r.rec, "dit")
		switch {
		case t == nil && d != nil && d.Plan != "" && r.rec.Outcome == "ok":
			c.refute("no-dit", r.id, "decode made a plan of %d bytes, and the answer was given without asking the DiT: whose picture is it?", len(d.Plan))
		case t == nil: // a text, or a picture that failed before the DiT: said by the rule failures
		case d == nil:
			c.refute("no-plan", r.id, "the DiT was sent %s, and decode was never asked for a plan", textcheck.Quote(t.Plan))
		case d.Plan == "" || t.Plan == "":
			c.doubt("plan-not-told", r.id, "the flow ledger does not tell the plan (decode %d bytes, dit %d bytes)", len(d.Plan), len(t.Plan))
		default:
			sent++
			if c.payload(r, d, t, makers) {
				good++
			}
		}
	}
	switch {
	case sent == 0 && len(c.reasons) == 0:
		c.doubt("no-picture", "", "no picture was made in this window: no plan went to a DiT")
	case good > 0 && good == sent:
		c.attest("payload", "%d plan%s went from decode to the DiT as made", good, plural(float64(good)))
	}
	c.numbers["payload.sent"], c.numbers["payload.same"] = float64(sent), float64(good)
}

func (c *exam) payload(r request, d, t *flow.Hop, makers map[string]string) bool {
	prompt := ""
	if r.obs != nil {
		prompt = r.obs.Prompt
	}
	switch owner := makers[t.Plan]; {
	case t.Plan == d.Plan && d.EndMS > 0 && t.StartMS < d.EndMS:
		c.refute("dit-too-early", r.id, "the DiT was asked at +%.0f ms, decode ended at +%.0f ms: that plan was not read to its end", t.StartMS, d.EndMS)
	case t.Plan == d.Plan:
		if prompt == d.Plan {
			c.note("request %s: its plan is the client's own prompt, so that which of the two was sent cannot be told", r.id)
		}
		return true
	case owner != "" && owner != r.rec.RequestID:
		c.refute("plan-crossed", r.id, "the DiT was sent the plan of request %s: %s, want %s", owner, textcheck.Quote(t.Plan), textcheck.Quote(d.Plan))
	case prompt != "" && t.Plan == prompt:
		c.refute("plan-ignored", r.id, "the DiT was sent the client's prompt %s, not decode's plan %s", textcheck.Quote(t.Plan), textcheck.Quote(d.Plan))
	default:
		c.refute("plan-altered", r.id, "the plan was altered between decode and the DiT: %s", textcheck.Divergence(t.Plan, d.Plan))
	}
	return false
}

// isPicture tells a request that was to end at the DiT, as far as it came.
func isPicture(r *flow.Record) bool {
	d := lastHop(r, "decode")
	return lastHop(r, "dit") != nil || d != nil && d.Plan != ""
}

// Following reads the flow ledger alone, for experiments in which a stage is down and no Window can be opened.
type Following struct{ ledger flowReader }

// Follow remembers where the flow ledger stands. A proxy that keeps none is no error; one that cannot be reached is.
func Follow(ctx context.Context, s Source) (*Following, error) {
	f := &Following{newFlowReader(s.Entry, s.Ledger)}
	if err := f.ledger.mark(ctx); err != nil {
		return nil, fmt.Errorf("follow the flow ledger: %w", err)
	}
	return f, nil
}

// Read gives the records since Follow.
func (f *Following) Read(ctx context.Context) Flow { return f.ledger.read(ctx) }
