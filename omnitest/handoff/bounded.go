package handoff

import (
	"fmt"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// Bounded judges whether every request of the window ended within its limit (F12, F13: servers that stay healthy while a request
// waits for ever). The limit is Observation.Limit, else the deadline that the request's client ran under. That a deadline is our
// own does not excuse the stack: its owner says how long a request may take, and the reason names the limit that was exceeded and
// the leg that was open. A request that its client cancelled is no measurement, unless a leg of it outlived the window.
func Bounded(e *Evidence) Verdict {
	return judge(e, "every request ended within its limit", []rule{stillBusy, hangs, attestBounded})
}

// stillBusy: an engine that works on after every client was answered or gone.
func stillBusy(c *exam) {
	for _, s := range []struct {
		name string
		*Stage
	}{{"prefill", &c.Prefill}, {"decode", &c.Decode}} {
		if s.Problem != "" {
			c.doubt("stage-problem", "", "%s", s.Problem)
		}
	}
}

func hangs(c *exam) {
	if c.Flow.Kept && c.Flow.Note != "" {
		c.note("flow ledger %s", c.Flow.Note)
	} else if !c.Flow.Kept {
		c.note("no flow ledger (%s): of a request that hangs the leg is not known", c.Flow.Note)
	}
	for _, r := range c.requests {
		o := r.obs
		switch {
		case o != nil && outOfTime(o.Err):
			c.refute("hang", r.id, "no answer after %s: %s", took(o), c.standstill(r))
		case o != nil && o.Limit > 0 && o.Took > o.Limit:
			how := "answered"
			if o.Err != nil {
				how = "failed"
			}
			c.refute("over-limit", r.id, "%s only after %s, its limit was %s: %s", how, seconds(o.Took), seconds(o.Limit), c.standstill(r))
		case r.rec != nil && r.rec.Outcome == "in-flight":
			age := c.Closed.Sub(r.rec.Start)
			if r.rec.Start.IsZero() || c.Closed.IsZero() {
				age = c.Closed.Sub(c.Opened)
			}
			c.refute("hang", r.id, "still open %s after it began, when the window closed: %s", seconds(age), c.standstill(r))
		case o != nil && o.Err != nil && ownDeadline(o.Err), o == nil && r.rec.Outcome == "cancelled":
			if h := openLeg(r.rec); h != nil && h.EndMS == 0 {
				c.refute("hang", r.id, "its client left, and the legs went on beyond the end of the window: %s", c.standstill(r))
			} else {
				c.note("request %s was cancelled by its client: how long it would have taken is not known", r.id)
			}
		case o != nil && o.Limit > 0 && o.Took == 0:
			c.doubt("not-timed", r.id, "its limit was %s, and how long it took was not told", seconds(o.Limit))
		}
	}
}

// took is how long a client waited before its own deadline ended it.
func took(o *Observation) string {
	switch {
	case o.Took > 0 && o.Limit > 0:
		return fmt.Sprintf("%s (limit %s)", seconds(o.Took), seconds(o.Limit))
	case o.Took > 0:
		return seconds(o.Took)
	case o.Limit > 0:
		return "its limit of " + seconds(o.Limit)
	}
	return "its client's deadline (" + o.Err.Error() + ")"
}

// standstill is where a request stands: "decode leg open since +14 ms; prefill answered at +12 ms with a ticket; 0 bytes moved".
func (c *exam) standstill(r request) string {
	text := "which leg was open is not known"
	if r.rec != nil {
		text = legs(r.rec)
	}
	if c.d.Bytes.Name != "" {
		if moved, ok := c.Decode.get(c.d.Bytes); ok {
			text += fmt.Sprintf("; %.0f bytes moved", moved)
		} else {
			text += "; bytes moved: " + c.Decode.signed(c.d.Bytes)
		}
		if len(c.requests) > 1 {
			text += " in the window"
		}
	}
	return text
}

// legs tells the open leg first, then those before it, latest first.
func legs(rec *flow.Record) string {
	if len(rec.Hops) == 0 {
		return "no stage had been asked"
	}
	text := ""
	open := openLeg(rec)
	if open != nil {
		text = open.Stage + " leg open since " + at(open.StartMS)
		if open.FirstByteMS > 0 {
			text += fmt.Sprintf(", its answer began at %s and stopped after %d bytes", at(open.FirstByteMS), open.Bytes)
		}
	}
	for i := range slices.Backward(rec.Hops) {
		h := &rec.Hops[i]
		if h == open {
			continue
		}
		switch {
		case text != "":
			text += "; "
		case rec.Outcome == "in-flight" || rec.Outcome == "cancelled":
			text = "between the legs: "
		}
		switch {
		case hopFailure(h) != "":
			text += fmt.Sprintf("%s failed at %s (%s)", h.Stage, at(h.EndMS), hopFailure(h))
		case h.Stage == "prefill" && h.TicketOut != nil:
			text += fmt.Sprintf("prefill answered at %s with a ticket", at(h.EndMS))
		case h.Stage == "prefill":
			text += fmt.Sprintf("prefill answered at %s without a ticket", at(h.EndMS))
		default:
			text += fmt.Sprintf("%s answered at %s", h.Stage, at(h.EndMS))
		}
	}
	return text
}

// openLeg is the leg that a request waits for, or waited for when its client left. nil: none, it rests between them.
func openLeg(rec *flow.Record) *flow.Hop {
	if rec == nil || len(rec.Hops) == 0 {
		return nil
	}
	for i := range slices.Backward(rec.Hops) {
		if rec.Hops[i].EndMS == 0 {
			return &rec.Hops[i]
		}
	}
	// A leg that ended because the client left was open until then.
	if h := &rec.Hops[len(rec.Hops)-1]; rec.Outcome == "cancelled" && h.Error != "" {
		return h
	}
	return nil
}

// hopFailure says why a leg gave no good answer; "" if it did.
func hopFailure(h *flow.Hop) string {
	switch {
	case h.Error != "":
		return h.Error
	case h.EndMS > 0 && h.Status == 0:
		return "no answer"
	case h.Status >= 300:
		return fmt.Sprintf("HTTP %d", h.Status)
	}
	return ""
}

// attestBounded counts the requests that ended, and names the slowest.
func attestBounded(c *exam) {
	n, slowest, timed, left := 0, time.Duration(0), 0, 0
	for _, r := range c.requests {
		switch {
		case r.obs != nil && outOfTime(r.obs.Err), r.rec != nil && r.rec.Outcome == "in-flight":
			continue // said by the rule hangs
		case r.leftByUs(), r.obs == nil && r.rec.Outcome == "cancelled":
			if h := openLeg(r.rec); h == nil || h.EndMS > 0 {
				left++
			}
			continue
		}
		n++
		d := time.Duration(0)
		if r.obs != nil {
			d = r.obs.Took
		}
		if d == 0 && r.rec != nil {
			d = duration(r.rec.EndMS)
		}
		if d > 0 {
			timed++
		}
		slowest = max(slowest, d)
	}
	if n == 0 {
		if left == len(c.requests) {
			c.doubt("nothing-timed", "", "every request was ended by its client: none tells how long the stack takes")
		}
		return
	}
	text := fmt.Sprintf("%d request%s ended", n, plural(float64(n)))
	if timed > 0 {
		c.numbers["slowest_ms"] = milliseconds(slowest)
		text += fmt.Sprintf(", the slowest of %d timed after %s", timed, seconds(slowest))
	}
	c.attest("bounded", "%s", text)
}

func at(ms float64) string { return fmt.Sprintf("+%.0f ms", ms) }

// seconds prints a duration for a report: "41 ms", "5.0 s".
func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
