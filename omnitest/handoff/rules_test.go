package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// TestVerdicts plants one failure at a time into healthy evidence. The texts are the product: they are asserted whole.
func TestVerdicts(t *testing.T) {
	const good = "decode took 512 of 512 prompt tokens from prefill (524288 bytes), computed 0 itself"
	d := &NIXL
	for _, c := range []struct {
		name          string
		ids           []string // nil: one request, "r"
		plant         func(e *Evidence)
		proven, moved string // moved "": the same text
	}{
		{name: "healthy", plant: func(*Evidence) {},
			proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "healthy without a ledger", plant: func(e *Evidence) { e.Flow = Flow{Note: "HTTP 404"} },
			proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "ticket re-indented by the proxy", plant: func(e *Evidence) {
			var b []byte
			b, _ = json.MarshalIndent(e.Flow.Records[0].Hops[0].TicketOut, "", "  ")
			e.Flow.Records[0].Hops[1].TicketIn = b
		}, proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},

		{name: "F1 dropped ticket", plant: func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops[1].TicketIn = nil
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); ticket was sent by prefill at +12 ms, never forwarded by proxy"},
		{name: "silent recompute", plant: (*Evidence).recompute,
			proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0)"},
		{name: "recompute seen by iteration_tokens alone", plant: func(e *Evidence) {
			e.recompute()
			e.on(&e.Decode, d.LocalCompute, prom.Absent)
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); series absent: vllm:prompt_tokens_by_source_total{source=\"local_compute\"} of decode"},
		{name: "F4 claims a hit, moves nothing, computes", plant: func(e *Evidence) {
			e.set(&e.Decode, d.Iteration, 528)
			e.set(&e.Decode, d.Bytes, 0)
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); decode claims 512 transferred tokens, moved 0 bytes"},
		{name: "claims without bytes", plant: func(e *Evidence) { e.set(&e.Decode, d.Bytes, 0) },
			proven: "refuted: decode claims 512 transferred tokens, moved 0 bytes"},
		{name: "one of two recomputed", ids: []string{"a", "b"}, plant: func(e *Evidence) {
			e.set(&e.Decode, d.External, 512)
			e.set(&e.Decode, d.LocalCompute, 512)
			e.set(&e.Decode, d.Iteration, 544)
			e.set(&e.Decode, d.Bytes, 512*1024)
		}, proven: "refuted: decode computed 512 of 1024 prompt tokens itself (iteration_tokens +544, bytes 524288)"},
		{name: "last token computed by decode", plant: func(e *Evidence) {
			e.set(&e.Decode, d.External, 511)
			e.set(&e.Decode, d.LocalCompute, 1)
			e.set(&e.Decode, d.Iteration, 17)
		}, proven: "proven: decode took 511 of 512 prompt tokens from prefill (524288 bytes), computed 1 itself; 1 answer as wanted (known answer)",
			moved: "proven: decode took 511 of 512 prompt tokens from prefill (524288 bytes), computed 1 itself"},

		{name: "failed transfer", plant: func(e *Evidence) {
			e.set(&e.Decode, d.FailedTransfers, 1)
			e.set(&e.Decode, d.Finished, 0)
			e.Observations[0].Err = errors.New("decode: HTTP 500: Internal server error")
			e.Flow.Records[0].Outcome, e.Flow.Records[0].Error = "failed", "decode answered 500"
			for _, x := range []Series{d.PromptTokens, d.External, d.Iteration, d.Generated, d.Bytes} {
				e.set(&e.Decode, x, 0)
			}
		}, proven: "refuted: decode counted 1 failed transfer; request failed: decode: HTTP 500: Internal server error"},
		{name: "failed notification", plant: func(e *Evidence) { e.set(&e.Decode, d.FailedNotifications, 2) },
			proven: "refuted: decode could not tell prefill to free its blocks 2 times"},
		{name: "prefill did nothing", plant: func(e *Evidence) { e.Prefill.Counters = counters(d, d.prefillSeries(), nil) },
			proven: "refuted: decode claims 512 tokens from prefill, which processed 0 prompt tokens in this window"},
		{name: "partial transfer", plant: func(e *Evidence) { e.set(&e.Decode, d.Bytes, 31*16*1024) },
			proven: "refuted: moved 507904 bytes, 524288 needed: 32 blocks of 16 tokens x 1024 bytes"},
		{name: "too many bytes", plant: func(e *Evidence) { e.set(&e.Decode, d.Bytes, 33*16*1024) },
			proven: "inconclusive: moved 540672 bytes, 524288 needed: 32 blocks of 16 tokens x 1024 bytes"},
		{name: "bytes nobody claims", plant: func(e *Evidence) { e.set(&e.Decode, d.External, 0) },
			proven: "inconclusive: decode moved 524288 bytes but counts no transferred tokens"},

		{name: "F3 crossed tickets", ids: []string{"a", "b"}, plant: func(e *Evidence) {
			r := e.Flow.Records
			r[0].Hops[1].TicketIn, r[1].Hops[1].TicketIn = r[1].Hops[1].TicketIn, r[0].Hops[1].TicketIn
			o := e.Observations
			o[0].Got, o[1].Got = o[1].Got, o[0].Got
		}, moved: "refuted: request a: decode was given the ticket of request b (and 1 more like it)",
			proven: "refuted: request a: decode was given the ticket of request b (and 1 more like it); " +
				`request a: answered with the text of request b: "the answer to b, which has a certain length" (and 1 more like it)`},
		{name: "ticket of an earlier request", plant: func(e *Evidence) { e.Flow.Records[0].Hops[1].TicketIn = ticketOf("yesterday", 512) },
			proven: "refuted: decode was given the ticket of request yesterday-0-b9354d93 (from before the window)"},
		{name: "altered ticket", plant: func(e *Evidence) {
			e.Flow.Records[0].Hops[1].TicketIn = json.RawMessage(`{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2,4]],"remote_engine_id":"engine-p",` +
				`"remote_request_id":"cmpl-r-0-b9354d93","remote_host":"127.0.0.1","remote_port":5601,"tp_size":1,"extra":1}`)
		}, proven: "refuted: ticket was altered between prefill and decode: extra was added, remote_block_ids [[1,2,3]] became [[1,2,4]], remote_num_tokens was dropped, remote_port 5600 became 5601"},
		{name: "malformed ticket", plant: func(e *Evidence) {
			t := json.RawMessage(`{"do_remote_prefill":true,"remote_block_ids":["DUMMY_ID"],"remote_engine_id":"DUMMY_ID","remote_host":"DUMMY","remote_port":1234}`)
			e.Flow.Records[0].Hops[0].TicketOut, e.Flow.Records[0].Hops[1].TicketIn = t, t
		}, proven: "refuted: prefill's ticket lacks remote_request_id"},
		{name: "no ticket from prefill", plant: func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops[0].TicketOut, e.Flow.Records[0].Hops[1].TicketIn = nil, nil
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); prefill answered at +12 ms without a ticket"},
		{name: "F21 prefill dead, silent fallback", plant: func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops[0] = flow.Hop{Stage: "prefill", Error: "connection refused"}
			e.Flow.Records[0].Hops[1].TicketIn = nil
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); prefill failed (connection refused), yet decode answered without a declared fallback"},
		{name: "declared fallback", plant: func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Fallback = true
			e.Flow.Records[0].Hops[0] = flow.Hop{Stage: "prefill", Error: "connection refused"}
			e.Flow.Records[0].Hops[1].TicketIn = nil
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); proxy let decode run without a ticket and declared it: prefill: connection refused"},
		{name: "decode only", plant: func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops = e.Flow.Records[0].Hops[1:]
			e.Prefill.Counters = counters(d, d.prefillSeries(), nil)
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); sent to decode without having been at prefill"},
		{name: "decode never called", plant: func(e *Evidence) {
			e.Flow.Records[0].Hops = e.Flow.Records[0].Hops[:1]
		}, proven: "refuted: prefill answered at +12 ms, decode was never called"},
		{name: "unobserved failure in the ledger", ids: []string{"a", "b"}, plant: func(e *Evidence) {
			e.Observations = e.Observations[:1]
			e.Flow.Records[1].Outcome, e.Flow.Records[1].Error = "failed", "decode: connection reset"
		}, proven: "refuted: request b: proxy failed the request: decode: connection reset"},

		{name: "restarted decode", plant: func(e *Evidence) {
			e.Decode.Resets = []string{"vllm:prompt_tokens_total fell from 900 to 12"}
			e.on(&e.Decode, d.PromptTokens, prom.Reset)
		}, proven: "inconclusive: counter of decode fell back: vllm:prompt_tokens_total fell from 900 to 12: restarted?"},
		{name: "dead decode", plant: func(e *Evidence) {
			e.Decode.Counters, e.Decode.Problem = nil, "decode: scrape http://x/metrics: connection refused"
		}, proven: "inconclusive: decode: scrape http://x/metrics: connection refused"},
		{name: "absent series", plant: func(e *Evidence) {
			for _, x := range []Series{d.Bytes, d.Transfers, d.FailedTransfers, d.FailedNotifications} {
				e.on(&e.Decode, x, prom.Absent)
			}
		}, proven: "inconclusive: series absent: vllm:nixl_bytes_transferred_count of decode and 3 more"},
		{name: "absent series, refuted by the flow all the same", plant: func(e *Evidence) {
			e.on(&e.Decode, d.Bytes, prom.Absent)
			e.Flow.Records[0].Hops[1].TicketIn = nil
		}, proven: "refuted: ticket was sent by prefill at +12 ms, never forwarded by proxy; series absent: vllm:nixl_bytes_transferred_sum of decode"},
		{name: "preempted", plant: func(e *Evidence) {
			e.set(&e.Decode, d.Preemptions, 1)
			e.set(&e.Decode, d.LocalCompute, 90)
			e.set(&e.Decode, d.Iteration, 106)
		}, proven: "inconclusive: decode computed 90 of 512 prompt tokens itself (iteration_tokens +106, bytes 524288), but a request was preempted or aborted; " +
			"decode preempted 1 time: what it then computed again cannot be told from a missing handoff"},
		{name: "F5 expired", plant: func(e *Evidence) {
			e.set(&e.Prefill, d.Expired, 1)
			e.set(&e.Prefill, d.LateNotices, 1)
		}, proven: "inconclusive: decode pulled 1 ticket that prefill had already given up: the blocks may have been reused; prefill freed the blocks of 1 ticket that nobody pulled in time"},
		{name: "tickets from before the window expire", plant: func(e *Evidence) {
			held := 0.02
			e.Prefill.UsageBefore = &held
			e.set(&e.Prefill, d.Expired, 2)
			e.set(&e.Prefill, d.LateNotices, 0)
		}, proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "a ticket of the window expires", plant: func(e *Evidence) {
			e.set(&e.Prefill, d.Expired, 1)
			e.set(&e.Prefill, d.LateNotices, 0)
		}, proven: "inconclusive: prefill freed the blocks of 1 ticket that nobody pulled in time"},
		{name: "somebody else", plant: func(e *Evidence) { e.set(&e.Decode, d.Finished, 3) },
			proven: "inconclusive: decode finished 3 requests in the window, only 1 known: something else used the stack"},
		{name: "counters lag", ids: []string{"a", "b"}, plant: func(e *Evidence) { e.set(&e.Decode, d.Finished, 1) },
			proven: "inconclusive: decode's counters account for 1 of 2 answered requests"},
		{name: "wrong metrics page", plant: func(e *Evidence) {
			e.Decode.MetricsURL = "http://other/metrics"
			for _, x := range d.decodeSeries() {
				e.set(&e.Decode, x, 0)
			}
		}, proven: "inconclusive: decode's counters saw none of the 1 answered request: is http://other/metrics its own metrics page?"},
		{name: "full local hit", plant: func(e *Evidence) {
			e.set(&e.Decode, d.External, 0)
			e.set(&e.Decode, d.LocalHit, 511)
			e.set(&e.Decode, d.LocalCompute, 1)
			e.set(&e.Decode, d.Iteration, 17)
			e.set(&e.Decode, d.Bytes, 0)
		}, proven: "inconclusive: nothing needed to move: decode already had 511 of 512 prompt tokens in its own prefix cache"},
		{name: "partial local hit", plant: func(e *Evidence) {
			e.set(&e.Decode, d.External, 112)
			e.set(&e.Decode, d.LocalHit, 400)
			e.set(&e.Decode, d.Bytes, 7*16*1024)
		}, proven: "proven: decode took 112 of 512 prompt tokens from prefill (114688 bytes), had 400, computed 0 itself; 1 answer as wanted (known answer)",
			moved: "proven: decode took 112 of 512 prompt tokens from prefill (114688 bytes), had 400, computed 0 itself"},
		{name: "client left", plant: func(e *Evidence) {
			e.Flow.Records[0].Outcome = "cancelled"
			e.set(&e.Decode, d.Finished, 0)
		}, proven: "inconclusive: the client went away before the end"},
		{name: "still in flight", plant: func(e *Evidence) { e.Flow.Records[0].Outcome = "in-flight" },
			proven: "inconclusive: still in flight at the end of the window"},
		{name: "ticket rewritten in another order", plant: func(e *Evidence) {
			var keys map[string]any
			_ = json.Unmarshal(e.Flow.Records[0].Hops[0].TicketOut, &keys)
			e.Flow.Records[0].Hops[1].TicketIn, _ = json.Marshal(keys) // keys sorted
		}, proven: "proven: decode took 512 of 512 prompt tokens from prefill (524288 bytes), computed 0 itself; 1 answer as wanted (known answer)",
			moved: "proven: decode took 512 of 512 prompt tokens from prefill (524288 bytes), computed 0 itself"},
		{name: "ticket replaced by nonsense", plant: func(e *Evidence) { e.Flow.Records[0].Hops[1].TicketIn = json.RawMessage(`"x"`) },
			proven: `refuted: ticket was altered between prefill and decode: {"do_remote_prefill":true,"do_remote_decode":false,"remote_b... became "x"`},
		{name: "not in the ledger", plant: func(e *Evidence) { e.Flow.Records = nil }, proven: "inconclusive: not in the proxy's flow ledger"},
		{name: "ledger lost", plant: func(e *Evidence) { e.Flow = Flow{Kept: true, Note: "could not be read: EOF"} },
			proven: "inconclusive: flow ledger could not be read: EOF"},
		{name: "no request", plant: func(e *Evidence) { e.Observations, e.Flow.Records = nil, nil },
			proven: "inconclusive: no request was made in the window"},

		{name: "decode leaks", plant: func(e *Evidence) { e.held(&e.Decode, 0.01, 0.0139) },
			proven: "refuted: decode is idle and still holds KV blocks: usage 0.0139, before the window 0.0100"},
		{name: "decode never tells prefill", plant: func(e *Evidence) { e.held(&e.Prefill, 0, 0.0078) },
			proven: "refuted: prefill is idle and still holds KV blocks: usage 0.0078, before the window 0.0000: was it told that decode has them?"},
		{name: "older leases end in the window", plant: func(e *Evidence) { e.held(&e.Prefill, 0.02, 0.01) },
			proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "prefill holds what decode never pulled", plant: func(e *Evidence) {
			e.recompute()
			e.held(&e.Prefill, 0, 0.0078)
			e.Flow.Records[0].Hops[1].TicketIn = nil
		}, proven: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0); ticket was sent by prefill at +12 ms, never forwarded by proxy"},
		{name: "a failed request may hold", plant: func(e *Evidence) {
			e.held(&e.Decode, 0, 0.01)
			e.Observations[0].Err = errors.New("HTTP 500")
		}, proven: "refuted: request failed: HTTP 500"},
		{name: "a preempted one may hold", plant: func(e *Evidence) {
			e.held(&e.Decode, 0, 0.01)
			e.set(&e.Decode, d.Preemptions, 1)
		}, proven: "inconclusive: decode preempted 1 time: what it then computed again cannot be told from a missing handoff"},
		{name: "a busy engine may hold", plant: func(e *Evidence) {
			e.held(&e.Decode, 0, 0.01)
			e.Decode.Problem = "decode never got idle within 1s: 1 running, 0 waiting"
		}, proven: "inconclusive: decode never got idle within 1s: 1 running, 0 waiting"},

		{name: "prefill writes the answer as well", plant: func(e *Evidence) { e.set(&e.Prefill, d.Generated, 40) },
			proven: "refuted: prefill generated 40 tokens for 1 ticket leg, which asks for 1"},
		{name: "one of two prefill legs too long", ids: []string{"a", "b"}, plant: func(e *Evidence) { e.set(&e.Prefill, d.Generated, 5) },
			proven: "refuted: prefill generated 5 tokens for 2 ticket legs, which ask for 2"},
		{name: "prefill generated too little", ids: []string{"a", "b"}, plant: func(e *Evidence) { e.set(&e.Prefill, d.Generated, 1) },
			proven: "inconclusive: prefill generated 1 token for 2 ticket legs, which ask for 2"},
		{name: "somebody else on prefill", plant: func(e *Evidence) {
			e.set(&e.Prefill, d.Generated, 33)
			e.set(&e.Prefill, d.Finished, 2)
		}, proven: "inconclusive: prefill finished 2 requests in the window, only 1 known: something else used the stack"},
		{name: "prefill asked twice", plant: func(e *Evidence) {
			h := e.Flow.Records[0].Hops
			first := h[0]
			first.TicketOut = ticketOf("first", 512)
			e.Flow.Records[0].Hops = append([]flow.Hop{first}, h...)
			e.set(&e.Prefill, d.Generated, 2)
			e.set(&e.Prefill, d.Finished, 2)
			e.set(&e.Prefill, d.PromptTokens, 1024)
			e.held(&e.Prefill, 0, 0.0078)
		}, proven: "refuted: prefill was made to give 2 tickets for it: the blocks of all but one wait for their lease to end; " +
			"prefill is idle and still holds KV blocks: usage 0.0078, before the window 0.0000: was it told that decode has them?"},
		{name: "prefill asked again after an error", plant: func(e *Evidence) {
			h := e.Flow.Records[0].Hops
			e.Flow.Records[0].Hops = append([]flow.Hop{{Stage: "prefill", Status: 503, Error: "busy"}}, h...)
		}, proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "two choices, prefill makes one of them", plant: func(e *Evidence) {
			e.Observations[0].Choices = 2
			e.set(&e.Decode, d.Finished, 2)
			e.set(&e.Prefill, d.Generated, 2)
			e.set(&e.Prefill, d.Finished, 2)
		}, proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "prefill was given another prompt", plant: func(e *Evidence) { e.set(&e.Prefill, d.PromptTokens, 600) },
			proven: "inconclusive: prefill processed 600 prompt tokens, decode 512: not the same prompts, or one of them miscounts"},

		{name: "requests not counted", plant: func(e *Evidence) { e.set(&e.Decode, d.Finished, 0) },
			proven: "inconclusive: vllm:request_success_total of decode did not move although 1 request was answered"},
		{name: "computed tokens not counted", ids: []string{"a", "b"}, plant: func(e *Evidence) { e.set(&e.Decode, d.Iteration, 0) },
			proven: "inconclusive: vllm:iteration_tokens_total_sum of decode did not move although 2 requests were answered"},
		{name: "computed tokens counted in part", plant: func(e *Evidence) { e.set(&e.Decode, d.Iteration, 15) },
			proven: "inconclusive: vllm:iteration_tokens_total_sum of decode rose by 15 for 16 generated tokens: it counts those and the computed ones"},
		{name: "prefill's counters in part", plant: func(e *Evidence) {
			e.set(&e.Prefill, d.Generated, 0)
			e.set(&e.Prefill, d.Finished, 0)
		}, proven: "inconclusive: vllm:generation_tokens_total, vllm:request_success_total of prefill did not move although 1 request was answered"},

		{name: "usage tells one prompt token more", plant: func(e *Evidence) { e.Observations[0].PromptTokens = 513 },
			proven: "refuted: the client was told of 513 prompt tokens, decode counted 512, prefill's tickets say 512"},
		{name: "usage tells another answer's length", ids: []string{"a", "b"}, plant: func(e *Evidence) {
			e.Observations[0].OutputTokens, e.Observations[1].OutputTokens = 16, 7
		}, proven: "refuted: the clients were told of 23 output tokens, decode counted 32"},
		{name: "usage lies about one of two", ids: []string{"a", "b"}, plant: func(e *Evidence) { e.BytesPerToken, e.Observations[1].PromptTokens = 0, 500 },
			proven: "refuted: the clients were told of 1012 prompt tokens, decode counted 1024, prefill's tickets say 1024 (500 and 512 for request b)"},
		{name: "usage lies about the cache", plant: func(e *Evidence) { e.Observations[0].CachedTokens = 99999 },
			proven: "refuted: the client was told of 99999 cached tokens in a prompt of 512"},
		{name: "usage claims a cache", plant: func(e *Evidence) {
			e.Observations[0].CachedTokens = 400
			e.set(&e.Decode, d.External, 112)
			e.set(&e.Decode, d.LocalHit, 112)
			e.BytesPerToken = 0
		}, proven: "refuted: the client was told of 400 cached prompt tokens, decode counted 112 from its cache and 112 from prefill"},
		{name: "claims, prompts and bytes all doubled", plant: func(e *Evidence) {
			e.Flow = Flow{Note: "none"}
			for _, x := range []Series{d.PromptTokens, d.External} {
				e.set(&e.Decode, x, 1024)
			}
			e.set(&e.Decode, d.Bytes, 1024*1024)
			e.set(&e.Prefill, d.PromptTokens, 1024)
		}, proven: "refuted: the client was told of 512 prompt tokens, decode counted 1024"},
		{name: "usage not told", plant: func(e *Evidence) {
			e.Observations[0].PromptTokens, e.Observations[0].OutputTokens = 0, 0
		}, proven: "proven: " + good + "; 1 answer as wanted (known answer)", moved: "proven: " + good},
		{name: "usage of two choices is one prompt", plant: func(e *Evidence) {
			e.Observations[0].Choices, e.Observations[0].OutputTokens = 2, 32
			e.set(&e.Decode, d.PromptTokens, 1024)
			e.set(&e.Decode, d.External, 1024)
			e.set(&e.Decode, d.Finished, 2)
			e.set(&e.Prefill, d.PromptTokens, 1024)
			e.BytesPerToken = 0
		}, proven: "proven: decode took 1024 of 1024 prompt tokens from prefill (524288 bytes), computed 0 itself; 1 answer as wanted (known answer)",
			moved: "proven: decode took 1024 of 1024 prompt tokens from prefill (524288 bytes), computed 0 itself"},

		{name: "our own deadline", plant: func(e *Evidence) {
			e.Observations[0].Err = &api.Error{Kind: api.Timeout, Method: "POST", URL: "/v1/completions", Message: "the caller's deadline passed"}
			e.Flow.Records[0].Outcome = "cancelled"
			e.set(&e.Decode, d.Finished, 0)
		}, proven: "inconclusive: ended by our own deadline or cancellation, not by the stack: POST /v1/completions: timeout: the caller's deadline passed; nothing had arrived by +0.0 ms"},
		{name: "we left, and decode computes meanwhile", plant: func(e *Evidence) {
			e.recompute()
			e.Observations[0].Err = context.Canceled
			e.Flow = Flow{Note: "none"}
		}, proven: "inconclusive: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0), but a request was preempted or aborted; " +
			"ended by our own deadline or cancellation, not by the stack: context canceled"},
		{name: "the server's deadline", plant: func(e *Evidence) {
			e.Observations[0].Err = &api.Error{Kind: api.Server, Status: 504, Message: "decode did not answer within 5s"}
		}, proven: "refuted: request failed: 504 Gateway Timeout: decode did not answer within 5s"},

		{name: "one of two recomputed, by length", ids: []string{"a", "b"}, plant: func(e *Evidence) {
			e.Observations[1].PromptTokens = 300
			e.set(&e.Decode, d.PromptTokens, 812)
			e.set(&e.Prefill, d.PromptTokens, 812)
			e.set(&e.Decode, d.External, 512)
			e.set(&e.Decode, d.LocalCompute, 300)
			e.set(&e.Decode, d.Iteration, 332)
			e.set(&e.Decode, d.Bytes, 512*1024)
			e.set(&e.Decode, d.Transfers, 1)
		}, proven: "refuted: decode computed 300 of 812 prompt tokens itself (iteration_tokens +332, bytes 524288), 1 transfer for 2 requests, only request b is that long"},
		{name: "freed too early, as the lease tells", ids: []string{"a", "b"}, plant: func(e *Evidence) {
			e.Observations[0].Got = e.Observations[1].Want
			e.set(&e.Prefill, d.Expired, 1)
		}, proven: `refuted: request a: answered with the text of request b: "the answer to b, which has a certain length", though it had its own ticket: ` +
			"prefill had given up 1 ticket, its lease ended too early; prefill freed the blocks of 1 ticket that nobody pulled in time",
			moved: "inconclusive: prefill freed the blocks of 1 ticket that nobody pulled in time"},
		{name: "wrong blocks behind a prefix", plant: func(e *Evidence) {
			e.set(&e.Decode, d.External, 400)
			e.set(&e.Decode, d.LocalHit, 112)
			e.set(&e.Decode, d.Bytes, 25*16*1024)
			e.Observations[0].Got = "the answer to \x00\x00"
		}, proven: `refuted: text diverges at byte 14: got "\x00\x00", want "r, which has a certain length" (known answer); decode had 112 tokens itself and took 400: wrong blocks of the ticket behind that prefix?`,
			moved: "proven: decode took 400 of 512 prompt tokens from prefill (409600 bytes), had 112, computed 0 itself"},

		{name: "nothing to compare", plant: func(e *Evidence) { e.Observations[0].Want, e.Observations[0].WantFrom = "", "" },
			proven: "inconclusive: nothing to compare its answer with", moved: "proven: " + good},
		{name: "not observed", plant: func(e *Evidence) { e.Observations = nil },
			proven: "inconclusive: its answer was not shown to the window: content not compared", moved: "proven: " + good},
		{name: "garbage", plant: func(e *Evidence) { e.Observations[0].Got = "the answer to \x00\x00\x00" },
			proven: `refuted: text diverges at byte 14: got "\x00\x00\x00", want "r, which has a certain length" (known answer)`, moved: "proven: " + good},
		{name: "zeroed blocks", plant: func(e *Evidence) { e.Observations[0].Got = strings.Repeat(".", 43) },
			proven: `refuted: text diverges at byte 0: got "...........................................", want "the answer to r, which has a certain length"` +
				", garbage, one character over and over: zeroed or missing blocks? (known answer)", moved: "proven: " + good},
		{name: "part of a text from before the window", plant: func(e *Evidence) {
			o := &e.Observations[0]
			o.Foreign = []string{"0123456789 the password is swordfish"}
			o.Got = o.Want[:11] + "the password" + o.Want[23:]
		}, proven: `refuted: bytes 10 to 23 of the answer, " the password", belong to another request`, moved: "proven: " + good},
		{name: "cut short", plant: func(e *Evidence) { e.Observations[0].Got = "the answer" },
			proven: "refuted: answer ends after 10 of 43 bytes (known answer)", moved: "proven: " + good},
		{name: "empty", plant: func(e *Evidence) { e.Observations[0].Got = "" },
			proven: `refuted: empty answer, want "the answer to r, which has a certain length" (known answer)`, moved: "proven: " + good},
		{name: "too long", plant: func(e *Evidence) { e.Observations[0].Got += " and more" },
			proven: `refuted: answer goes on after its 43 bytes: " and more" (known answer)`, moved: "proven: " + good},
		{name: "a character in half", plant: func(e *Evidence) { e.Observations[0].Want, e.Observations[0].Got = "今天天气", "今天夏气" },
			proven: `refuted: text diverges at byte 6: got "夏气", want "天气" (known answer)`, moved: "proven: " + good},
		{name: "only the absence of a secret is known", plant: func(e *Evidence) {
			o := &e.Observations[0]
			o.Want, o.WantFrom, o.Foreign = "", "", []string{"swordfish"}
		}, proven: "inconclusive: nothing to compare its answer with", moved: "proven: " + good},
		{name: "secret of a neighbour", plant: func(e *Evidence) {
			e.Observations[0].Foreign = []string{"swordfish"}
			e.Observations[0].Got += " swordfish"
		}, proven: `refuted: answer contains "swordfish", which belongs to another request`, moved: "proven: " + good},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ids == nil {
				c.ids = []string{"r"}
			}
			e := healthy(c.ids...)
			c.plant(e)
			if c.moved == "" {
				c.moved = c.proven
			}
			assert.Equal(t, c.proven, Proven(e).String(), "Proven")
			assert.Equal(t, c.moved, Moved(e).String(), "Moved")
			for _, v := range []Verdict{Proven(e), Moved(e)} {
				assert.Equal(t, v.State == StateProven, v.Err() == nil, "Err is nil only when proven")
			}
		})
	}
}
