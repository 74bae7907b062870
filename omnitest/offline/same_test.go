package offline

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSame(t *testing.T) {
	want := Result{Text: "red fox", TokenIDs: []int{1, 2, 3}, PromptTokens: 5, OutputTokens: 3, FinishReason: "length", Margins: []float64{2, 0.1, math.NaN()}}
	require.NoError(t, Same(want, want))
	for _, c := range []struct {
		name   string
		change func(*Result)
		says   string
		tie    bool
	}{
		{"clear", func(r *Result) { r.TokenIDs, r.Text = []int{9, 2, 3}, "dead fox" },
			`output token 0 differs where the choice was clear (2.000 nats between the two best, limit for a near-tie 0.25): "dead fox", want "red fox"`, false},
		{"near-tie", func(r *Result) { r.TokenIDs, r.Text = []int{1, 9, 3}, "red sox" }, "output token 1 differs at a near-tie (0.100 nats", true},
		{"margin not known", func(r *Result) { r.TokenIDs = []int{1, 2, 9} }, "output token 2 differs (margin not known)", false},
		{"shorter", func(r *Result) { r.TokenIDs = []int{1} }, "output token 1 differs", true},
		{"longer", func(r *Result) { r.TokenIDs = []int{1, 2, 3, 4} }, "output token 3 differs (margin not known)", false},
		{"other text", func(r *Result) { r.Text = "red fo" }, "the same tokens became other text", false},
		{"other prompt", func(r *Result) { r.PromptTokens = 6 }, "prompt tokens 6, want 5: not the same prompt", false},
		{"wrong count", func(r *Result) { r.OutputTokens = 4 }, `the same text has 4 tokens and finish reason "length", want 3 and "length"`, false},
		{"other end", func(r *Result) { r.FinishReason = "stop" }, `finish reason "stop"`, false},
		{"text only", func(r *Result) { r.TokenIDs, r.Text = nil, "red dog" }, `the text differs (margin not known): "red dog", want "red fox"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := want
			c.change(&got)
			err := Same(want, got)
			require.ErrorContains(t, err, c.says)
			var e *DifferentError
			require.Equal(t, c.tie, errors.As(err, &e) && e.NearTie())
		})
	}
}
