package textcheck

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// markov is a language model: the characters that follow three others in the healthy texts, by how often they do.
type markov map[string][]follower

type follower struct {
	r rune
	p float64
}

func newMarkov(t *testing.T) markov {
	m, texts := markov{}, healthy(t)
	for _, name := range slices.Sorted(maps.Keys(texts)) { // in order, so that a seed gives one text
		r := []rune(texts[name])
		for i := 3; i < len(r); i++ {
			c := string(r[i-3 : i])
			at := slices.IndexFunc(m[c], func(f follower) bool { return f.r == r[i] })
			if at < 0 {
				at = len(m[c])
				m[c] = append(m[c], follower{r[i], .02})
			}
			m[c][at].p++
		}
	}
	return m
}

// step is what an engine tells of one sampled token.
func (m markov) step(rng *rand.Rand, context string) (l api.Logprob, next rune) {
	all, sum := m[context], 0.0
	for _, f := range all {
		sum += f.p
	}
	u := rng.Float64() * sum
	at := len(all) - 1
	for i := range all {
		if u -= all[i].p; u < 0 {
			at = i
			break
		}
	}
	best, second := 0, -1
	for i := range all {
		switch {
		case all[i].p > all[best].p:
			best, second = i, best
		case i != best && (second < 0 || all[i].p > all[second].p):
			second = i
		}
	}
	l = api.Logprob{Token: string(all[at].r), Logprob: math.Log(all[at].p / sum)}
	l.Top = append(l.Top, api.TopLogprob{Token: string(all[best].r), Logprob: math.Log(all[best].p / sum)})
	if second < 0 {
		l.Top = append(l.Top, api.TopLogprob{Token: "?", Logprob: -20})
	} else {
		l.Top = append(l.Top, api.TopLogprob{Token: string(all[second].r), Logprob: math.Log(all[second].p / sum)})
	}
	return l, all[at].r
}

// certain is a step of a model in a loop.
func certain(token string) api.Logprob { return logprob(token, -1e-4, -9.3) }

// write gives an answer of n tokens, the last loop of which are certain.
func (m markov) write(rng *rand.Rand, n, loop int) *api.Text {
	t := &api.Text{Choices: []api.Choice{{FinishReason: "length"}}}
	c := &t.Choices[0]
	context := []rune("The")
	for range n - loop {
		if m[string(context)] == nil {
			context = []rune("The") // the end of a text
		}
		l, next := m.step(rng, string(context))
		c.Logprobs = append(c.Logprobs, l)
		c.Text += l.Token
		context = append(context[1:], next)
	}
	for i := range loop {
		c.Logprobs = append(c.Logprobs, certain(string("and so on "[i%10])))
		c.Text += "and so on "[i%10:][:1]
	}
	return t
}

// TestEntropyCollapse is where the bound comes from: sampled texts keep their entropy, those that end in a loop do not.
func TestEntropyCollapse(t *testing.T) {
	m := newMarkov(t)
	rng := rand.New(rand.NewPCG(7, 7))
	least, most := math.Inf(1), 0.0
	for i := range 400 {
		n := 160 + rng.IntN(250)
		r := EntropyCollapse(m.write(rng, n, 0), Bounds{})
		require.NoError(t, r.Err(), "text %d", i)
		least = min(least, r.Value)
		r = EntropyCollapse(m.write(rng, n, 70), Bounds{})
		require.ErrorContains(t, r.Err(), "entropy-collapse 0.0", "text %d", i)
		most = max(most, r.Value)
	}
	t.Logf("healthy keeps %.3f or more, a loop %.4f or less", least, most)
	assert.Greater(t, least, 2*EntropyFall)
	assert.Less(t, most, EntropyFall/2)
}

func steady(n int, best, second float64) *api.Text {
	t := &api.Text{Choices: []api.Choice{{FinishReason: "length"}}}
	for range n {
		t.Choices[0].Logprobs = append(t.Choices[0].Logprobs, logprob("a", best, second))
		t.Choices[0].Text += "a"
	}
	return t
}

func join(parts ...*api.Text) *api.Text {
	all := &api.Text{Choices: []api.Choice{{FinishReason: "length"}}}
	for _, p := range parts {
		all.Choices[0].Logprobs = append(all.Choices[0].Logprobs, p.Choices[0].Logprobs...)
		all.Choices[0].Text += p.Choices[0].Text
	}
	return all
}

func TestEntropyFailureTexts(t *testing.T) {
	half := math.Log(.5)
	nats, told := EntropyOf(logprob("a", half, half))
	assert.True(t, told)
	assert.InDelta(t, math.Ln2, nats, 1e-9, "a coin")
	nats, _ = EntropyOf(logprob("a", half, math.Log(.25)))
	assert.InDelta(t, 1.5*math.Ln2, nats, 1e-9, "what is not told is one candidate more")
	_, told = EntropyOf(api.Logprob{Top: []api.TopLogprob{{}}})
	assert.False(t, told)

	coin, sure := steady(64, half, half), steady(64, -1e-4, -9.3)
	assert.NoError(t, EntropyCollapse(join(coin, coin), Bounds{}).Err())
	assert.NoError(t, EntropyCollapse(join(sure, coin), Bounds{}).Err(), "it wakes up")
	assert.NoError(t, EntropyCollapse(join(coin, sure, coin), Bounds{}).Err(), "a quotation in the middle")
	assert.EqualError(t, EntropyCollapse(join(coin, sure), Bounds{Key: "lab"}).Err(),
		"entropy-collapse 0.001515, want >= 0.1 (lab): from token 64 on 0.001 nats per token (best token 100.0 %), before 0.693 (50.0 %)")
	for want, r := range map[string]Result{
		"the answer was sure from its beginning, 0.001 nats per token: there is nothing to collapse": EntropyCollapse(join(sure, sure), Bounds{}),
		"the answer has 2 whole windows of 32 tokens, it takes 3":                                    EntropyCollapse(coin, Bounds{}),
		ErrNoMargins.Error(): EntropyCollapse(answerOf("text"), Bounds{}),
	} {
		assert.EqualError(t, r.Err(), "entropy-collapse not measured: "+want)
		assert.ErrorIs(t, r.Err(), ErrNotMeasured)
	}

	assert.NoError(t, EntropyKept(join(sure, sure), join(sure, sure), Bounds{}).Err())
	assert.EqualError(t, EntropyKept(join(sure, sure), join(sure, coin), Bounds{}).Err(),
		"entropy-move 0.6921, want <= 0.2 (default): tokens 96..127: 0.693 nats per token, control 0.001")
	assert.EqualError(t, EntropyKept(answerOf("x"), sure, Bounds{}).Err(), "entropy-move not measured: control: "+ErrNoMargins.Error())
	assert.EqualError(t, EntropyKept(sure, answerOf("x"), Bounds{}).Err(), "entropy-move not measured: answer: "+ErrNoMargins.Error())
	assert.EqualError(t, EntropyKept(sure, steady(20, half, half), Bounds{}).Err(), "entropy-move not measured: no whole window of 32 tokens in common")
}
