package wiretap_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// TestFaultyProxies sends through taps what wrong proxies do with a request, and asks the three judgements that rest on a ledger
// with bodies. "" is "proven".
func TestFaultyProxies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                           string
		faults                         proxy.Faults
		decode                         ar.Faults
		dead                           bool // prefill
		deadline                       time.Duration
		conformant, bounded, nofalling string
	}{
		{name: "healthy"},
		{name: "drop-ticket", faults: proxy.Faults{DropTicket: true},
			conformant: "refuted: request r0: ticket was sent by prefill at +", nofalling: "refuted: request r0: prefill's ticket of +"},
		{name: "cross-tickets", faults: proxy.Faults{CrossTickets: true}, conformant: "refuted: request r1: decode was given the ticket of request r0"},
		{name: "alter-ticket", faults: proxy.Faults{AlterTicket: true}, conformant: "refuted: request r0: ticket was altered between prefill and decode: remote_block_ids "},
		{name: "strip-ticket-id", faults: proxy.Faults{StripTicketID: true}, deadline: time.Second,
			conformant: "refuted: request r0: ticket was altered between prefill and decode: remote_request_id was dropped",
			bounded:    "refuted: request r0: no answer after ", nofalling: "inconclusive: request r0: ended by our own deadline"},
		{name: "die-between-legs", faults: proxy.Faults{DieBetweenLegs: true}, conformant: "refuted: request r0: prefill answered at +"},
		{name: "silent-fallback", faults: proxy.Faults{SilentFallback: true}, dead: true,
			conformant: "refuted: request r0: prefill failed at +", nofalling: "refuted: request r0: prefill failed (503 Service Unavailable: refused by the tap), yet decode answered and no fallback was declared"},
		{name: "dead prefill, healthy proxy", dead: true},
		{name: "second-prefill", faults: proxy.Faults{SecondPrefill: true}, conformant: "refuted: request r0: prefill was asked 2 times and answered each: +"},
		{name: "keep-limits", faults: proxy.Faults{KeepLimits: true}, conformant: "refuted: request r0: prefill leg has max_tokens 129, not 1"},
		{name: "lose-limits", faults: proxy.Faults{LoseLimits: true}, conformant: "refuted: request r0: decode leg is not the client's own request: max_tokens 129 became 1"},
		{name: "swallow-error", faults: proxy.Faults{SwallowError: true}, decode: ar.Faults{TransferFails: "fail"},
			conformant: "refuted: request r0: decode failed at +"},
		{name: "silent-recompute, healthy proxy", decode: ar.Faults{SilentRecompute: true}, nofalling: "refuted: decode computed 256 of 256 prompt tokens itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, taps, _ := tapped(t, true, c.decode, proxy.Config{Faults: c.faults})
			if c.dead {
				_, err := taps.Break(t.Context(), "prefill")
				require.NoError(t, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
			defer cancel()
			w, err := handoff.Open(ctx, s)
			require.NoError(t, err)
			for i, prompt := range prompts {
				one, stop := ctx, context.CancelFunc(func() {})
				if c.deadline > 0 {
					one, stop = context.WithTimeout(ctx, c.deadline)
				}
				r := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: len(prompt) + 1, RequestID: "r" + string(rune('0'+i))}}
				answer, err := s.Entry.Complete(one, r)
				stop()
				o := handoff.Observed(answer, err)
				o.RequestID, o.Prompt = r.RequestID, prompt
				w.Observe(o)
			}
			e, err := w.Close(ctx)
			require.NoError(t, err)
			for _, j := range []struct {
				name  string
				judge func(*handoff.Evidence) handoff.Verdict
				want  string
			}{{"Conformant", handoff.Conformant, c.conformant}, {"Bounded", handoff.Bounded, c.bounded}, {"NoSilentFallback", handoff.NoSilentFallback, c.nofalling}} {
				if j.want == "" {
					j.want = "proven: "
				}
				v := j.judge(e).String()
				assert.True(t, strings.HasPrefix(v, j.want), "%s gave %s\nwant %s", j.name, v, j.want)
				if c.deadline > 0 && j.name == "Bounded" {
					assert.Contains(t, v, " s: decode leg open since +")
					assert.Contains(t, v, "; prefill answered at +")
				}
				if testing.Verbose() {
					t.Logf("%s: %s", j.name, v)
				}
			}
		})
	}
}
