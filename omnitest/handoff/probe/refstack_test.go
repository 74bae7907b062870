package probe_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// start runs a reference stack in this process.
func start(t *testing.T, s refpd.Stack) handoff.Source {
	t.Helper()
	u := s.Start(t)
	return handoff.Source{
		Entry:         &api.Client{BaseURL: u.Entry},
		Prefill:       handoff.Endpoint{API: &api.Client{BaseURL: u.Prefill}},
		Decode:        handoff.Endpoint{API: &api.Client{BaseURL: u.Decode}},
		BytesPerToken: ar.BytesPerToken,
		Settle:        10 * time.Millisecond, IdleWithin: refpd.Limit,
	}
}

func TestReferenceProbes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name              string
		stack             refpd.Stack
		crossed, withheld string
	}{
		{"healthy", refpd.Stack{},
			// The last token is decode's own: it is the lender's as well in 1 of 26 cases.
			"proven: prompt b with the ticket of prompt a (follows the text of a in bytes 0 to 191|was answered with the text of a); prompt a with the ticket of prompt b (follows the text of b in bytes 0 to 191|was answered with the text of b)",
			"proven: without a ticket decode computed 192 of 192 prompt tokens and moved 0 bytes, with one it computed 0 and moved 196608 bytes"},
		{"silent-recompute", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{SilentRecompute: true}}},
			"refuted: prompt b with the ticket of prompt a was answered as if it had its own: ",
			"refuted: with a ticket decode computed 192 prompt tokens itself, without one 192; 0 bytes moved"},
		{"claim-hit-without-bytes", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{ClaimHitWithoutBytes: true}}},
			"refuted: prompt b with the ticket of prompt a was answered as if it had its own: ",
			"refuted: with a ticket decode computed 192 prompt tokens itself, without one 192; 0 bytes moved"},
		{"missing-series", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{MissingSeries: true}}},
			"proven: prompt b with the ticket of prompt a (follows the text of a in bytes 0 to 191|was answered with the text of a)", // needs no metric
			"inconclusive: instrument blind: series absent: vllm:nixl_bytes_transferred_sum of decode"},
		{"zero-blocks", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ZeroBlocks: true}}},
			"inconclusive: decode differs from prefill alone even with the right ticket: text diverges at byte [0-9]: ", // a letter or two may agree by chance
			"proven: without a ticket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.stack)
			ctx, cancel := context.WithTimeout(t.Context(), 3*refpd.Limit)
			defer cancel()
			r, err := probe.CrossedTickets(ctx, s, probe.Options{})
			require.NoError(t, err)
			assert.Regexp(t, "^"+c.crossed, r.Verdict.String())
			r, err = probe.WithheldTicket(ctx, s, probe.Options{})
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(r.Verdict.String(), c.withheld), "got %q\nwant %q ...", r.Verdict, c.withheld)
		})
	}
}
