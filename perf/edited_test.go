package perf

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/offline"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/dit"
	"github.com/omnitest/suite/omnitest/report"
)

// The judge of edits has to be right about a healthy stack, whatever the pictures are, and to see what a broken one does, also where
// the output has another shape than the input.
func TestJudgeOfEdits(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: makes pictures")
	}
	for _, out := range []api.Size{{W: 1376, H: 768}, {W: 512, H: 512}} {
		for _, c := range []struct {
			faults dit.Faults
			says   string
		}{
			{dit.Faults{}, ""},
			{dit.Faults{EditIgnored: true}, "colour is missing"},
			{dit.Faults{EditRedraws: true}, "picture changed outside the region"},
			{dit.Faults{Blank: true}, "blank"},
		} {
			engine := &offline.Reference{Faults: refstack.Faults{DiT: c.faults}, PlanTokens: 64}
			row := report.Row{Batch: 8, PromptTokens: 100, Steps: 20}
			if c.says != "" {
				row.Batch = 2
			}
			jobs, err := batchOf(11, row, out)
			require.NoError(t, err)
			results, err := engine.Generate(t.Context(), jobs)
			require.NoError(t, err)
			require.NoError(t, engine.Close())
			for i, r := range results {
				if err := offlineJudge(jobs[i], r, out); c.says == "" {
					assert.NoError(t, err, "%v, picture %d", out, i)
				} else {
					assert.ErrorContains(t, err, c.says)
				}
			}
		}
	}
}
