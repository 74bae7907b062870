package handoff

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

func TestNoSilentFallback(t *testing.T) {
	d := &NIXL
	dead := func(e *Evidence) {
		e.recompute()
		e.Flow.Records[0].Hops[0] = flow.Hop{Stage: "prefill", EndMS: 2, Error: "connection refused"}
		e.Flow.Records[0].Hops[1].TicketIn = nil
		e.Prefill = Stage{Problem: "prefill: scrape http://x/metrics: connection refused"}
	}
	const all = "; decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0) for 1 answered request"
	for _, c := range []struct {
		name  string
		plant func(e *Evidence)
		want  string
	}{
		{"healthy", func(*Evidence) {}, "proven: 1 answered, of whose prompts decode computed 0 tokens itself"},
		{"healthy without a ledger", func(e *Evidence) { e.Flow = Flow{Note: "HTTP 404"} }, "proven: 1 answered, of whose prompts decode computed 0 tokens itself"},
		{"last token", func(e *Evidence) { e.set(&e.Decode, d.LocalCompute, 1) }, "proven: 1 answered, of whose prompts decode computed 1 token itself"},
		{"failed openly", func(e *Evidence) {
			dead(e)
			r := &e.Flow.Records[0]
			r.Hops, r.Outcome, r.Status, r.Error = r.Hops[:1], "failed", 502, "prefill: connection refused"
			e.Observations[0].Err = errors.New("HTTP 502")
			e.Decode.Counters = counters(d, d.decodeSeries(), nil)
		}, "proven: 1 failed openly: prefill: connection refused"},
		{"declared by the ledger", func(e *Evidence) {
			dead(e)
			e.Flow.Records[0].Fallback = true
		}, "proven: 1 declared as fallback"},
		{"declared to the client", func(e *Evidence) {
			dead(e)
			e.Observations[0].Fallback = "prefill: connection refused"
		}, "proven: 1 declared as fallback"},

		{"F21 prefill dead", dead, "refuted: prefill failed (connection refused), yet decode answered and no fallback was declared" + all},
		{"prefill answers 500", func(e *Evidence) {
			dead(e)
			e.Flow.Records[0].Hops[0].Status, e.Flow.Records[0].Hops[0].Error = 500, ""
		}, "refuted: prefill failed (HTTP 500), yet decode answered and no fallback was declared" + all},
		{"F14 no ticket", func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops[0].TicketOut, e.Flow.Records[0].Hops[1].TicketIn = nil, nil
		}, "refuted: prefill answered at +12 ms without a ticket, yet decode answered and no fallback was declared" + all},
		{"F1 ticket dropped", func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops[1].TicketIn = nil
		}, "refuted: prefill's ticket of +12 ms was never forwarded, yet decode answered and no fallback was declared" + all},
		{"decode alone", func(e *Evidence) {
			e.recompute()
			e.Flow.Records[0].Hops = e.Flow.Records[0].Hops[1:]
		}, "refuted: answered by decode alone, prefill was never called, and no fallback was declared" + all},
		{"without a ledger", func(e *Evidence) {
			e.recompute()
			e.Flow = Flow{Note: "HTTP 404"}
		}, "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0) for 1 answered request"},
		{"F17 silent recompute", (*Evidence).recompute, "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0) for 1 answered request"},

		{"no counters", func(e *Evidence) {
			for _, x := range []Series{d.LocalCompute, d.Iteration} {
				e.on(&e.Decode, x, prom.Absent)
			}
		}, `inconclusive: decode does not tell what it computed itself (vllm:prompt_tokens_by_source_total{source="local_compute"} absent)`},
		{"decode restarted", func(e *Evidence) { e.Decode.Resets = []string{"x fell from 9 to 1"} }, "inconclusive: counter of decode fell back: x fell from 9 to 1: restarted?"},
		{"loose legs", func(e *Evidence) {
			r := &e.Flow.Records[0]
			r.Outcome, r.Error, r.Hops = "unjoined", "decode leg fits several requests", r.Hops[1:]
			e.Flow = joined(e.Flow.Records)
		}, "inconclusive: flow ledger has 1 record that could not be joined to a request for certain: decode leg fits several requests"},
		{"our own deadline", func(e *Evidence) {
			e.Observations[0].Err = context.DeadlineExceeded
			e.Flow.Records[0].Outcome = "cancelled"
		}, "inconclusive: ended by our own deadline or cancellation: what it would have been answered is not known"},
		{"preempted", func(e *Evidence) {
			e.set(&e.Decode, d.Preemptions, 1)
			e.set(&e.Decode, d.LocalCompute, 90)
		}, "inconclusive: decode computed 90 of 512 prompt tokens itself (iteration_tokens +16, bytes 524288), but a request was preempted or aborted"},
		{"answered, no legs", func(e *Evidence) { e.Flow.Records[0].Hops = nil }, "inconclusive: answered, and no stage was asked that the ledger knows of"},
		{"somebody else", func(e *Evidence) { e.set(&e.Decode, d.Finished, 3) },
			"inconclusive: decode finished 3 requests in the window, only 1 known: something else used the stack"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := healthy("r")
			c.plant(e)
			assert.Equal(t, c.want, NoSilentFallback(e).String())
		})
	}
}

// A declared fallback does not hide another request that fell back in silence.
func TestDeclaredHidesNothing(t *testing.T) {
	e := healthy("a", "b")
	e.recompute()
	e.Flow.Records[0].Fallback = true
	assert.Equal(t, "refuted: decode computed 1024 of 1024 prompt tokens itself (iteration_tokens +1056, bytes 0), and declared fallbacks explain only 512 for 2 answered requests",
		NoSilentFallback(e).String())
	e.set(&e.Decode, NIXL.LocalCompute, 512)
	e.set(&e.Decode, NIXL.Iteration, 512+32)
	assert.Equal(t, "proven: 1 answered, of whose prompts decode computed 512 tokens itself, 1 declared as fallback", NoSilentFallback(e).String())
}
