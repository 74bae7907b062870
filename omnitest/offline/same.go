package offline

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// NearTie is the margin, in nats, up to which two correct runs may choose different tokens. A batch of another size runs
// other kernels, which add in another order; logits between 16 and 32 are 0.125 apart in bfloat16, so one step of rounding
// on each of the two best tokens moves them by 0.25 against each other. Package handoff uses the same figure.
const NearTie = 0.25

// DifferentError says where two runs of one job left each other.
type DifferentError struct {
	Token  int     // first output token that differs; -1: the engine gives no token ids
	Margin float64 // of the reference run at that token, nats; NaN: not known
	// What the runs say around that place.
	Want, Got string
}

func (e *DifferentError) Error() string {
	at := "the text differs"
	if e.Token >= 0 {
		at = fmt.Sprintf("output token %d differs", e.Token)
	}
	switch {
	case math.IsNaN(e.Margin):
		at += " (margin not known)"
	case e.NearTie():
		at += fmt.Sprintf(" at a near-tie (%.3f nats between the two best, limit %.2f)", e.Margin, NearTie)
	default:
		at += fmt.Sprintf(" where the choice was clear (%.3f nats between the two best, limit for a near-tie %.2f)", e.Margin, NearTie)
	}
	return fmt.Sprintf("%s: %q, want %q", at, e.Got, e.Want)
}

// NearTie is true where the reference run itself was undecided, so that the difference is no proof of a fault.
func (e *DifferentError) NearTie() bool { return e.Margin <= NearTie }

// Same checks that a run of a job gave what the reference run of the same job gave, token by token and count by count: the
// batch that a job runs in must not change its answer. With Margins in the reference run a *DifferentError can tell a
// near-tie from a fault. PromptTokens must agree always: no rounding changes them.
func Same(reference, got Result) error {
	if reference.PromptTokens != got.PromptTokens {
		return fmt.Errorf("prompt tokens %d, want %d: not the same prompt", got.PromptTokens, reference.PromptTokens)
	}
	if reference.TokenIDs == nil || got.TokenIDs == nil {
		if reference.Text != got.Text {
			i := common(reference.Text, got.Text)
			return &DifferentError{-1, math.NaN(), excerpt(reference.Text, i), excerpt(got.Text, i)}
		}
	} else if i := common(reference.TokenIDs, got.TokenIDs); i < max(len(reference.TokenIDs), len(got.TokenIDs)) {
		e := &DifferentError{Token: i, Margin: math.NaN()}
		if i < len(reference.Margins) {
			e.Margin = reference.Margins[i]
		}
		j := common(reference.Text, got.Text)
		e.Want, e.Got = excerpt(reference.Text, j), excerpt(got.Text, j)
		return e
	} else if reference.Text != got.Text {
		j := common(reference.Text, got.Text)
		return fmt.Errorf("the same tokens became other text: %q, want %q", excerpt(got.Text, j), excerpt(reference.Text, j))
	}
	if reference.OutputTokens != got.OutputTokens || reference.FinishReason != got.FinishReason {
		return fmt.Errorf("the same text has %d tokens and finish reason %q, want %d and %q",
			got.OutputTokens, got.FinishReason, reference.OutputTokens, reference.FinishReason)
	}
	return nil
}

// common is the length of what a and b begin with alike.
func common[S string | []int](a, b S) int {
	n := min(len(a), len(b))
	for i := range n {
		if !equalAt(a, b, i) {
			return i
		}
	}
	return n
}

func equalAt[S string | []int](a, b S, i int) bool {
	switch a := any(a).(type) {
	case string:
		return a[i] == any(b).(string)[i]
	case []int:
		return a[i] == any(b).([]int)[i]
	}
	return false
}

// excerpt is the text around byte i.
func excerpt(s string, i int) string {
	from, to := max(0, i-20), min(len(s), i+40)
	for from > 0 && !utf8.RuneStart(s[from]) {
		from--
	}
	for to < len(s) && !utf8.RuneStart(s[to]) {
		to++
	}
	return s[from:to]
}
