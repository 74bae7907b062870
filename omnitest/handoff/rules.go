package handoff

import (
	"fmt"

	"github.com/omnitest/suite/omnitest/flow"
)

// rule looks at a case and adds what it finds. Rules do not see each other's findings.
type rule func(*exam)

// movement are the rules about flow and counters, causes before effects; a verdict lists findings in this order.
var movement = []rule{
	stageProblems, alternates, failedTransfers, computedItself, claimsWithoutBytes, prefillDidNothing, prefillLegs,
	hops, fallback, tickets, bytesMoved, usageLies, kvHeld, failures, nothingToMove,
	absentSeries, frozen, preempted, expired, exclusive, lacks, attestMovement,
}

// contentRules are what Proven asks beyond Moved.
var contentRules = []rule{answers, attestContent}

// exam is one evidence under judgement.
type exam struct {
	*Evidence
	d        *Dialect
	requests []request
	failed   int               // requests that gave no answer
	owners   map[string]string // compact ticket -> the request that prefill made it for; filled at first need
	excused  bool              // some request was aborted, by its client or by us, or preempted: computed tokens prove nothing
	reasons  []Reason
	notes    []string
	numbers  map[string]float64
}

// request joins what two ledgers know of one request. Either side may be nil.
type request struct {
	id  string
	rec *flow.Record
	obs *Observation
}

func newCase(e *Evidence) *exam {
	c := &exam{Evidence: e, d: e.d(), numbers: map[string]float64{}}
	if c.Dialect != "" && c.d.Name != c.Dialect {
		c.doubt("unknown-dialect", "", "the evidence was gathered in the dialect %s, which this build does not know", c.Dialect)
	}
	records := recordsByID(e.Flow.Records)
	joined := make(map[*flow.Record]bool, len(records))
	for i := range e.Observations {
		o := &e.Observations[i]
		r := request{id: o.RequestID, obs: o, rec: records[o.RequestID]}
		if o.RequestID == "" {
			r.id, r.rec = fmt.Sprintf("#%d", i+1), nil
		}
		joined[r.rec] = true
		c.requests = append(c.requests, r)
	}
	for i := range e.Flow.Records {
		if rec := &e.Flow.Records[i]; !joined[rec] && throughAR(rec) {
			c.requests = append(c.requests, request{id: rec.RequestID, rec: rec})
		}
	}
	for _, r := range c.requests {
		if r.broken() {
			c.failed++
		}
		if r.leftByUs() || r.rec != nil && (r.rec.Outcome == "cancelled" || r.rec.Outcome == "in-flight") {
			c.excused = true
		}
	}
	if n, ok := e.Decode.get(c.d.Preemptions); ok && n > 0 {
		c.excused = true
	}
	for name, x := range map[string]Series{
		"decode.prompt_tokens": c.d.PromptTokens, "decode.external_tokens": c.d.External,
		"decode.local_compute_tokens": c.d.LocalCompute, "decode.local_hit_tokens": c.d.LocalHit,
		"decode.generated_tokens": c.d.Generated, "decode.iteration_tokens": c.d.Iteration,
		"decode.bytes": c.d.Bytes, "decode.transfers": c.d.Transfers,
	} {
		if v, ok := e.Decode.get(x); ok && x.Name != "" {
			c.numbers[name] = v
		}
	}
	if v, ok := e.Prefill.get(c.d.PromptTokens); ok {
		c.numbers["prefill.prompt_tokens"] = v
	}
	if v, ok := c.computed(); ok {
		c.numbers["decode.computed_tokens"] = v
	}
	return c
}

// recordsByID finds the first record of each request id.
func recordsByID(records []flow.Record) map[string]*flow.Record {
	m := make(map[string]*flow.Record, len(records))
	for i := range records {
		if r := &records[i]; m[r.RequestID] == nil {
			m[r.RequestID] = r
		}
	}
	return m
}

// throughAR leaves out what has no handoff: a picture that goes straight to the DiT.
func throughAR(r *flow.Record) bool {
	return len(r.Hops) == 0 || r.Hop("prefill") != nil || r.Hop("decode") != nil
}

func (r request) broken() bool {
	return r.obs != nil && r.obs.Err != nil || r.rec != nil && r.rec.Outcome == "failed"
}

// leftByUs is a request that our own deadline or cancellation ended: the engine may have been slow, dead or healthy.
func (r request) leftByUs() bool { return r.obs != nil && ownDeadline(r.obs.Err) }

// choices is how many sequences the request asked for.
func (r request) choices() int {
	if r.obs == nil {
		return 1
	}
	return max(1, r.obs.Choices)
}

// tokens is the prompt length, 0 if nobody told it.
func (r request) tokens() int {
	if r.obs != nil && r.obs.PromptTokens > 0 {
		return r.obs.PromptTokens
	}
	if r.rec != nil {
		if h := lastHop(r.rec, "prefill"); h != nil {
			return ticketTokens(h.TicketOut)
		}
	}
	return 0
}

func (c *exam) refute(rule, request, format string, args ...any) {
	c.say(StateRefuted, rule, request, format, args...)
}

func (c *exam) doubt(rule, request, format string, args ...any) {
	c.say(StateInconclusive, rule, request, format, args...)
}

func (c *exam) attest(rule, format string, args ...any) {
	c.say(StateProven, rule, "", format, args...)
}

// say records a finding. A request is named only where there are several, so that a report about one reads straight.
func (c *exam) say(s State, rule, request, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if request != "" && len(c.requests) > 1 {
		text = "request " + request + ": " + text
	}
	c.reasons = append(c.reasons, Reason{s, rule, request, text})
}

func (c *exam) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// computed is how many prompt tokens decode prefilled itself. Two instruments tell it, the tokens by source and iteration
// minus generated tokens (recorded: +16 with a ticket, +116 without, for 100 prompt and 16 output tokens); the larger counts,
// because an engine that claims a transfer it did not make lies in the first only.
func (c *exam) computed() (float64, bool) {
	local, ok1 := c.Decode.get(c.d.LocalCompute)
	iteration, ok2 := c.Decode.get(c.d.Iteration)
	generated, ok3 := c.Decode.get(c.d.Generated)
	switch {
	case ok1 && ok2 && ok3:
		return max(local, iteration-generated), true
	case ok2 && ok3:
		return max(0, iteration-generated), true
	}
	return local, ok1
}

// tail is how much of that is within the engine's rights.
func (c *exam) tail() float64 { return c.d.tail(c.answered(), c.BlockSize) }

// answered is how many sequences decode should have finished. A request with n choices counts n times.
func (c *exam) answered() int {
	n := 0
	for _, r := range c.requests {
		switch {
		case r.broken() || r.rec != nil && r.rec.Outcome == "cancelled":
		default:
			n += r.choices()
		}
	}
	return n
}
