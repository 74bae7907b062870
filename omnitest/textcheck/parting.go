package textcheck

import (
	"fmt"
	"math"

	"github.com/omnitest/suite/omnitest/api"
)

// Parting is how far an answer went along with its control, in tokens.
type Parting struct {
	Compared  int     `json:"compared"`       // tokens at which both were there and, up to a parting, the same
	At        int     `json:"at"`             // the first token that differs; -1: none
	Undecided bool    `json:"undecided"`      // the control itself was: a near tie (see NearTie)
	Nats      float64 `json:"nats"`           // margin of the control at At; -1: not told
	Moved     int     `json:"moved"`          // the first token of which the answer was surer or less sure by MarginMove; -1: none
	MovedBy   float64 `json:"moved_by_nats"`  // by how much, with its sign
	Margins   bool    `json:"margins"`        // both told the two best tokens of their steps: Moved means something
	Got       string  `json:"got,omitempty"`  // what stands at At
	Want      string  `json:"want,omitempty"` // in the control
}

// String gives `parts at token 70: "x", control "e" (margin 9.2 nats)`.
func (p Parting) String() string {
	switch {
	case p.At < 0:
		return fmt.Sprintf("the same for %d tokens", p.Compared)
	case p.Undecided:
		return fmt.Sprintf("parts at token %d: %q, control %q, undecided itself (margin %.2f nats)", p.At, Short(p.Got, 16), Short(p.Want, 16), p.Nats)
	case p.Nats < 0:
		return fmt.Sprintf("parts at token %d: %q, control %q (margin not told)", p.At, Short(p.Got, 16), Short(p.Want, 16))
	}
	return fmt.Sprintf("parts at token %d: %q, control %q (margin %.1f nats)", p.At, Short(p.Got, 16), Short(p.Want, 16), p.Nats)
}

// First is the first token at which the answer was another one than the control, in its certainty or in itself; -1: none. Unlike
// At it tells where a fault begins, if Margins: a model is less sure before it is wrong.
func (p Parting) First() int {
	if p.Moved >= 0 {
		return p.Moved
	}
	return p.At
}

// Part compares an answer with a control that involved no transfer, token by token: by token ids where both tell them (ask with
// TokenIDs), else by the tokens of their log probabilities (Logprobs >= 2). Only the first difference counts, what follows is
// another text. An answer that max_tokens cut short is compared as far as it goes; one that ended early for any other reason
// parts there.
func Part(control, got *api.Text) (Parting, error) {
	a, err := tokensOf(control, "control")
	if err != nil {
		return Parting{}, err
	}
	b, err := tokensOf(got, "answer")
	if err != nil {
		return Parting{}, err
	}
	if a.ids == nil || b.ids == nil {
		if a.words == nil || b.words == nil {
			return Parting{}, fmt.Errorf("textcheck: %w: control and answer tell their tokens in different ways", ErrNotMeasured)
		}
		a.ids, b.ids = nil, nil
	}
	p := Parting{At: -1, Nats: -1, Moved: -1}
	n := min(a.len(), b.len())
	for p.Compared < n && a.same(b, p.Compared) {
		p.Compared++
	}
	for i := range p.Compared {
		want, told := a.margin(i)
		is, both := b.margin(i)
		if !told || !both {
			continue
		}
		p.Margins = true
		if p.Moved < 0 && math.Abs(is-want) > MarginMove {
			p.Moved, p.MovedBy = i, is-want
		}
	}
	shorter := a
	if b.len() < a.len() {
		shorter = b
	}
	if p.Compared < n || a.len() != b.len() && shorter.finish != "length" {
		p.At, p.Got, p.Want = p.Compared, b.word(p.Compared), a.word(p.Compared)
		if nats, told := a.margin(p.At); told {
			p.Nats, p.Undecided = nats, nats <= NearTie
		}
	}
	return p, nil
}

// tokens of one choice.
type tokens struct {
	ids    []int
	words  []api.Logprob
	finish string
}

func tokensOf(t *api.Text, who string) (tokens, error) {
	if t == nil || len(t.Choices) == 0 {
		return tokens{}, fmt.Errorf("textcheck: %s: %w: no choices", who, ErrNotMeasured)
	}
	c := t.Choices[0]
	if len(c.TokenIDs) == 0 && len(c.Logprobs) == 0 {
		return tokens{}, fmt.Errorf("textcheck: %s: %w: it does not tell its tokens (ask with TokenIDs, or Logprobs >= 2)", who, ErrNotMeasured)
	}
	x := tokens{ids: c.TokenIDs, words: c.Logprobs, finish: c.FinishReason}
	if len(x.ids) == 0 {
		x.ids = nil
	}
	return x, nil
}

func (x tokens) len() int {
	if x.ids != nil {
		return len(x.ids)
	}
	return len(x.words)
}

func (x tokens) same(y tokens, i int) bool {
	if x.ids != nil && y.ids != nil {
		return x.ids[i] == y.ids[i]
	}
	return x.words[i].Token == y.words[i].Token
}

func (x tokens) margin(i int) (float64, bool) {
	if i >= len(x.words) {
		return 0, false
	}
	nats, told := margin(x.words[i])
	return nats, told && !math.IsNaN(nats)
}

func (x tokens) word(i int) string {
	switch {
	case i >= x.len():
		return "end of text"
	case i < len(x.words) && x.words[i].Token != "":
		return x.words[i].Token
	case i < len(x.ids):
		return fmt.Sprintf("token id %d", x.ids[i])
	}
	return ""
}
