package probe_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// What is reported is at least what was planted; how much more depends on the machine.
func TestReferenceTiming(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct {
		name                    string
		decode                  ar.Config
		missing                 bool
		want                    string
		with, without, transfer float64 // planted, in ms
	}{
		{"computing is dear", ar.Config{Timing: ar.Timing{PrefillPerToken: 10 * ms, TransferPerBlock: 5 * ms}}, false,
			"^proven: decode's first token came after [0-9.]+ ms with a ticket, [0-9.]+ ms without \\(medians of 6 pairs of 64 tokens\\): " +
				"ratio 0\\.[0-9]+, 95 % interval 0\\.[0-9]+ to 0\\.[0-9]+; a transfer took [0-9.]+ ms \\(decode's mean of 6\\)$", 20, 640, 20},
		{"the transfer is dear", ar.Config{Timing: ar.Timing{TransferPerBlock: 150 * ms}}, false,
			"^refuted: decode's first token came after .*: the ticket costs [0-9]+ ms \\([0-9]+ to [0-9]+\\), more than computing the prompt; a transfer took [0-9.]+ ms", 600, 0, 600},
		{"tickets are ignored", ar.Config{Timing: ar.Timing{PrefillPerToken: 4 * ms}, Faults: ar.Faults{SilentRecompute: true}}, true,
			"^inconclusive: advisory: decode's first token came after .*: no clear gain; transfer time not measured: decode counted no transfer$", 256, 256, 0},
		{"no series", ar.Config{Timing: ar.Timing{PrefillPerToken: 10 * ms}, Faults: ar.Faults{MissingSeries: true}}, true,
			"^proven: .*; transfer time not measured: vllm:nixl_xfer_time_seconds absent$", 4, 640, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, refpd.Stack{Decode: c.decode})
			ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
			defer cancel()
			r, err := probe.Timing(ctx, s, probe.Options{Rounds: 6, Tokens: 64})
			require.NoError(t, err)
			assert.Regexp(t, c.want, r.Verdict.String())
			assert.Equal(t, 21, r.Requests)
			n := r.Verdict.Numbers
			assert.GreaterOrEqual(t, n["with_ms"], c.with)
			assert.GreaterOrEqual(t, n["without_ms"], c.without)
			if c.missing {
				assert.NotContains(t, n, "transfer_ms", "what was not measured is missing, never 0")
				return
			}
			assert.GreaterOrEqual(t, n["transfer_ms"], c.transfer)
			assert.LessOrEqual(t, n["transfer_ms"], n["with_ms"]*3, "a part of the time to first token")
			assert.InDelta(t, 6, n["transfers"], 0)
		})
	}
}
