package textcheck

import (
	"fmt"
	"math"

	"github.com/omnitest/suite/omnitest/api"
)

// EntropyWindow is how sure a model was over some tokens.
type EntropyWindow struct {
	From    int     `json:"from"`
	Steps   int     `json:"steps"`        // that told two candidates or more
	Entropy float64 `json:"entropy_nats"` // mean per step; a lower bound, see EntropyOf
	Top     float64 `json:"top"`          // mean probability of the best candidate
}

// entropyWindow is how many tokens one window has: long enough for a mean, short enough to tell where.
const entropyWindow = 32

// EntropyOf is the entropy of one step in nats as far as its candidates tell: those that are not told count as one. With the two
// best candidates of a vocabulary of 150,000 it is a lower bound, and a good one where the model is sure, which is where it
// matters. false: fewer than two candidates.
func EntropyOf(l api.Logprob) (nats float64, told bool) {
	if len(l.Top) < 2 {
		return 0, false
	}
	rest := 1.0
	for _, c := range l.Top {
		p := math.Exp(c.Logprob)
		if math.IsNaN(p) {
			return 0, false
		}
		if p > 0 {
			nats -= p * c.Logprob
		}
		rest -= p
	}
	if rest > 1e-9 {
		nats -= rest * math.Log(rest)
	}
	return nats, true
}

// EntropyWindows gives the whole windows of 32 tokens of an answer's first choice. A window in which fewer than half of the
// steps tell two candidates is an error, ErrNoMargins: a mean of the rest would be of the tokens that are whole characters.
func EntropyWindows(t *api.Text) ([]EntropyWindow, error) {
	if t == nil || len(t.Choices) == 0 || len(t.Choices[0].Logprobs) == 0 {
		return nil, ErrNoMargins
	}
	all := t.Choices[0].Logprobs
	var windows []EntropyWindow
	for from := 0; from+entropyWindow <= len(all); from += entropyWindow {
		w := EntropyWindow{From: from}
		for _, l := range all[from : from+entropyWindow] {
			if nats, told := EntropyOf(l); told {
				w.Steps++
				w.Entropy += nats
				w.Top += math.Exp(l.Top[0].Logprob)
			}
		}
		if w.Steps*2 < entropyWindow {
			return nil, fmt.Errorf("tokens %d..%d: %w", from, from+entropyWindow-1, ErrNoMargins)
		}
		w.Entropy, w.Top = w.Entropy/float64(w.Steps), w.Top/float64(w.Steps)
		windows = append(windows, w)
	}
	return windows, nil
}

// EntropyFall is the least share of its earlier entropy that an answer must keep to its end, and entropyLively the entropy in
// nats from which on there is something to lose. A model in a loop is sure of nearly everything: answers drawn from a
// Markov chain over three characters keep 0.30 or more, with a loop planted at their ends 0.005 or less (400 each,
// TestEntropyCollapse). No real model was measured; a gate on one should be calibrated.
const (
	EntropyFall   = 0.1
	entropyLively = 0.2
)

// EntropyCollapse demands that the model does not become sure of everything from some window on to the end, as in a loop. The
// value is the least share that the mean entropy of the windows from any place on has of the mean before it. Not measured: no
// log probabilities, fewer than three windows, or an answer that was sure of everything from the beginning, as one that copies
// its prompt is.
func EntropyCollapse(t *api.Text, b Bounds) Result {
	r := b.ask("entropy-collapse", ">=", or(b.EntropyFall, EntropyFall))
	windows, err := EntropyWindows(t)
	if err != nil {
		return r.unmeasured("%v", err)
	}
	if len(windows) < 3 {
		return r.unmeasured("the answer has %d whole windows of %d tokens, it takes 3", len(windows), entropyWindow)
	}
	r.Value = math.Inf(1)
	for cut := 1; cut < len(windows); cut++ {
		before, after := meanEntropy(windows[:cut]), meanEntropy(windows[cut:])
		if before.Entropy < entropyLively || after.Entropy/before.Entropy >= r.Value {
			continue
		}
		r.Value = after.Entropy / before.Entropy
		r.Note = fmt.Sprintf("from token %d on %.3f nats per token (best token %.1f %%), before %.3f (%.1f %%)",
			windows[cut].From, after.Entropy, 100*after.Top, before.Entropy, 100*before.Top)
	}
	if math.IsInf(r.Value, 1) {
		return r.unmeasured("the answer was sure from its beginning, %.3f nats per token: there is nothing to collapse", meanEntropy(windows).Entropy)
	}
	return r
}

func meanEntropy(windows []EntropyWindow) (m EntropyWindow) {
	for _, w := range windows {
		m.Entropy += w.Entropy / float64(len(windows))
		m.Top += w.Top / float64(len(windows))
	}
	return m
}

// EntropyMove is by how much, in nats, the mean entropy of a window may differ from the same window of a control. On the reference
// stack a healthy handoff moves it by 0.000 and KV in the wrong layout by 0.32 to 0.66. It is no measure of small faults: drift moves
// it by 0.03 to 0.08, zeroed blocks by 0.02, a zeroed head by 1e-6. Those show in Part and SameMargins, step by step.
const EntropyMove = 0.2

// EntropyKept compares window by window, as far as the texts agree and to the end of the window in which they part. It is the
// check for answers of models that are sure by nature, where EntropyCollapse has nothing to measure.
func EntropyKept(control, got *api.Text, b Bounds) Result {
	r := b.ask("entropy-move", "<=", or(b.EntropyMove, EntropyMove))
	a, err := EntropyWindows(control)
	if err != nil {
		return r.unmeasured("control: %v", err)
	}
	w, err := EntropyWindows(got)
	if err != nil {
		return r.unmeasured("answer: %v", err)
	}
	p, err := Part(control, got)
	if err != nil {
		return r.unmeasured("%v", err)
	}
	n := min(len(a), len(w))
	if p.At >= 0 {
		n = min(n, p.At/entropyWindow+1)
	}
	if n == 0 {
		return r.unmeasured("no whole window of %d tokens in common", entropyWindow)
	}
	for i := range n {
		if move := math.Abs(w[i].Entropy - a[i].Entropy); move >= r.Value {
			r.Value = move
			r.Note = fmt.Sprintf("tokens %d..%d: %.3f nats per token, control %.3f", w[i].From, w[i].From+entropyWindow-1, w[i].Entropy, a[i].Entropy)
		}
	}
	return r
}
