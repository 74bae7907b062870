package probe

import (
	"math"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// parting is where an answer leaves its control, and how sure the control was there.
type parting struct {
	same      bool    // the texts are equal
	at        int     // first token that differs; first byte where the tokens were not told
	unit      string  // "token" or "byte"
	want, got string  // what stands there
	nats      float64 // margin of the control there; NaN: not told
	equal     int     // tokens (or bytes) before it
	move      float64 // largest move of a margin over the equal tokens; NaN: not told
	moveAt    int
	from, to  float64 // the margin that moved most: control's, answer's
	text      string  // the answer's
	spelled   string  // what the tokens of the answer's log probabilities spell, where that is not its text and the control's do; "": they agree
}

// part compares an answer with its control. Only the first token that differs counts: what follows is another text.
func part(control, answer *api.Text) parting {
	c := parting{same: control.String() == answer.String(), text: answer.String(), unit: "token", nats: math.NaN(), move: math.NaN()}
	a, b := tokensOf(control), tokensOf(answer)
	if s := spell(b); len(a) > 0 && s != "" && spell(a) == control.String() && s != answer.String() {
		c.spelled = s
	}
	n := min(len(a), len(b))
	for c.at < n && a[c.at].Token == b[c.at].Token {
		want, told := marginAt(a, c.at)
		is, both := marginAt(b, c.at)
		if d := math.Abs(is - want); told && both && !(d <= c.move) {
			c.move, c.moveAt, c.from, c.to = d, c.at, want, is
		}
		c.at++
	}
	switch {
	case c.same:
	case n == 0 || c.at == len(a) && c.at == len(b): // no tokens, or tokens that do not spell the text
		return c.bytes(control.String(), answer.String())
	default:
		if c.at < len(a) {
			c.want = a[c.at].Token
			c.nats, _ = marginAt(a, c.at)
		}
		if c.at < len(b) {
			c.got = b[c.at].Token
		}
	}
	if c.equal = c.at; n == 0 {
		c.unit, c.at = "byte", len(control.String())
		c.equal = c.at
	}
	return c
}

// bytes finds the parting of two texts whose tokens do not tell it.
func (c parting) bytes(want, got string) parting {
	c.unit, c.at = "byte", 0
	for c.at < len(want) && c.at < len(got) && want[c.at] == got[c.at] {
		c.at++
	}
	c.equal, c.want, c.got = c.at, want[c.at:], got[c.at:]
	return c
}

func tokensOf(t *api.Text) []api.Logprob {
	if len(t.Choices) == 0 {
		return nil
	}
	return t.Choices[0].Logprobs
}

// marginAt is how far apart the two best tokens of a step are.
func marginAt(steps []api.Logprob, i int) (nats float64, told bool) {
	if top := steps[i].Top; len(top) >= 2 {
		nats = top[0].Logprob - top[1].Logprob
		return nats, !math.IsNaN(nats)
	}
	return math.NaN(), false
}

// sure is a parting where the control was not undecided; one of unknown margin is not.
func (c parting) sure() bool { return !c.same && c.nats > textcheck.NearTie }

// tie is a parting that two right runs may have.
func (c parting) tie() bool { return !c.same && c.nats <= textcheck.NearTie }

// untold is a parting of which nobody knows how sure the control was.
func (c parting) untold() bool { return !c.same && math.IsNaN(c.nats) }

// moved is KV that is wrong in part: the same tokens with another certainty.
func (c parting) moved() bool { return c.move > textcheck.MarginMove }

// oftener is the chance that of pairs in which one of two equal treatments failed and the other did not, this many or more
// are the first one's: the exact test of McNemar (1947), the binomial tail at 1/2.
func oftener(first, second int) float64 {
	n, tail := first+second, 0.0
	for k := first; k <= n; k++ {
		tail += choose(n, k)
	}
	return tail / math.Pow(2, float64(n))
}

func choose(n, k int) float64 {
	c := 1.0
	for i := range min(k, n-k) {
		c = c * float64(n-i) / float64(i+1)
	}
	return c
}

// spell puts the tokens of log probabilities together.
func spell(steps []api.Logprob) string {
	var b strings.Builder
	for _, x := range steps {
		b.WriteString(x.Token)
	}
	return b.String()
}
