package probe_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

func TestReferenceParity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		stack  refpd.Stack
		rounds int
		want   string
	}{
		// 2 x 1089 tokens of prompts, and the end of text behind the two short ones.
		{"healthy", refpd.Stack{}, 0,
			"^proven: control against itself diverged in 0 of 16, handoff in 0 of 16; 2182 tokens agree over prompts of 16, 17, 95, 191, 192, 193 tokens, margins within 0.00 nats \\(controls 0.00\\)$"},
		// A recompute is right: that nothing moved is for other judges.
		{"silent-recompute", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{SilentRecompute: true}}}, 2, "^proven: "},
		{"zero-blocks", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ZeroBlocks: true}}}, 2,
			"^refuted: control against itself diverged in 0 of 4, handoff in 4 of 4, first at token [0-9] of a prompt of 16 tokens \\(legs\\) where the control was sure by [12][0-9]\\.[0-9] nats: got \".*\", control \"[a-z]\"$"},
		{"foreign-blocks", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ForeignBlocks: true}}}, 3,
			"^refuted: control against itself diverged in 0 of 6, handoff in [1-6] of 6, first at token "},
		{"lost-head", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{LostHead: true}}}, 2,
			"^refuted: control against itself diverged in 0 of 4, handoff in 0 of 4, but the certainty moved in 4 of 4, of the controls in 0: " +
				"step [0-9]+ of a prompt of 16 tokens \\(legs\\) wins by [0-9.]+ nats, control [0-9.]+: part of the KV is missing or wrong$"},
		{"garbage-on-failure", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{GarbageOnFailure: true}}}, 2, "^refuted: control against itself diverged in 0 of 4, handoff in 2 of 4, first at token "},
		{"wrong-layout", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{WrongLayout: true}}}, 2, "^refuted: control against itself diverged in 0 of 4, handoff in 4 of 4, first at token [0-9] "},
		// Behind a prefix alone: the third shape is the first of that kind.
		{"front-trim", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{FrontTrim: true}}}, 3,
			"^refuted: control against itself diverged in 0 of 6, handoff in 2 of 6, first at token (9[6-9]|10[0-9]) of a prompt of 192 tokens \\(legs\\)"},
		{"front-trim, no prefix", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{FrontTrim: true}}}, 2, "^proven: "},
		{"corrupt-under-load, alone", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{CorruptUnderLoad: true}}}, 2, "^proven: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.stack)
			ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
			defer cancel()
			r, err := probe.Parity(ctx, s, probe.Options{Rounds: c.rounds})
			require.NoError(t, err)
			assert.Regexp(t, c.want, r.Verdict.String())
			rounds := c.rounds
			if rounds == 0 {
				rounds = 8
			}
			assert.Equal(t, 7*rounds, r.Requests)
			assert.Len(t, r.Answers, 7*rounds, "every answer is kept")
			assert.InDelta(t, 2*float64(rounds), r.Verdict.Numbers["prompts"], 0)
		})
	}
}

// The shapes behind a prefix do make decode take a part from its own cache: else front trims and their like go unseen.
func TestParityGoesBehindPrefixes(t *testing.T) {
	t.Parallel()
	s := start(t, refpd.Stack{})
	ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
	defer cancel()
	w, err := handoff.Open(ctx, s)
	require.NoError(t, err)
	s.Entry = nil
	r, err := probe.Parity(ctx, s, probe.Options{Rounds: 3, Tokens: 64})
	require.NoError(t, err)
	assert.Equal(t, handoff.StateProven, r.Verdict.State, r.Verdict)
	assert.Equal(t, 12, r.Requests)
	e, err := w.Close(ctx)
	require.NoError(t, err)
	hit, ok := e.Decode.Delta(handoff.NIXL.LocalHit)
	require.True(t, ok)
	assert.InDelta(t, 32, hit, 0, "two blocks of the third prompt")
}
