package handoff

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/flow"
)

// conforming is evidence of requests whose bodies were recorded by taps, one of them in front of the proxy.
func conforming(ids ...string) *Evidence {
	e := healthy(ids...)
	for i := range e.Flow.Records {
		r := &e.Flow.Records[i]
		r.Taps = "client"
		r.Sent = json.RawMessage(`{"max_tokens":16,"min_tokens":4,"prompt":"p","seed":9007199254740993,"stream":true,"stream_options":{"include_usage":true},"temperature":0.00001}`)
		p, d := &r.Hops[0], &r.Hops[1]
		p.RequestID, d.RequestID = r.RequestID, r.RequestID
		p.TicketIn = NIXL.Ask
		p.Sent = json.RawMessage(`{"kv_transfer_params":{},"max_tokens":1,"prompt":"p","seed":9007199254740993,"stream":false,"temperature":0.00001}`)
		d.Sent = json.RawMessage(`{"kv_transfer_params":{},"max_tokens":16,"min_tokens":4,"prompt":"p","seed":9007199254740993,"stream":true,"stream_options":{"include_usage":true},"temperature":1e-05}`)
	}
	return e
}

// with sets one member of a body; nil takes it out.
func with(body json.RawMessage, key string, value any) json.RawMessage {
	m := map[string]json.RawMessage{}
	_ = json.Unmarshal(body, &m)
	delete(m, key)
	if value != nil {
		m[key], _ = json.Marshal(value)
	}
	b, _ := json.Marshal(m)
	return b
}

const conformingText = "proven: 1 request: prefill asked once for one token, decode given the client's own request with the ticket verbatim"

func TestConformant(t *testing.T) {
	type hops = []flow.Hop
	for _, c := range []struct {
		name  string
		plant func(e *Evidence, r *flow.Record, p, d *flow.Hop)
		want  string
	}{
		{"healthy", func(*Evidence, *flow.Record, *flow.Hop, *flow.Hop) {}, conformingText},
		{"own addition", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) { d.Sent = with(d.Sent, "cache_salt", "x") }, conformingText},
		{"chat limits", func(_ *Evidence, r *flow.Record, p, d *flow.Hop) {
			r.Route = "/v1/chat/completions"
			r.Sent, d.Sent = with(r.Sent, "max_completion_tokens", 16), with(d.Sent, "max_completion_tokens", 16)
			p.Sent = with(with(p.Sent, "max_completion_tokens", 1), "max_tokens", 16)
		}, conformingText},
		{"client told by the observation", func(e *Evidence, r *flow.Record, _, _ *flow.Hop) {
			e.Observations[0].Sent, r.Sent, r.Taps = r.Sent, nil, "stages"
		}, conformingText},
		{"prefill failed openly", func(e *Evidence, r *flow.Record, p, _ *flow.Hop) {
			p.Status, p.Error, p.TicketOut = 500, "500 Internal Server Error: out of blocks", nil
			r.Hops, r.Status, r.Outcome, r.Error = hops{*p}, 502, "failed", "prefill: 500"
			e.Observations[0].Err = errors.New("HTTP 502")
		}, "proven: 1 that failed at prefill: decode not called, client told"},
		{"fallback declared", func(e *Evidence, r *flow.Record, p, d *flow.Hop) {
			p.Status, p.Error, p.TicketOut, d.TicketIn, r.Fallback = 0, "connection refused", nil, nil, true
		}, "proven: 1 request: prefill asked once"},
		{"a picture that failed at decode", func(e *Evidence, r *flow.Record, _, d *flow.Hop) {
			r.Route, r.Sent = "/v1/chat/completions", json.RawMessage(`{"messages":[],"modalities":["image"]}`)
			d.Status, d.Error, r.Outcome, e.Observations[0].Err = 500, "500", "failed", errors.New("HTTP 502")
		}, conformingText},
		{"concurrent legs", func(_ *Evidence, _ *flow.Record, p, d *flow.Hop) { d.StartMS = p.StartMS }, conformingText},

		{"stream kept", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) { p.Sent = with(p.Sent, "stream", true) },
			"refuted: prefill leg has stream true: a ticket comes only in a body that is not streamed"},
		{"stream_options kept", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) {
			p.Sent = with(p.Sent, "stream_options", map[string]bool{"include_usage": true})
		}, `refuted: prefill leg has stream_options {"include_usage":true} without a stream: vLLM refuses that`},
		{"limit kept", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) { p.Sent = with(p.Sent, "max_tokens", 16) },
			"refuted: prefill leg has max_tokens 16, not 1"},
		{"limit taken out", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) { p.Sent = with(p.Sent, "max_tokens", nil) },
			"refuted: prefill leg has max_tokens absent, not 1"},
		{"chat limit kept", func(_ *Evidence, r *flow.Record, p, d *flow.Hop) {
			r.Route = "/v1/chat/completions"
			r.Sent, d.Sent, p.Sent = with(r.Sent, "max_completion_tokens", 16), with(d.Sent, "max_completion_tokens", 16), with(p.Sent, "max_completion_tokens", 16)
		}, "refuted: prefill leg has max_completion_tokens 16, not 1"},
		{"min_tokens kept", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) { p.Sent = with(p.Sent, "min_tokens", 4) },
			"refuted: prefill leg has min_tokens 4 with one token to make"},
		{"F1 never asked", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) {
			p.TicketIn, p.Sent = nil, with(p.Sent, "kv_transfer_params", nil)
		}, "refuted: prefill was not asked for a ticket: no kv_transfer_params on its leg"},
		{"asked for the wrong thing", func(_ *Evidence, _ *flow.Record, p, _ *flow.Hop) {
			p.TicketIn = json.RawMessage(`{"do_remote_decode":false}`)
		}, "refuted: prefill was not asked for a ticket: do_remote_decode is false"},
		{"ticket dropped", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) { d.TicketIn = nil },
			"refuted: ticket was sent by prefill at +12 ms, never forwarded by proxy"},
		{"ticket id stripped", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) {
			d.TicketIn = with(d.TicketIn, "remote_request_id", nil)
		}, "refuted: ticket was altered between prefill and decode: remote_request_id was dropped"},
		{"limits lost", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) {
			d.Sent = with(with(with(d.Sent, "max_tokens", 1), "stream", false), "stream_options", nil)
		}, `refuted: decode leg is not the client's own request: max_tokens 16 became 1, stream true became false, stream_options {"include_usage":true} became absent`},
		{"limit made up", func(_ *Evidence, r *flow.Record, _, d *flow.Hop) { r.Sent = with(r.Sent, "max_tokens", nil) },
			"refuted: decode leg is not the client's own request: max_tokens absent became 16"},
		{"prompt changed", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) { d.Sent = with(d.Sent, "prompt", "q") },
			`refuted: decode leg is not the client's own request: prompt "p" became "q"`},
		{"seed through a float", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) { d.Sent = with(d.Sent, "seed", 9007199254740992) },
			"refuted: decode leg is not the client's own request: seed 9007199254740993 became 9007199254740992"},
		{"two ids", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) { d.RequestID = "other" },
			`refuted: the legs carry different request ids: prefill "r", decode "other"`},
		{"second prefill", func(_ *Evidence, r *flow.Record, p, d *flow.Hop) {
			again := *p
			again.StartMS = 12.5
			r.Hops = hops{*p, again, *d}
		}, "refuted: prefill was asked 2 times and answered each: +0 ms, +12 ms"},
		{"retry after a failure", func(_ *Evidence, r *flow.Record, p, d *flow.Hop) {
			bad := *p
			bad.Status, bad.Error, bad.TicketOut = 0, "connection refused", nil
			r.Hops = hops{bad, *p, *d}
		}, conformingText},
		{"F21 decode after a failure", func(_ *Evidence, _ *flow.Record, p, d *flow.Hop) {
			p.Status, p.Error, p.TicketOut, d.TicketIn = 0, "connection refused", nil, nil
		}, "refuted: prefill failed at +12 ms (connection refused), decode was called all the same at +13 ms"},
		{"decode after no ticket", func(_ *Evidence, _ *flow.Record, p, d *flow.Hop) { p.TicketOut, d.TicketIn = nil, nil },
			"refuted: prefill answered at +12 ms without a ticket, decode was called all the same at +13 ms"},
		{"F6 dies between the legs", func(e *Evidence, r *flow.Record, p, _ *flow.Hop) {
			r.Hops, r.Outcome, r.Error = hops{*p}, "failed", "answer broke off"
			e.Observations[0].Err = errors.New("EOF")
		}, "refuted: prefill answered at +12 ms with a ticket, decode was never called: its blocks wait for the lease to end"},
		{"no prefill", func(_ *Evidence, r *flow.Record, _, d *flow.Hop) { r.Hops = hops{*d} },
			"refuted: sent to decode at +13 ms without having been at prefill"},
		{"swallowed error", func(_ *Evidence, _ *flow.Record, _, d *flow.Hop) {
			d.Status, d.Error = 500, "500 Internal Server Error: KV load failed"
		},
			"refuted: decode failed at +40 ms (500 Internal Server Error: KV load failed), and the client was answered as if it had not"},
		{"swallowed error, client seen by a tap alone", func(e *Evidence, _ *flow.Record, _, d *flow.Hop) {
			d.Status, d.Error, e.Observations = 500, "500", nil
		}, "refuted: decode failed at +40 ms (500), and the client was answered as if it had not"},
		{"error, client not seen", func(e *Evidence, r *flow.Record, _, d *flow.Hop) {
			d.Status, d.Error, e.Observations, r.Outcome, r.Taps = 500, "500", nil, "failed", "stages"
		}, "inconclusive: decode failed (500); what the client was told was not recorded"},

		{"bodies not recorded", func(_ *Evidence, _ *flow.Record, p, d *flow.Hop) { p.Sent, d.Sent = nil, nil },
			"inconclusive: bodies of the legs were not recorded: put a wiretap between"},
		{"client not recorded", func(_ *Evidence, r *flow.Record, _, _ *flow.Hop) { r.Sent = nil },
			"inconclusive: the client's own request was not recorded"},
		{"no ledger", func(e *Evidence, _ *flow.Record, _, _ *flow.Hop) { e.Flow = Flow{Note: "HTTP 404"} },
			"inconclusive: no flow ledger (HTTP 404): put a wiretap in front of the stages"},
		{"loose legs", func(e *Evidence, r *flow.Record, _, _ *flow.Hop) {
			r.Outcome, r.Error = "unjoined", "decode leg fits several requests"
			e.Flow = joined(e.Flow.Records)
		}, "inconclusive: flow ledger has 1 record that could not be joined to a request for certain: decode leg fits several requests"},
		{"still open", func(_ *Evidence, r *flow.Record, _, _ *flow.Hop) { r.Outcome = "in-flight" }, "inconclusive: still in flight at the end of the window"},
		{"not in the ledger", func(e *Evidence, _ *flow.Record, _, _ *flow.Hop) { e.Flow.Records = nil }, "inconclusive: not in the flow ledger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := conforming("r")
			r := &e.Flow.Records[0]
			c.plant(e, r, &r.Hops[0], &r.Hops[1])
			v := Conformant(e)
			assert.True(t, strings.HasPrefix(v.String(), c.want), "got  %s\nwant %s", v, c.want)
		})
	}
}

// What a proxy declares is not held against it, and nothing else is excused by it.
func TestConformanceDeclared(t *testing.T) {
	e := conforming("r")
	e.Flow.Records[0].Hops[1].RequestID = "other"
	e.Flow.Records[0].Hops[1].Sent = with(with(e.Flow.Records[0].Hops[1].Sent, "prompt", "q"), "model", "m")
	v := Conformance{OwnIDs: true, MayChange: []string{"prompt"}}.Judge(e)
	assert.Equal(t, StateProven, v.State, v.String())
	assert.Equal(t, []string{"request r: the proxy added model to the decode leg"}, v.Notes)
	v = Conformance{OwnIDs: true}.Judge(e)
	assert.Equal(t, `refuted: decode leg is not the client's own request: prompt "p" became "q"`, v.String())
}

// A proxy that decodes and encodes a body in another language does not change it.
func TestSentIsTheSameHoweverSpelled(t *testing.T) {
	long := strings.Repeat("é<", 4000)
	a := flow.Sent([]byte(`{"prompt":"` + long + `","stop":["é"],"logit_bias":{"a":1,"b":2}}`))
	escaped := strings.ReplaceAll(long, "é", `\u00e9`)
	b := flow.Sent([]byte(`{ "logit_bias": {"b": 2, "a": 1}, "stop": ["\u00e9"], "prompt": "` + escaped + `" }`))
	for k, v := range members(a) {
		assert.True(t, sameMember(k, v, members(b)[k]), k)
	}
	assert.Less(t, len(a), 4<<10, "a long prompt is kept as its digest")
	assert.Nil(t, flow.Sent([]byte(`<html>`)))
	assert.Nil(t, flow.Sent([]byte(`null`)))
	rapid.Check(t, func(r *rapid.T) {
		x, y := rapid.Int64().Draw(r, "x"), rapid.Int64().Draw(r, "y")
		ax, _ := json.Marshal(x)
		ay, _ := json.Marshal(y)
		if sameMember("seed", ax, ay) != (x == y) {
			r.Fatalf("seeds %d and %d", x, y)
		}
	})
}
