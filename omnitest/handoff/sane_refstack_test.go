package handoff_test

import (
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

// TestReferenceMetricsAndTickets: the reference stack's pages and tickets are judged as a real engine's are; what its faults break in
// them is named, and what they leave whole stays proven.
func TestReferenceMetricsAndTickets(t *testing.T) {
	t.Parallel()
	const (
		saneText = "proven: decode counted 256 prompt tokens of 2 requests, every way the same (1 engine of "
		whole    = "proven: 2 tickets of nixl, 16 blocks, every key as it must be"
	)
	for _, c := range []struct {
		name          string
		plan          plan
		sane, tickets string // beginnings
	}{
		{"healthy", plan{}, saneText, whole},
		{"silent-recompute", plan{decode: ar.Faults{SilentRecompute: true}}, saneText, whole},
		{"claim-hit-without-bytes", plan{decode: ar.Faults{ClaimHitWithoutBytes: true}}, "refuted: ", whole},
		{"missing-series", plan{decode: ar.Faults{MissingSeries: true}}, "inconclusive: series absent: vllm:nixl_bytes_transferred_count of decode and", whole},
		{"counter-reset", plan{decode: ar.Faults{CounterReset: true}}, "inconclusive: counter of decode fell back: ", whole},
		{"transfer-fails=fail", plan{decode: ar.Faults{TransferFails: "fail"}}, "proven: decode counted 0 prompt tokens of 2 requests, ", whole},
		{"transfer-fails=recompute", plan{decode: ar.Faults{TransferFails: "recompute"}}, saneText, whole},
		{"wrong-layout", plan{decode: ar.Faults{WrongLayout: true}}, saneText, whole},
		{"wrong-host", plan{prefill: ar.Faults{WrongHost: true}}, "proven: decode counted 0 prompt tokens of 2 requests, ", whole},
		{"drop-ticket", plan{proxy: proxy.Faults{DropTicket: true}}, saneText, "refuted: request req-0: ticket was sent by prefill at +"},
		{"cross-tickets", plan{proxy: proxy.Faults{CrossTickets: true}}, saneText, "refuted: request req-1: decode was given the ticket of request req-0"},
		{"foreign-blocks", plan{prefill: ar.Faults{ForeignBlocks: true}}, saneText, whole},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := observe(t, c.plan.start(t), sea, tea)
			assert.Equal(t, "nixl", e.Dialect)
			if s := handoff.Sane(e).String(); !strings.HasPrefix(s, c.sane) {
				t.Errorf("Sane:\ngot  %s\nwant %s", s, c.sane)
			}
			v := handoff.TicketsWellFormed(e)
			if !strings.HasPrefix(v.String(), c.tickets) {
				t.Errorf("TicketsWellFormed:\ngot  %s\nwant %s", v, c.tickets)
			}
			if c.name == "wrong-host" {
				assert.Contains(t, strings.Join(v.Notes, "\n"), "and prefill answers at 127.0.0.1: a network of its own, or nobody's?")
			} else if c.name == "healthy" {
				assert.Empty(t, v.Notes)
			}
		})
	}
}

// Two different engines behind one URL: the counters of each are right, the differences of both together say nothing.
func TestReferenceEnginesBehindOneURL(t *testing.T) {
	t.Parallel()
	s, other := plan{}.start(t), plan{}.start(t)
	observe(t, other, sea) // so that their counters differ
	lb := roundRobin(t, s.Decode.API.BaseURL+"/metrics", other.Decode.API.BaseURL+"/metrics")
	s.Decode.MetricsURL = lb + "/metrics"
	s.IdleWithin = 20 * time.Second
	w, err := handoff.Open(t.Context(), s)
	require.NoError(t, err)
	answer, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: tea, Sampling: api.Sampling{MaxTokens: 8, RequestID: "r"}})
	o := handoff.Observed(answer, err)
	o.RequestID, o.Prompt, o.Want, o.WantFrom = "r", tea, tea[:8], "known answer"
	w.Observe(o)
	e, err := w.Close(t.Context())
	require.NoError(t, err)
	for _, v := range []handoff.Verdict{handoff.Proven(e), handoff.Sane(e)} {
		assert.Equal(t, handoff.StateInconclusive, v.State, v.String())
		assert.Contains(t, v.String(), "counters of decode fall and rise again while it is idle: two engines behind one URL? ("+lb+"/metrics)")
	}
}
