package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// dated gives evidence the times of a window.
func dated(e *Evidence) *Evidence {
	e.Opened = time.Date(2026, 7, 1, 14, 3, 5, 0, time.UTC)
	e.Closed = e.Opened.Add(840 * time.Millisecond)
	return e
}

// The report is read by people: its text is asserted whole.
func TestReport(t *testing.T) {
	for _, c := range []struct {
		name string
		ids  []string
		set  func(e *Evidence)
		want string
	}{
		{"healthy", []string{"r"}, func(e *Evidence) { e.Observations[0].OutputTokens = 16 }, `
handoff window proven: 1 request, nixl, block 16, opened 14:03:05.000 for 0.84 s
                         prompt   prefill  decode                                        prefill  decode
  request     answer     tokens  computed     had  took  self  ticket    blocks   bytes       ms      ms
  r           as wanted     512       512       0   512     0  b9354d93       3  524288     0-12   13-40
  as counted                512       512       0   512     0                    524288
proven: the claim that decode used the KV cache that prefill computed
  decode took 512 of 512 prompt tokens from prefill (524288 bytes), computed 0 itself
  1 answer as wanted (known answer)
`},
		{"dropped ticket among three", []string{"one", "two", "three"}, func(e *Evidence) {
			d := e.d()
			e.set(&e.Decode, d.External, 1024)
			e.set(&e.Decode, d.LocalCompute, 512)
			e.set(&e.Decode, d.Iteration, 512+48)
			e.set(&e.Decode, d.Bytes, 1024*1024)
			e.set(&e.Decode, d.Transfers, 2)
			e.Flow.Records[1].Hops[1].TicketIn = nil
		}, `
handoff window refuted: 3 requests (1 refuted by name), nixl, block 16, opened 14:03:05.000 for 0.84 s
                         prompt   prefill  decode                                                 prefill  decode
  request     answer     tokens  computed     had  took  self  ticket            blocks    bytes       ms      ms
  one         as wanted     512         -       -     -     -  b9354d93               3  ~524288     0-12   13-40
  two         as wanted     512         -       -     -     -  b9354d93 dropped       3       ~0     0-12   13-40
  three       as wanted     512         -       -     -     -  b9354d93               3  ~524288     0-12   13-40
  as counted               1536      1536       0  1024   512                            1048576
  (~ a share of the counted sum, by blocks; - not told, or only as a sum)
refuted: the claim that decode used the KV cache that prefill computed
  against: decode computed 512 of 1536 prompt tokens itself (iteration_tokens +560, bytes 1048576), 2 transfers for 3
           requests
  against: request two: ticket was sent by prefill at +12 ms, never forwarded by proxy
  note: usage of 3 of 3 answers not told: not compared with decode's counters
`},
		{"nothing was told", []string{"one", "two"}, func(e *Evidence) {
			e.Flow = Flow{Note: "no entry given"}
			for _, x := range e.d().decodeSeries() {
				e.on(&e.Decode, x, prom.Absent)
			}
			for i := range e.Observations {
				e.Observations[i].PromptTokens, e.Observations[i].WantFrom, e.Observations[i].Want = 0, "", ""
			}
			e.File = "out/TestPoster/handoff.json"
		}, `
handoff window inconclusive: 2 requests, nixl, block 16, opened 14:03:05.000 for 0.84 s
                            prompt   prefill  decode
  request     answer        tokens  computed     had  took  self  ticket  blocks  bytes
  one         not compared       -         -       -     -     -  -            -      -
  two         not compared       -         -       -     -     -  -            -      -
  as counted                     -      1024       -     -     -                      -
  (- not told, or only as a sum)
inconclusive: the claim that decode used the KV cache that prefill computed
  in doubt: series absent: vllm:generation_tokens_total of decode and 11 more
  in doubt: request one: nothing to compare its answer with (and 1 more like it)
  note: no flow ledger (no entry given): who carried which ticket is not known, counters and answers decide
  note: absent: [vllm:generation_tokens_total of decode vllm:iteration_tokens_total_sum of decode
        vllm:nixl_bytes_transferred_count of decode vllm:nixl_bytes_transferred_sum of decode
        vllm:nixl_num_failed_notifications_total of decode vllm:nixl_num_failed_transfers_total of decode
        vllm:num_preemptions_total of decode vllm:prompt_tokens_by_source_total{source="external_kv_transfer"} of decode
        vllm:prompt_tokens_by_source_total{source="local_cache_hit"} of decode
        vllm:prompt_tokens_by_source_total{source="local_compute"} of decode vllm:prompt_tokens_total of decode
        vllm:request_success_total of decode]
  evidence out/TestPoster/handoff.json
`},
		{"a picture, and clients that left", []string{"pic", "left", "open"}, func(e *Evidence) {
			rec := e.Flow.Records
			rec[0].Hops = append(rec[0].Hops, flow.Hop{Stage: "dit", StartMS: 41, EndMS: 1800, Status: 200})
			e.Observations[1].Err, rec[1].Outcome, rec[1].Hops = context.Canceled, "cancelled", rec[1].Hops[:1]
			e.Observations[2].Err, rec[2].Outcome, rec[2].Hops[1].EndMS = context.DeadlineExceeded, "in-flight", 0
			e.set(&e.Decode, e.d().Bytes, 1024*1024) // whether that is two requests' or one's and a half is not known
		}, `
handoff window inconclusive: 3 requests, nixl, block 16, opened 14:03:05.000 for 0.84 s
                          prompt   prefill  decode                                         prefill  decode      dit
  request     answer      tokens  computed     had  took  self  ticket    blocks    bytes       ms      ms       ms
  pic         as wanted      512         -       -     -     -  b9354d93       3        -     0-12   13-40  41-1800
  left        left by us     512         -       -     -     -  b9354d93       3        -     0-12       -        -
  open        in flight      512         -       -     -     -  b9354d93       3        -     0-12     13-        -
  as counted                1536      1536       0  1536     0                    1048576
  (- not told, or only as a sum)
inconclusive: the claim that decode used the KV cache that prefill computed
  in doubt: request open: still in flight at the end of the window
  in doubt: request left: ended by our own deadline or cancellation, not by the stack: context canceled (and 1 more like
            it)
`},
		{"no request", nil, func(*Evidence) {}, `
handoff window inconclusive: 0 requests, nixl, block 16, opened 14:03:05.000 for 0.84 s
inconclusive: the claim that decode used the KV cache that prefill computed
  in doubt: no request was made in the window
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := dated(healthy(c.ids...))
			e.held(&e.Prefill, 0, 0)
			e.held(&e.Decode, 0, 0)
			c.set(e)
			got := e.Report()
			assert.Equal(t, strings.TrimPrefix(c.want, "\n"), got)
			data, err := json.Marshal(e)
			require.NoError(t, err)
			back := &Evidence{File: e.File}
			require.NoError(t, json.Unmarshal(data, back))
			assert.Equal(t, got, back.Report(), "saved evidence tells the same")
		})
	}
}

// Of many requests the worst come first, and the others are accounted for.
func TestReportOfManyShowsTheWorst(t *testing.T) {
	var ids []string
	for i := range 224 {
		ids = append(ids, fmt.Sprintf("lane-%03d", i))
	}
	e := dated(healthy(ids...))
	e.Observations[200].Got = "something else, and rather long"
	e.Observations[100].Err = errors.New("no answer")
	e.Observations[50].Want, e.Observations[50].WantFrom = "", ""
	text := e.Report()
	lines := strings.Split(text, "\n")
	require.Equal(t, "handoff window refuted: 224 requests (2 refuted by name), nixl, block 16, opened 14:03:05.000 for 0.84 s", lines[0])
	assert.Contains(t, lines[3], "  lane-100    failed ")
	assert.Contains(t, lines[4], "  lane-200    wrong text ")
	assert.Contains(t, lines[5], "  lane-050    not compared ")
	assert.Contains(t, lines[6], "  lane-000    as wanted ")
	assert.Contains(t, text, "  ... and 212 more: 212 as wanted\n  as counted ")
	assert.Less(t, len(lines), 30, "a screen:\n%s", text)
}

// Eight requests fit a screen of 24 lines, whatever became of them.
func TestReportOfEightFitsAScreen(t *testing.T) {
	e := dated(healthy("a", "b", "c", "d", "e", "f", "g", "h"))
	for _, spoil := range []func(){
		func() {},
		func() { e.recompute() },
		func() { e.Flow.Records[3].Hops[1].TicketIn = nil },
		func() { e.Observations[5].Got = "something else, and rather long" },
		func() { e.Observations[6].Err = errors.New("no answer") },
	} {
		spoil()
		assert.LessOrEqual(t, strings.Count(e.Report(), "\n"), 24, e.Report())
	}
}

// A figure that is not known of a request is not shown of it: the counters are sums.
func TestLinesGuessNothing(t *testing.T) {
	e := healthy("one", "two")
	for _, l := range e.Lines() {
		assert.Equal(t, StateProven, l.State)
		assert.Equal(t, 512, *l.DecodeTook)
		assert.True(t, l.Share)
		assert.Equal(t, 512*1024.0, *l.Bytes)
		assert.Equal(t, "cmpl-"+l.Request+"-0-b9354d93", l.Ticket)
		assert.Equal(t, "same", l.Carried)
		assert.Nil(t, l.PrefillComputed, "this ticket does not tell what prefill had")
	}

	d := e.d()
	e.set(&e.Decode, d.External, 512) // one of them was computed by decode, and nobody says which
	e.set(&e.Decode, d.LocalCompute, 512)
	e.set(&e.Decode, d.Iteration, 512+32)
	for _, l := range e.Lines() {
		assert.Equal(t, StateInconclusive, l.State, "the window is refuted, no request by name")
		assert.Nil(t, l.DecodeTook)
		assert.Nil(t, l.DecodeComputed)
	}
	e.on(&e.Decode, d.Bytes, prom.Absent)
	for _, l := range e.Lines() {
		assert.Nil(t, l.Bytes, "absent is not 0")
	}
}

// Whatever engines and clients write, and however large the figures: the width holds, and only a proof is called proven.
func TestReportHoldsItsWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ids []string
		for i := range rapid.IntRange(0, 40).Draw(t, "requests") {
			ids = append(ids, fmt.Sprintf("%d%s", i, rapid.StringN(0, 60, -1).Draw(t, "id")))
		}
		e := dated(healthy(ids...))
		for i := range e.Observations {
			o, rec := &e.Observations[i], &e.Flow.Records[i]
			switch rapid.IntRange(0, 6).Draw(t, "fate") {
			case 0:
				o.Err = errors.New(rapid.StringN(0, 400, -1).Draw(t, "error"))
			case 1:
				o.Got = rapid.String().Draw(t, "got")
			case 2:
				rec.Hops[1].TicketIn = ticketOf(rapid.StringMatching(`[a-z0-9-]{0,50}`).Draw(t, "owner"), 7)
			case 3:
				o.PromptTokens = rapid.IntRange(0, 2_000_000).Draw(t, "prompt")
				rec.Hops[1].EndMS = rapid.Float64Range(0, 3_600_000).Draw(t, "ms")
			}
		}
		for _, x := range e.d().decodeSeries() {
			if rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
				e.set(&e.Decode, x, float64(rapid.Int64Range(0, 1e12).Draw(t, "value")))
			}
		}
		v, text := Proven(e), e.Report()
		for line := range strings.Lines(text) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > reportWidth {
				t.Fatalf("%d characters: %s", n, line)
			}
		}
		if head, _, _ := strings.Cut(text, ":"); head != "handoff window "+v.State.String() {
			t.Fatalf("%q, verdict %s", head, v)
		}
		for _, l := range e.Lines() {
			if l.State == StateProven && v.State != StateProven {
				t.Fatalf("%+v in a window that is not proven: %s", l, v)
			}
		}
	})
}

// What real vLLM 0.32 left behind, told to a person. Recorded cases carry no times.
func TestReportOfRecordedVLLM(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"02-proper-again-full-local-hit", `
handoff window proven: 1 request, nixl, block 32, opened 14:03:05.000 for 0.84 s
                         prompt   prefill  decode                                        prefill  decode
  request     answer     tokens  computed     had  took  self  ticket    blocks   bytes       ms      ms
  r           as wanted     100         4      96     4     0  83b1a0de       4  131072     0-12      0-
  as counted                100         4      96     4     0                    131072
proven: the claim that decode used the KV cache that prefill computed
  decode took 4 of 100 prompt tokens from prefill (131072 bytes), had 96, computed 0 itself
  1 answer as wanted (control: a third server)
`},
		{"03-withheld-ticket", `
handoff window refuted: 1 request, nixl, block 32, opened 14:03:05.000 for 0.84 s
                         prompt   prefill  decode                                               prefill  decode
  request     answer     tokens  computed     had  took  self  ticket            blocks  bytes       ms      ms
  r           as wanted     100       100       0     0   100  a6d1ecb9 dropped       4      0     0-12      0-
  as counted                100       100       0     0   100                                0
refuted: the claim that decode used the KV cache that prefill computed
  against: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0)
  against: ticket was sent by prefill at +12 ms, never forwarded by proxy
  note: prefill is idle and still holds KV blocks: usage 0.0005, before the window 0.0000: of a ticket that decode never
        pulled
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, strings.TrimPrefix(c.want, "\n"), dated(recordedEvidence(t, c.name, true)).Report())
		})
	}
}
