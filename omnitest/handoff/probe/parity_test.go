package probe

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

// answerOf is an answer of one-letter tokens, each with its margin to the second best; NaN: not told.
func answerOf(text string, margins ...float64) *api.Text {
	t := &api.Text{Choices: []api.Choice{{Text: text}}}
	for i, m := range margins {
		l := api.Logprob{Token: text[i : i+1], Logprob: -0.1}
		if !math.IsNaN(m) {
			l.Top = []api.TopLogprob{{Token: l.Token, Logprob: -0.1}, {Token: "?", Logprob: -0.1 - m}}
		}
		t.Choices[0].Logprobs = append(t.Choices[0].Logprobs, l)
	}
	return t
}

func TestPart(t *testing.T) {
	nan := math.NaN()
	control := answerOf("abcd", 9, 0.1, 5, nan)
	for _, c := range []struct {
		name                          string
		control, got                  *api.Text
		same, sure, tie, untold, move bool
		at                            int
		unit                          string
	}{
		{"same", control, control, true, false, false, false, false, 4, "token"},
		{"sure", control, answerOf("xbcd", 9, 9, 9, 9), false, true, false, false, false, 0, "token"},
		{"tie", control, answerOf("axcd", 9, 9, 9, 9), false, false, true, false, false, 1, "token"},
		{"not told there", control, answerOf("abcx", 9, 0.1, 5, 5), false, false, false, true, false, 3, "token"},
		{"cut short where it was sure", control, answerOf("ab", 9, 0.1), false, true, false, false, false, 2, "token"},
		{"goes on", control, answerOf("abcde", 9, 0.1, 5, 5, 5), false, false, false, true, false, 4, "token"},
		{"moved", control, answerOf("abcd", 9, 0.1, 3.9, 5), true, false, false, false, true, 4, "token"},
		{"moved, then parted at a tie", control, answerOf("axcd", 4, 9, 9, 9), false, false, true, false, true, 1, "token"},
		{"moved as bf16 may", control, answerOf("abcd", 9.5, 0.3, 5, 5), true, false, false, false, false, 4, "token"},
		{"no tokens", answerOf("abcd"), answerOf("abxd"), false, false, false, true, false, 2, "byte"},
		{"no tokens, same", answerOf("abcd"), answerOf("abcd"), true, false, false, false, false, 4, "byte"},
		{"tokens do not spell the text", control, &api.Text{Choices: []api.Choice{{Text: "abXd", Logprobs: control.Choices[0].Logprobs}}}, false, false, false, true, false, 2, "byte"},
		{"no choices", control, &api.Text{}, false, false, false, true, false, 0, "byte"},
	} {
		got := part(c.control, c.got)
		assert.Equal(t, []bool{c.same, c.sure, c.tie, c.untold, c.move}, []bool{got.same, got.sure(), got.tie(), got.untold(), got.moved()}, "%s: %+v", c.name, got)
		assert.Equal(t, c.at, got.at, c.name)
		assert.Equal(t, c.unit, got.unit, c.name)
	}
}

// Every parting is of exactly one kind, and an answer never parts from itself.
func TestPartProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		answer := func(name string) *api.Text {
			n := rapid.IntRange(0, 5).Draw(t, name)
			text, margins := "", []float64{}
			for range n {
				text += string(rapid.SampledFrom([]rune("ab")).Draw(t, "token"))
				margins = append(margins, rapid.SampledFrom([]float64{0, 0.2, 3, math.NaN()}).Draw(t, "margin"))
			}
			return answerOf(text, margins...)
		}
		a, b := answer("a"), answer("b")
		c, kinds := part(a, b), 0
		for _, is := range []bool{c.same, c.sure(), c.tie(), c.untold()} {
			if is {
				kinds++
			}
		}
		assert.Equal(t, 1, kinds, "%+v", c)
		own := part(a, a)
		assert.True(t, own.same && !own.moved(), "%+v", own)
	})
}

func TestOftener(t *testing.T) {
	assert.InDelta(t, 1, oftener(0, 0), 1e-12)
	assert.InDelta(t, 1.0/32, oftener(5, 0), 1e-12) // five pairs are the fewest that tell
	assert.InDelta(t, 1.0/16, oftener(4, 0), 1e-12)
	assert.InDelta(t, 9.0/256, oftener(7, 1), 1e-12)
	assert.InDelta(t, 0.5, oftener(3, 2), 1e-12)
}

func TestJudgeParity(t *testing.T) {
	nan := math.NaN()
	same := parting{same: true, equal: 9, unit: "token", move: 0.1, nats: nan}
	blind := parting{same: true, equal: 9, unit: "byte", move: nan, nats: nan}
	sure := parting{unit: "token", want: "y", got: "x", nats: 12.4, move: nan}
	tie := parting{unit: "token", at: 3, equal: 3, want: "y", got: "x", nats: 0.1, move: 0}
	untold := parting{unit: "byte", at: 2, equal: 2, want: "y", got: "x", nats: nan, move: nan}
	moved := parting{same: true, equal: 9, unit: "token", move: 16.6, moveAt: 3, from: 26.6, to: 10, nats: nan}
	type row struct {
		n        int
		own, got parting
	}
	for _, c := range []struct {
		name string
		rows []row
		want string
		note bool
	}{
		{"healthy", []row{{8, same, same}},
			"proven: control against itself diverged in 0 of 8, handoff in 0 of 8; 72 tokens agree over prompts of 100, 101, 102, 103, 104, 105, 106, 107 tokens, margins within 0.10 nats (controls 0.10)", false},
		{"a GPU", []row{{7, same, same}, {1, tie, same}, {1, same, tie}},
			"proven: control against itself diverged in 1 of 9, handoff in 1 of 9; 75 tokens agree over prompts of 100, 101, 102, 103, 104, 105, 106, 107, 108 tokens, margins within 0.10 nats (controls 0.10)", false},
		{"garbage", []row{{5, same, same}, {3, same, sure}},
			`refuted: control against itself diverged in 0 of 8, handoff in 3 of 8, first at token 0 of a prompt of 105 tokens (legs) where the control was sure by 12.4 nats: got "x", control "y"`, false},
		{"one garbled answer is enough", []row{{7, same, same}, {1, same, sure}}, "refuted: control against itself diverged in 0 of 8, handoff in 1 of 8, first at token 0 of a prompt of 107 tokens", false},
		{"the control does the same", []row{{4, same, same}, {2, sure, same}, {2, same, sure}},
			"inconclusive: control against itself diverged in 2 of 8, handoff in 2 of 8: the controls themselves part where they were sure (2 of 8): nothing follows", false},
		{"oftener than the control", []row{{1, sure, same}, {7, same, sure}}, "refuted: control against itself diverged in 1 of 8, handoff in 7 of 8", false},
		{"a little oftener", []row{{1, sure, same}, {3, same, sure}}, "inconclusive: ", false},
		{"a lost head", []row{{8, same, moved}},
			"refuted: control against itself diverged in 0 of 8, handoff in 0 of 8, but the certainty moved in 8 of 8, of the controls in 0: step 3 of a prompt of 100 tokens (legs) wins by 10.0 nats, control 26.6: part of the KV is missing or wrong", false},
		{"the control's certainty moves too", []row{{8, moved, moved}},
			"inconclusive: control against itself diverged in 0 of 8, handoff in 0 of 8: the certainty of the controls moves as well (8 of 8): nothing follows", false},
		{"near ties, far oftener", []row{{3, same, same}, {5, same, tie}}, "inconclusive: control against itself diverged in 0 of 8, handoff in 5 of 8 (chance 0.031), each time at a near tie", false},
		{"near ties of both", []row{{6, tie, tie}, {2, same, same}}, "inconclusive: control against itself diverged in 6 of 8, handoff in 6 of 8, each time at a near tie: only 2 of 8 answers were compared to their end", false},
		{"no margins, all wrong", []row{{8, blind, untold}},
			`refuted: control against itself diverged in 0 of 8, handoff in 8 of 8 (chance 0.004), first at byte 2 of a prompt of 100 tokens (legs): got "x", control "y"; how sure it was is not told`, true},
		{"no margins, one wrong", []row{{7, blind, blind}, {1, blind, untold}},
			`inconclusive: control against itself diverged in 0 of 8, handoff in 1 of 8, first at byte 2 of a prompt of 107 tokens (legs): got "x", control "y"; how sure it was is not told`, true},
		{"no margins, right", []row{{8, blind, blind}}, "proven: control against itself diverged in 0 of 8, handoff in 0 of 8; 72 tokens agree over prompts of 100, 101, 102, 103, 104, 105, 106, 107 tokens", true},
		{"empty answers", []row{{8, parting{same: true, move: nan, nats: nan}, parting{same: true, move: nan, nats: nan}}}, "inconclusive: control against itself diverged in 0 of 8, handoff in 0 of 8: no token could be compared", true},
		{"nothing at all", nil, "inconclusive: control against itself diverged in 0 of 0, handoff in 0 of 0: no token could be compared", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var pairs []parityPair
			for _, r := range c.rows {
				for range r.n {
					i := len(pairs)
					pairs = append(pairs, parityPair{"legs", 100 + i, string(rune('a' + i)), r.own, r.got})
				}
			}
			v := judgeParity(pairs)
			assert.Contains(t, v.String(), c.want)
			assert.Equal(t, c.note, len(v.Notes) == 1, v.Notes)
			for i := range pairs {
				pairs[i].control = "one and the same"
			}
			if again := judgeParity(pairs); v.State == handoff.StateProven {
				assert.Contains(t, again.String(), `inconclusive: all `)
			} else {
				assert.Equal(t, v.State, again.State)
			}
		})
	}
}

func TestParityOnScriptedPair(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	r, err := Parity(t.Context(), sourceOf(f), Options{})
	require.NoError(t, err)
	assert.Equal(t, handoff.StateProven, r.Verdict.State, r.Verdict)
	assert.Equal(t, 56, r.Requests)
	f.Different = true
	r, err = Parity(t.Context(), sourceOf(f), Options{})
	require.NoError(t, err)
	assert.Contains(t, r.Verdict.String(), "refuted: control against itself diverged in 0 of 16, handoff in 16 of 16 (chance 0.000), first at byte 0 of a prompt of 16 tokens (legs)")
}

func TestParityCannotBeRun(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := sourceOf(f)
	s.Entry.BaseURL = fakepd.Hanging(t)
	s.Ledger = nil
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := Parity(ctx, s, Options{Limit: 100 * time.Millisecond})
	assert.ErrorContains(t, err, "parity: through entry 1 (entry): no answer within 100ms")
	s = sourceOf(f)
	s.Decode.API = &api.Client{BaseURL: fakepd.Hanging(t)}
	_, err = Parity(ctx, s, Options{Limit: 100 * time.Millisecond})
	assert.ErrorContains(t, err, "parity: decode legs 1 (decode): no answer within 100ms")
	require.NoError(t, ctx.Err())
	_, err = Parity(ctx, handoff.Source{}, Options{})
	assert.Error(t, err)
}

func TestSized(t *testing.T) {
	ids := func() api.CompletionRequest { return api.CompletionRequest{PromptIDs: make([]int, 50)} }
	text := func() api.CompletionRequest { return api.CompletionRequest{Prompt: "Größe and more words "} }
	for _, c := range []struct {
		name   string
		prompt func() api.CompletionRequest
		n      int
		ids    int
		bytes  int
	}{
		{"letters, shorter", nil, 17, 0, 17},
		{"letters, longer", nil, 500, 0, 500},
		{"ids, shorter", ids, 17, 17, 0},
		{"ids, longer", ids, 193, 193, 0},
		{"text is cut at a character", text, 3, 0, 2},
		{"text, longer", text, 100, 0, 100},
		{"nothing comes", func() api.CompletionRequest { return api.CompletionRequest{} }, 100, 0, 0},
	} {
		p, err := newProbe(sourceOf(fakepd.New(t)), Options{Prompt: c.prompt})
		require.NoError(t, err)
		r := p.sized(c.n, nil)
		assert.Len(t, r.PromptIDs, c.ids, c.name)
		assert.Len(t, r.Prompt, c.bytes, c.name)
		first := firstTokens(r, 8)
		behind := p.sized(c.n, &first)
		assert.Equal(t, first.PromptIDs, behind.PromptIDs[:len(first.PromptIDs)], c.name)
		assert.Equal(t, first.Prompt, behind.Prompt[:len(first.Prompt)], c.name)
		assert.Len(t, behind.PromptIDs, c.ids, c.name)
	}
}
