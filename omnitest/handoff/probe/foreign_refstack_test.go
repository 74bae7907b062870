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

func TestReferenceForeignContent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		stack refpd.Stack
		want  string
	}{
		// The pool of prefill holds 63 blocks, the prompts take 108: blocks are reused.
		{"healthy", refpd.Stack{Prefill: ar.Config{Blocks: 64}}, "^proven: 18 answers hold nothing of each other \\(1, 8 at once, half of the prompts begin alike\\): 18 are their own to the last byte, 0 part at near ties$"},
		{"foreign-blocks", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ForeignBlocks: true}}}, "^refuted: [0-9]+ of 18 answers hold another's content \\(1, 8 at once\\): [12] at [18] #[1-8] holds the secret \"[a-z]{16}\" of [12] at [18] #[1-8]$"},
		{"free-early", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{FreeEarly: true}}}, "^refuted: [0-9]+ of 18 answers hold another's content \\(1, 8 at once\\): "},
		{"zero-blocks", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ZeroBlocks: true}}}, "^inconclusive: 18 of 18 answers are neither their own nor a known neighbour's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.stack)
			ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
			defer cancel()
			r, err := probe.ForeignContent(ctx, s, probe.Options{Tokens: 96, Concurrency: []int{1, 8}})
			require.NoError(t, err)
			assert.Regexp(t, c.want, r.Verdict.String())
			assert.Equal(t, 36, r.Requests)
		})
	}
}
