package textcheck

import (
	"errors"
	"fmt"
	"math"

	"github.com/omnitest/suite/omnitest/api"
)

// MarginMove is by how much, in nats, a margin of the same model over the same KV may move between two correct runs: logits
// between 16 and 32 are 0.125 apart in bf16, and a margin is the difference of two. On the reference stack it moves by 0 for
// a whole KV cache, from 26.6 to 10.0 with the values of one head of one layer zeroed and to 16.8 with those of the whole
// layer, the text being right each time: the best token still wins, but by how much it wins tells what is missing.
const MarginMove = 1.0

// ErrNoMargins is an answer that does not tell the two best tokens of each step: ask with Logprobs >= 2.
var ErrNoMargins = errors.New("textcheck: no margins: the answer does not tell the two best tokens of each step (ask with Logprobs >= 2)")

// SameMargins compares step by step how sure two answers to the same request were, a control that involved no transfer and
// the one under test. It finds KV that is wrong in part while the text is still right. most is the largest difference allowed,
// in nats; 0: MarginMove.
//
// It stops at the first token that differs. That is an error too, unless the control was undecided there (NearTie).
func SameMargins(control, got *api.Text, most float64) error {
	a, err := steps(control, "control")
	if err != nil {
		return err
	}
	b, err := steps(got, "answer")
	if err != nil {
		return err
	}
	if most <= 0 {
		most = MarginMove
	}
	for i := range min(len(a), len(b)) {
		want, told := margin(a[i])
		if a[i].Token != b[i].Token {
			if told && want <= NearTie && i > 0 {
				return nil
			}
			return fmt.Errorf("text differs at step %d: token %q, control %q (margin %.1f nats)", i, Short(b[i].Token, 32), Short(a[i].Token, 32), want)
		}
		is, both := margin(b[i])
		if told && both && math.Abs(is-want) > most {
			return fmt.Errorf("part of the KV is missing or wrong although the text is right: step %d margin %.1f nats, control %.1f", i, is, want)
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("answer has %d tokens, control %d", len(b), len(a))
	}
	return nil
}

// steps are the log probabilities of an answer's first choice. At least half of them must tell a second candidate: vLLM keys
// the candidates of a completion by their text, and two tokens that are parts of characters have the same text, U+FFFD, so
// that one of them is missing there.
func steps(t *api.Text, who string) ([]api.Logprob, error) {
	if t == nil || len(t.Choices) == 0 || len(t.Choices[0].Logprobs) == 0 {
		return nil, fmt.Errorf("%s: %w", who, ErrNoMargins)
	}
	all, told := t.Choices[0].Logprobs, 0
	for _, l := range all {
		if _, ok := margin(l); ok {
			told++
		}
	}
	if told*2 < len(all) {
		return nil, fmt.Errorf("%s, %d of %d steps: %w", who, len(all)-told, len(all), ErrNoMargins)
	}
	return all, nil
}

// margin of one step: the candidates come best first, the chosen token among them. false: it is not told.
func margin(l api.Logprob) (nats float64, told bool) {
	if len(l.Top) < 2 {
		return math.NaN(), false
	}
	return l.Top[0].Logprob - l.Top[1].Logprob, true
}
