package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/handoff"
)

const slopeClaim = "the bytes of a transfer are proportional to its blocks"

// BytesSlope finds what a token of KV weighs, without knowing the model, and whether every transfer is whole: three fresh prompts
// of a quarter and a half of Tokens and of one token more, all in whole blocks but the last, are handed over by direct legs in
// windows of their own. Recorded on vLLM 0.26 and 0.32: bytes = ceil(N / block) x block x bytes per token, exactly.
//
//   - refuted: the bytes per block differ, each transfer lacks the same bytes, or the bytes per token are not those that
//     Source.BytesPerToken says (another dtype or layout, missing layers or heads); or no bytes moved at all
//   - inconclusive: the counters are absent or blurred; each transfer has the same bytes on top, as a model with a state that
//     does not grow would; a ticket of several KV cache groups (sliding windows, states), whose bytes need not be proportional
//
// It sends 2 requests per length, 6 in all, times Rounds (0: 1). It needs the stack to itself.
func BytesSlope(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	switch {
	case p.dialect().Ask == nil:
		return p.done(slopeClaim, handoff.StateInconclusive, "no-tickets", "connector %s has no tickets", p.dialect().Name)
	case p.dialect().Bytes.Name == "":
		return p.done(slopeClaim, handoff.StateInconclusive, "bytes-not-counted", "connector %s does not count bytes", p.dialect().Name)
	}
	block, from := p.blockTokens(ctx)
	k := max(4, p.Tokens/block)
	var points []slopePoint
	for range p.times(1) {
		for _, tokens := range []int{k / 4 * block, k / 2 * block, k*block + 1} {
			point, doubt, err := p.slopePoint(ctx, tokens, block)
			if err != nil {
				return p.result, fmt.Errorf("bytes slope: %w", err)
			}
			if doubt != nil {
				return p.done(slopeClaim, handoff.StateInconclusive, doubt.Rule, "%s", doubt.Text)
			}
			points = append(points, point)
		}
	}
	p.result.Verdict = judgeSlope(points, block, s.BytesPerToken)
	p.result.Verdict.Notes = append(p.result.Verdict.Notes, fmt.Sprintf("blocks of %d tokens (%s)", block, from))
	return p.result, nil
}

// slopePoint is one transfer.
type slopePoint struct {
	tokens  int // of the prompt, as the engine counted them
	blocks  int // that they are
	bytes   float64
	claimed float64 // tokens that decode says came from prefill
	groups  int     // KV cache groups in the ticket
}

// slopePoint hands over one fresh prompt in a window. doubt: the window tells nothing.
func (p *probe) slopePoint(ctx context.Context, tokens, block int) (x slopePoint, doubt *handoff.Reason, err error) {
	name := fmt.Sprintf("%d tokens", tokens)
	r := p.sized(tokens, nil)
	if r.MaxTokens = p.Output; r.MaxTokens == 0 {
		r.MaxTokens = 4 // what decode says is of no interest here
	}
	legs := p.Source
	legs.Entry, legs.Ledger = nil, nil // the probe goes round the proxy
	w, err := handoff.Open(ctx, legs)
	if err != nil {
		return x, nil, err
	}
	sent := &subject{name: name, request: r}
	if err := p.prefill(ctx, sent); err != nil {
		return x, nil, err
	}
	t, err := p.decode(ctx, "decode "+name, sent, sent.ticket)
	if err != nil {
		return x, nil, err
	}
	seen := handoff.Observed(t, nil)
	seen.RequestID = ""
	w.Observe(seen)
	e, err := w.Close(ctx)
	if err != nil {
		return x, nil, err
	}
	if v := handoff.Countable(e); v.State != handoff.StateProven {
		return x, &v.Reasons[0], nil
	}
	d := p.dialect()
	bytes, ok := e.Decode.Delta(d.Bytes)
	if !ok {
		return x, &handoff.Reason{Rule: "absent-series", Text: fmt.Sprintf("%s of decode: %s", d.Bytes, e.Decode.Told(d.Bytes))}, nil
	}
	if hit, ok := e.Decode.Delta(d.LocalHit); ok && hit > 0 {
		return x, &handoff.Reason{Rule: "not-fresh", Text: fmt.Sprintf("decode had %.0f tokens of a fresh prompt itself: are the prompts all different?", hit)}, nil
	}
	x = slopePoint{tokens: promptTokens(t, tokens), bytes: bytes, groups: ticketGroups(sent.ticket)}
	x.claimed, _ = e.Decode.Delta(d.External)
	x.blocks = (x.tokens + block - 1) / block
	return x, nil, nil
}

// ticketGroups counts the KV cache groups of a ticket; 1 where its block ids are flat.
func ticketGroups(ticket json.RawMessage) int {
	var t struct {
		IDs [][]int `json:"remote_block_ids"`
	}
	if json.Unmarshal(ticket, &t) != nil {
		return 1
	}
	return max(1, len(t.IDs))
}

// judgeSlope looks at the line through the points.
func judgeSlope(points []slopePoint, block int, bytesPerToken float64) handoff.Verdict {
	v := handoff.Verdict{Claim: slopeClaim, Numbers: map[string]float64{}}
	say := func(s handoff.State, rule, format string, args ...any) handoff.Verdict {
		v.State, v.Reasons = s, []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}
		return v
	}
	points = slices.Clone(points)
	slices.SortStableFunc(points, func(a, b slopePoint) int { return a.blocks - b.blocks })
	var words []string
	moved, claimed, groups := 0.0, 0.0, 1
	for _, x := range points {
		words = append(words, fmt.Sprintf("%d tokens (%d block%s) %.0f bytes", x.tokens, x.blocks, plural(x.blocks), x.bytes))
		moved, claimed, groups = moved+x.bytes, claimed+x.claimed, max(groups, x.groups)
	}
	told := strings.Join(words, ", ")
	if len(points) == 0 || points[0].blocks == points[len(points)-1].blocks {
		return say(handoff.StateInconclusive, "one-length", "all prompts have the same number of blocks: %s", told)
	}
	if moved == 0 {
		if claimed > 0 {
			return say(handoff.StateRefuted, "claims-without-bytes", "decode claims %.0f transferred tokens, moved 0 bytes: %s", claimed, told)
		}
		return say(handoff.StateRefuted, "nothing-moved", "decode had a ticket each time and moved nothing: %s", told)
	}
	first, last := points[0], points[len(points)-1]
	perBlock := (last.bytes - first.bytes) / float64(last.blocks-first.blocks)
	rest := first.bytes - perBlock*float64(first.blocks)
	straight, nothing := perBlock > 0, perBlock*1e-10 // of a block: all figures are whole bytes, what is less was rounded
	for _, x := range points {
		straight = straight && math.Abs(rest+perBlock*float64(x.blocks)-x.bytes) <= nothing
	}
	perToken := perBlock / float64(block)
	if straight {
		v.Numbers["bytes_per_token"], v.Numbers["bytes_besides"] = perToken, rest
	}
	switch {
	case groups > 1 && (!straight || math.Abs(rest) > nothing):
		return say(handoff.StateInconclusive, "several-groups", "the tickets name %d KV cache groups, whose bytes need not be proportional: %s", groups, told)
	case !straight:
		return say(handoff.StateRefuted, "not-proportional", "the bytes do not grow with the blocks: %s: %s", told, slopeShares(points))
	case rest < -nothing:
		return say(handoff.StateRefuted, "bytes-short", "each transfer lacks %.0f bytes (%.3g blocks of %.0f): %s", -rest, -rest/perBlock, perBlock, told)
	case rest > nothing:
		return say(handoff.StateInconclusive, "bytes-besides", "each transfer has %.0f bytes beside the %.0f of each block: %s: a state that does not grow?", rest, perBlock, told)
	case bytesPerToken > 0 && math.Abs(perToken-bytesPerToken) > 1e-6*bytesPerToken:
		return say(handoff.StateRefuted, "bytes-per-token", "%g bytes per token moved, %g wanted: another dtype or layout, or a part of the layers or heads (%s)", perToken, bytesPerToken, told)
	}
	return say(handoff.StateProven, "proportional", "%g bytes per token, whole blocks: %s", perToken, told)
}

// slopeShares gives the bytes per block of each point.
func slopeShares(points []slopePoint) string {
	var words []string
	for _, x := range points {
		words = append(words, fmt.Sprintf("%.0f", x.bytes/float64(max(1, x.blocks))))
	}
	return strings.Join(words, ", ") + " bytes a block: transfers in part?"
}
