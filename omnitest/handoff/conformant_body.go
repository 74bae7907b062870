package handoff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// prefillLeg: one token, not streamed, and the blocks are to be kept. Real vLLM answers a stream without a ticket, refuses
// stream_options without a stream, and refuses min_tokens above max_tokens, so each of these is seen by a client sooner or later;
// an own limit on this leg is not: prefill then writes the whole answer, and nobody reads it.
func (c *exam) prefillLeg(r request, h *flow.Hop) {
	if c.d.Ask != nil && h.TicketIn == nil && h.Sent != nil {
		c.refute("prefill-not-asked", r.id, "prefill was not asked for a ticket: no kv_transfer_params on its leg")
	} else if c.d.Ask != nil && h.TicketIn != nil {
		var ask struct {
			Decode json.RawMessage `json:"do_remote_decode"`
		}
		if json.Unmarshal(h.TicketIn, &ask) != nil || string(ask.Decode) != "true" {
			c.refute("prefill-not-asked", r.id, "prefill was not asked for a ticket: do_remote_decode is %s", orAbsent(ask.Decode))
		}
	}
	if h.Sent == nil {
		c.doubt("bodies-not-recorded", r.id, "bodies of the legs were not recorded: put a wiretap between")
		return
	}
	m := members(h.Sent)
	if v, ok := m["stream"]; ok && string(v) != "false" {
		c.refute("prefill-stream", r.id, "prefill leg has stream %s: a ticket comes only in a body that is not streamed", v)
	}
	if v, ok := m["stream_options"]; ok {
		c.refute("prefill-stream-options", r.id, "prefill leg has stream_options %s without a stream: vLLM refuses that", short(v))
	}
	for _, name := range []string{"min_tokens", "min_completion_tokens"} {
		if v, ok := m[name]; ok && !(number(v) <= 1) {
			c.refute("prefill-min-tokens", r.id, "prefill leg has %s %s with one token to make", name, v)
		}
	}
	// vLLM reads max_completion_tokens before max_tokens on chat, and only max_tokens on completions.
	limit, name := m["max_tokens"], "max_tokens"
	if v, ok := m["max_completion_tokens"]; ok && strings.Contains(h.URL+r.rec.Route, "/chat/") {
		limit, name = v, "max_completion_tokens"
	}
	if number(limit) != 1 {
		c.refute("prefill-limit", r.id, "prefill leg has %s %s, not 1", name, orAbsent(limit))
	}
}

// legControl are the members that a proxy changes on the way to prefill; decode must get the client's own again.
var legControl = []string{"stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "min_completion_tokens", "n", "best_of"}

// restored: decode gets what the client sent, and the ticket. An own addition of the proxy is noted, not refuted.
func (p Conformance) restored(c *exam, r request, h *flow.Hop) {
	sent := r.rec.Sent
	if sent == nil && r.obs != nil {
		sent = r.obs.Sent
	}
	switch {
	case h.Sent == nil:
		return // said of the prefill leg
	case r.rec.Hop("dit") != nil || strings.HasPrefix(r.rec.Route, "/v1/images/") || asksForPicture(sent):
		c.note("request %s is for a picture: its decode leg is not the client's own request", r.id)
		return
	case sent == nil:
		c.doubt("client-not-recorded", r.id, "the client's own request was not recorded: that decode got it whole is not known (a tap in front of the proxy, or Observation.Sent)")
		return
	}
	want, got := members(sent), members(h.Sent)
	var lost, added []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if k == "kv_transfer_params" || slices.Contains(p.MayChange, k) || sameMember(k, want[k], got[k]) {
			continue
		}
		lost = append(lost, fmt.Sprintf("%s %s became %s", k, short(want[k]), short(orAbsent(got[k]))))
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[k]; ok || k == "kv_transfer_params" || slices.Contains(p.MayChange, k) || sameMember(k, want[k], got[k]) {
			continue
		}
		if slices.Contains(legControl, k) {
			lost = append(lost, fmt.Sprintf("%s absent became %s", k, short(got[k])))
		} else {
			added = append(added, k)
		}
	}
	if len(lost) > 0 {
		c.refute("not-restored", r.id, "decode leg is not the client's own request: %s", strings.Join(lost, ", "))
	}
	if len(added) > 0 {
		c.note("request %s: the proxy added %s to the decode leg", r.id, strings.Join(added, ", "))
	}
}

// asksForPicture tells a chat request for a picture: its decode leg is made by the proxy.
func asksForPicture(sent json.RawMessage) bool {
	var b struct {
		Modalities []string
		Extra      json.RawMessage `json:"extra_body"`
	}
	return json.Unmarshal(sent, &b) == nil && (slices.Contains(b.Modalities, "image") || b.Extra != nil)
}

// sameMember compares two values as JSON; "stream": false is what no stream is. Absent values are nil.
func sameMember(name string, a, b json.RawMessage) bool {
	if name == "stream" {
		if a == nil {
			a = json.RawMessage("false")
		}
		if b == nil {
			b = json.RawMessage("false")
		}
	}
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if bytes.Equal(a, b) || flow.Digest(a) == flow.Digest(b) {
		return true
	}
	// A proxy in another language may spell 1e-5 as 0.00001. Whole numbers are compared as they stand: a seed has 64 bits.
	return bytes.ContainsAny(append(slices.Clone(a), b...), ".eE") && number(a) == number(b)
}

// number reads a JSON number; NaN, which equals nothing, for anything else.
func number(v json.RawMessage) float64 {
	n, err := strconv.ParseFloat(string(bytes.TrimSpace(v)), 64)
	if err != nil {
		n, _ = strconv.ParseFloat("NaN", 64)
	}
	return n
}

func orAbsent(v json.RawMessage) json.RawMessage {
	if v == nil {
		return json.RawMessage("absent")
	}
	return v
}

func short(v json.RawMessage) string { return textcheck.Short(string(v), 60) }
