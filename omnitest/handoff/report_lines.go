package handoff

import (
	"encoding/json"
	"fmt"

	"github.com/omnitest/suite/omnitest/flow"
)

// Line is what the ledgers together tell of one request of a window. Counters carry no names: a figure of a single request is
// given only where the sums leave no other choice. A figure that nobody told is nil, never 0.
type Line struct {
	Request string `json:"request"` // its id, "#3" for the third without one
	// State is refuted where Proven accuses this request by name, proven only where it found the whole window proven, else
	// inconclusive.
	State  State  `json:"state"`
	Answer string `json:"answer"` // "as wanted", "wrong text", "foreign text", "near tie", "not compared", "failed", "left by us", "cancelled", "in flight"

	Ticket  string `json:"ticket,omitempty"`  // prefill's own id of the request, from the ticket that it gave; "": no ticket was seen
	Carried string `json:"carried,omitempty"` // how the proxy handed it on: "same", "dropped", "of <request>" (another's), "altered"; "": not known

	PromptTokens    *int `json:"prompt_tokens,omitempty"`
	PrefillComputed *int `json:"prefill_computed,omitempty"` // prompt tokens
	DecodeHad       *int `json:"decode_had,omitempty"`       // prompt tokens from decode's own prefix cache
	DecodeTook      *int `json:"decode_took,omitempty"`      // from prefill
	DecodeComputed  *int `json:"decode_computed,omitempty"`  // itself

	Blocks *int     `json:"blocks,omitempty"` // KV blocks that the ticket names
	Bytes  *float64 `json:"bytes,omitempty"`  // moved to decode
	Share  bool     `json:"share,omitempty"`  // Bytes is this request's share, by blocks, of a sum that alone is known

	Prefill *Leg `json:"prefill,omitempty"` // nil: not in the flow ledger
	Decode  *Leg `json:"decode,omitempty"`
	DiT     *Leg `json:"dit,omitempty"`
}

// Leg is when a stage was asked and when it had answered, in milliseconds after the client's request; EndMS 0: it had not.
type Leg struct {
	StartMS float64 `json:"start_ms"`
	EndMS   float64 `json:"end_ms,omitempty"`
}

// Lines tells of each request of the window, in the order in which they were observed; those that only the flow ledger knows
// come last.
func (e *Evidence) Lines() []Line { return e.lines(Proven(e)) }

func (e *Evidence) lines(v Verdict) []Line {
	c := newCase(e)
	all := make([]Line, len(c.requests))
	for i, r := range c.requests {
		l := &all[i]
		l.Request, l.State, l.Answer = r.id, StateInconclusive, answerWord(r, v)
		if v.State == StateProven {
			l.State = StateProven
		}
		for _, reason := range v.Reasons {
			if reason.Request == r.id && reason.State == StateRefuted {
				l.State = StateRefuted
			}
		}
		if n := r.tokens(); n > 0 {
			l.PromptTokens = &n
		}
		if r.rec != nil {
			c.flowLine(l, r.rec)
		}
	}
	c.decodeLines(all)
	c.byteLines(all)
	if n, ok := c.Prefill.get(c.d.LocalCompute); ok && len(all) == 1 {
		all[0].PrefillComputed = whole(n)
	}
	return all
}

// answerWord is what became of a request's answer, in the words of the rules that looked at it.
func answerWord(r request, v Verdict) string {
	words := map[string]string{"foreign-content": "foreign text", "wrong-content": "wrong text", "near-tie": "near tie", "request-failed": "failed",
		"own-deadline": "left by us", "cancelled": "cancelled", "in-flight": "in flight"}
	for _, reason := range v.Reasons {
		if word := words[reason.Rule]; word != "" && reason.Request == r.id {
			return word
		}
	}
	if r.obs == nil || r.obs.Want == "" && r.obs.WantFrom == "" || r.obs.Got != r.obs.Want {
		return "not compared"
	}
	return "as wanted"
}

// flowLine takes a request's legs and its ticket from the flow ledger.
func (c *exam) flowLine(l *Line, rec *flow.Record) {
	leg := func(stage string) *Leg {
		if h := lastHop(rec, stage); h != nil {
			return &Leg{h.StartMS, h.EndMS}
		}
		return nil
	}
	l.Prefill, l.Decode, l.DiT = leg("prefill"), leg("decode"), leg("dit")
	p, d := lastHop(rec, "prefill"), lastHop(rec, "decode")
	if p == nil || p.TicketOut == nil {
		return
	}
	var told struct {
		Cached *int `json:"remote_prefill_cached_tokens"` // vLLM since 0.32
	}
	_ = json.Unmarshal(p.TicketOut, &told) // a malformed ticket is CheckTicket's finding
	l.Ticket = remoteRequest(p.TicketOut)
	if n := TicketBlocks(p.TicketOut); n > 0 {
		l.Blocks = &n
	}
	if n := ticketTokens(p.TicketOut); n > 0 && told.Cached != nil {
		computed := n - *told.Cached
		l.PrefillComputed = &computed
	}
	switch {
	case d == nil:
	case d.TicketIn == nil:
		l.Carried = "dropped"
	case sameTicket(p.TicketOut, d.TicketIn):
		l.Carried = "same"
	default:
		l.Carried = "altered"
		if owner := c.ownerOf(d, rec); owner != "" {
			l.Carried = "of " + owner
		}
	}
}

// decodeLines says where decode had each prompt from. Of one request the counters say it. Of several they do where nothing
// was computed or nothing was taken, and the hits that the clients were told of add up to those that decode counted.
func (c *exam) decodeLines(all []Line) {
	hit, ok1 := c.Decode.get(c.d.LocalHit)
	external, ok2 := c.Decode.get(c.d.External)
	computed, ok3 := c.computed()
	if !ok1 || !ok2 || !ok3 || !c.accountable() {
		return
	}
	if len(all) == 1 {
		all[0].DecodeHad, all[0].DecodeTook, all[0].DecodeComputed = whole(hit), whole(external), whole(computed)
		return
	}
	cached, prompts := 0, 0
	for _, r := range c.requests {
		if r.obs == nil || r.obs.PromptTokens == 0 {
			return
		}
		cached, prompts = cached+r.obs.CachedTokens, prompts+r.obs.PromptTokens
	}
	if float64(cached) != hit || float64(prompts) != hit+external+computed || external > 0 && computed > 0 {
		return
	}
	for i, r := range c.requests {
		had, rest, none := r.obs.CachedTokens, r.obs.PromptTokens-r.obs.CachedTokens, 0
		all[i].DecodeHad, all[i].DecodeTook, all[i].DecodeComputed = &had, &rest, &none
		if external == 0 {
			all[i].DecodeTook, all[i].DecodeComputed = &none, &rest
		}
	}
}

// byteLines divides the bytes by the blocks that decode was told of and did not have. Of a request that broke off nobody knows
// how much it had moved, and then no share is known.
func (c *exam) byteLines(all []Line) {
	moved, ok := c.Decode.get(c.d.Bytes)
	if !ok || c.BlockSize <= 0 {
		return
	}
	if len(all) == 1 || moved == 0 {
		for i := range all {
			all[i].Bytes = &moved
		}
		return
	}
	weights, sum := make([]int, len(all)), 0
	for i := range all {
		l := &all[i]
		switch {
		case c.requests[i].rec != nil && (l.Decode == nil || l.Carried == "dropped"):
			continue // decode was not told of any block
		case c.requests[i].brokeOff():
			return
		case l.Blocks != nil:
			weights[i] = *l.Blocks
		case l.PromptTokens != nil:
			weights[i] = ceilDiv(*l.PromptTokens, c.BlockSize)
		default:
			return
		}
		if l.DecodeHad != nil {
			weights[i] = max(0, weights[i]-*l.DecodeHad/c.BlockSize)
		}
		sum += weights[i]
	}
	for i := range all {
		if sum > 0 {
			share := moved * float64(weights[i]) / float64(sum)
			all[i].Bytes, all[i].Share = &share, true
		}
	}
}

// brokeOff: it was not answered to its end.
func (r request) brokeOff() bool {
	return r.broken() || r.rec != nil && (r.rec.Outcome == "cancelled" || r.rec.Outcome == "in-flight")
}

func whole(v float64) *int {
	n := int(v)
	return &n
}

// bytesText is exact below ten million, a thousand tokens of a small model.
func bytesText(v float64) string {
	switch {
	case v < 1e7:
		return fmt.Sprintf("%.0f", v)
	case v < 1e10:
		return fmt.Sprintf("%.1f MB", v/1e6)
	}
	return fmt.Sprintf("%.1f GB", v/1e9)
}
