// Package textcheck judges the text of AR answers: where one leaves the other, whether that was a near tie, whose text it is
// instead, and whether the same text was reached with the same certainty. Over many answers it tells how often and from which
// token on they part from their controls (Curve); of one alone whether it ends in a loop, collapses into certainty, has broken
// characters, or lost what stood in its prompt.
package textcheck

import "github.com/omnitest/suite/omnitest/api"

// Margin is how far apart the two best tokens of a control were at one step.
type Margin struct {
	End  int     `json:"end"`  // the token's text ends at this byte of the control's answer
	Nats float64 `json:"nats"` // difference of their log probabilities; -1: not told at this step
}

// NearTie is the margin, in nats, up to which two correct runs may choose different tokens. Logits between 16 and 32 are 0.125
// apart in bf16, so two roundings can close 0.25. Equal KV has been seen to diverge in 9 of 64 prompts (prefix miss against
// hit on one server, tpu-inference #3369), which is why string equality alone accuses healthy GPUs.
const NearTie = 0.25

// MarginsOf reads the margins of a control that was asked with Logprobs >= 2. nil where the answer does not tell them, or
// where its tokens do not add up to its text, as when a character is split over tokens.
func MarginsOf(control *api.Text) []Margin {
	if control == nil || len(control.Choices) == 0 {
		return nil
	}
	c := control.Choices[0]
	margins, end := make([]Margin, 0, len(c.Logprobs)), 0
	for _, l := range c.Logprobs {
		end += len(l.Token)
		if end > len(c.Text) {
			return nil
		}
		nats, told := margin(l)
		if !told {
			nats = -1
		}
		margins = append(margins, Margin{end, nats})
	}
	if end != len(c.Text) {
		return nil
	}
	return margins
}

// Undecided finds the control's margin where got leaves want. Only this first step counts: what follows a different token is
// another text altogether.
func Undecided(margins []Margin, got, want string) (Margin, bool) {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	for _, m := range margins {
		if m.End > at {
			return m, m.Nats >= 0 && m.Nats <= NearTie
		}
	}
	return Margin{}, false
}
