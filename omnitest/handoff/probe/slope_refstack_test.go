package probe_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

func TestReferenceBytesSlope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		stack refpd.Stack
		want  string
	}{
		{"healthy", refpd.Stack{}, "^proven: 1024 bytes per token, whole blocks: 48 tokens \\(3 blocks\\) 49152 bytes, 96 tokens \\(6 blocks\\) 98304 bytes, 193 tokens \\(13 blocks\\) 212992 bytes$"},
		{"other blocks", refpd.Stack{Prefill: ar.Config{BlockSize: 32}, Decode: ar.Config{BlockSize: 32}},
			"^proven: 1024 bytes per token, whole blocks: 32 tokens \\(1 block\\) 32768 bytes, 96 tokens \\(3 blocks\\) 98304 bytes, 193 tokens \\(7 blocks\\) 229376 bytes$"},
		// Whole, though garbage: what is in the bytes is for others.
		{"wrong-layout", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{WrongLayout: true}}}, "^proven: 1024 bytes per token"},
		{"silent-recompute", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{SilentRecompute: true}}}, "^refuted: decode had a ticket each time and moved nothing: "},
		{"claim-hit-without-bytes", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{ClaimHitWithoutBytes: true}}}, "^refuted: decode claims 337 transferred tokens, moved 0 bytes: "},
		{"missing-series", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{MissingSeries: true}}}, "^inconclusive: vllm:nixl_bytes_transferred_sum of decode: absent$"},
		{"counter-reset", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{CounterReset: true}}}, "^inconclusive: counter of decode fell back: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.stack)
			ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
			defer cancel()
			r, err := probe.BytesSlope(ctx, s, probe.Options{})
			require.NoError(t, err)
			assert.Regexp(t, c.want, r.Verdict.String())
			assert.LessOrEqual(t, r.Requests, 6)
		})
	}
}
