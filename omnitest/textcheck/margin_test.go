package textcheck

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

func logprob(token string, best, second float64) api.Logprob {
	return api.Logprob{Token: token, Logprob: best, Top: []api.TopLogprob{{Token: token, Logprob: best}, {Token: "?", Logprob: second}}}
}

func TestNearTie(t *testing.T) {
	control := &api.Text{Choices: []api.Choice{{Text: "the sea is blue", Logprobs: []api.Logprob{
		logprob("the", -0.1, -5), logprob(" sea", -0.6, -0.7), logprob(" is", -0.2, -4), logprob(" blue", -0.1, -9)}}}}
	margins := MarginsOf(control)
	require.Len(t, margins, 4)
	assert.Equal(t, 7, margins[1].End)
	assert.InDelta(t, 0.1, margins[1].Nats, 1e-9)

	control.Choices[0].Text += "!"
	assert.Nil(t, MarginsOf(control), "tokens that are not the text tell nothing")
	control.Choices[0].Logprobs[0].Top = nil
	assert.Nil(t, MarginsOf(control))
	assert.Nil(t, MarginsOf(nil))
}

func TestSameMargins(t *testing.T) {
	answer := func(all ...api.Logprob) *api.Text {
		x := &api.Text{Choices: []api.Choice{{Logprobs: all}}}
		for _, l := range all {
			x.Choices[0].Text += l.Token
		}
		return x
	}
	control := answer(logprob("the", -0.1, -5), logprob(" sea", -0.6, -0.7), logprob(" is", -0.2, -4), logprob(" blue", -0.5, -0.9))
	for _, c := range []struct {
		name string
		got  *api.Text
		most float64
		want string
	}{
		{"same", control, 0, ""},
		{"moved a little", answer(logprob("the", -0.1, -4.2), logprob(" sea", -0.6, -1.5), logprob(" is", -0.2, -4), logprob(" blue", -0.5, -0.9)), 0, ""},
		{"moved far", answer(logprob("the", -0.1, -5), logprob(" sea", -0.6, -0.7), logprob(" is", -0.2, -4), logprob(" blue", -0.1, -17.3)), 0,
			"part of the KV is missing or wrong although the text is right: step 3 margin 17.2 nats, control 0.4"},
		{"moved far the other way", answer(logprob("the", -0.1, -0.3), logprob(" sea", -0.6, -0.7), logprob(" is", -0.2, -4), logprob(" blue", -0.5, -0.9)), 0,
			"part of the KV is missing or wrong although the text is right: step 0 margin 0.2 nats, control 4.9"},
		{"farther than asked", answer(logprob("the", -0.1, -4.9), logprob(" sea", -0.6, -0.7), logprob(" is", -0.2, -4), logprob(" blue", -0.5, -0.9)), 0.05,
			"part of the KV is missing or wrong although the text is right: step 0 margin 4.8 nats, control 4.9"},
		{"another word where the control was undecided", answer(logprob("the", -0.1, -5), logprob(" ocean", -0.6, -0.7), logprob("!", -0.1, -40)), 0, ""},
		{"another word where it was sure", answer(logprob("the", -0.1, -5), logprob(" sea", -0.6, -0.7), logprob(" was", -0.2, -4)), 0,
			`text differs at step 2: token " was", control " is" (margin 3.8 nats)`},
		{"shorter", answer(logprob("the", -0.1, -5), logprob(" sea", -0.6, -0.7)), 0, "answer has 2 tokens, control 4"},
		{"no log probabilities", &api.Text{Choices: []api.Choice{{Text: "the sea is blue"}}}, 0, "answer: " + ErrNoMargins.Error()},
		{"one candidate", answer(api.Logprob{Token: "the", Top: []api.TopLogprob{{}}}, api.Logprob{Token: " sea", Top: []api.TopLogprob{{}}}), 0, "answer, 2 of 2 steps: " + ErrNoMargins.Error()},
		{"nothing", nil, 0, "answer: " + ErrNoMargins.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := SameMargins(control, c.got, c.most)
			if c.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.EqualError(t, err, c.want)
		})
	}
	assert.ErrorIs(t, SameMargins(&api.Text{}, control, 0), ErrNoMargins)
	assert.ErrorContains(t, SameMargins(nil, control, 0), "control: ")
	assert.ErrorContains(t, SameMargins(control, answer(logprob("A", -1, -1.1)), 0), `text differs at step 0: token "A", control "the"`)
}
