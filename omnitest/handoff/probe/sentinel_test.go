package probe

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

func TestJudgeSentinels(t *testing.T) {
	nan := math.NaN()
	same := parting{same: true, equal: 9, unit: "token", move: 0, nats: nan}
	blind := parting{same: true, equal: 9, unit: "byte", move: nan, nats: nan}
	sure := parting{unit: "token", at: 4, equal: 4, want: "y", got: "x", nats: 12.4, move: 0}
	tie := parting{unit: "token", at: 3, equal: 3, want: "y", got: "x", nats: 0.1, move: 0}
	untold := parting{unit: "byte", at: 2, equal: 2, want: "y", got: "x", nats: nan, move: nan}
	moved := parting{same: true, equal: 9, unit: "token", move: 16.6, moveAt: 3, from: 26.6, to: 10, nats: nan}
	two := []sentinel{{first: answerOf("a")}, {first: answerOf("b")}}
	for _, c := range []struct {
		name                  string
		kept                  []sentinel
		before, during, after parting
		want                  string
		notes                 int
	}{
		{"healthy", two, same, same, same, "proven: answers as before: changed 0 of 1 before, 0 of 1 during, 0 of 1 after; 27 tokens agree", 0},
		{"under load", two, same, sure, same, `refuted: answers changed: 0 of 1 before, 1 of 1 during, 0 of 1 after; first s, during: from token 4 on "x", before "y", sure by 12.4 nats`, 0},
		{"margins under load", two, same, moved, same, `refuted: answers changed: 0 of 1 before, 1 of 1 during, 0 of 1 after; first s, during: the text is right, but step 3 wins by 10.0 nats, before 26.6: part of the KV is missing or wrong`, 0},
		{"stays wrong", two, same, same, sure, `refuted: answers changed: 0 of 1 before, 0 of 1 during, 1 of 1 after; first s, after: from token 4 on`, 0},
		{"near tie", two, same, tie, same, "proven: answers as before: changed 0 of 1 before, 0 of 1 during, 0 of 1 after; 21 tokens agree, 1 part at near ties", 0},
		{"near ties", two, tie, tie, same, "inconclusive: 2 of 3 answers part at near ties: too few were compared to their end", 0},
		{"how sure is not told", two, blind, untold, blind, `inconclusive: answers changed: 0 of 1 before, 1 of 1 during, 0 of 1 after; first s, during: from byte 2 on "x", before "y", how sure it was is not told`, 1},
		{"no margins", two, blind, blind, blind, "proven: answers as before", 1},
		{"one answer for all", []sentinel{two[0], two[0]}, same, same, same, `inconclusive: all 2 sentinels have the same answer "a": wrong KV would not show`, 0},
		{"empty answers", two, parting{same: true, move: nan, nats: nan}, parting{same: true, move: nan, nats: nan}, parting{same: true, move: nan, nats: nan}, "inconclusive: no token could be compared", 1},
	} {
		phase := func(name string, c parting) sentinelPhase { return sentinelPhase{name, []sentinelCheck{{"s", c}}} }
		v := (&Sentinels{kept: c.kept}).judge([]sentinelPhase{phase("before", c.before), phase("during", c.during), phase("after", c.after)})
		assert.Contains(t, v.String(), c.want, c.name)
		assert.Len(t, v.Notes, c.notes, c.name)
	}
	assert.Equal(t, "inconclusive: no token could be compared", (&Sentinels{}).judge(nil).String())
}

func TestRenewed(t *testing.T) {
	ids := make([]int, 64)
	p, err := newProbe(sourceOf(fakepd.New(t)), Options{Prompt: func() api.CompletionRequest {
		fresh := make([]int, 64)
		for i := range fresh {
			fresh[i] = 7
		}
		return api.CompletionRequest{PromptIDs: fresh}
	}})
	require.NoError(t, err)
	r := p.renewed(api.CompletionRequest{PromptIDs: ids}, 16)
	assert.Len(t, r.PromptIDs, 64)
	assert.Equal(t, []int{7, 0}, r.PromptIDs[15:17])
	assert.Zero(t, ids[0], "the sentinel itself stays")
	r = p.renewed(api.CompletionRequest{Prompt: nonce(15) + "ßabcdefgh"}, 16)
	assert.Equal(t, "ßabcdefgh", r.Prompt[15:], "cut at a character")
}

func TestSentinelsCannotBeRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	f := fakepd.New(t)
	s := sourceOf(f)
	entry := *s.Entry
	s.Entry = &entry
	o := Options{Limit: 300 * time.Millisecond, Rounds: 1}
	x, err := NewSentinels(ctx, s, o)
	require.NoError(t, err)
	entry.BaseURL = fakepd.Hanging(t)
	r, err := x.Check(ctx)
	assert.ErrorContains(t, err, "sentinels: through sentinel 1, check 1 (entry): no answer within 300ms")
	assert.Equal(t, 1, r.Requests)
	_, err = NewSentinels(ctx, s, o)
	assert.ErrorContains(t, err, "sentinels: through sentinel 1 at first (entry): no answer within 300ms")
	_, err = Drift(ctx, s, o)
	assert.ErrorContains(t, err, "drift: through sentinel 1 at first (entry): no answer within 300ms")
	_, err = NewSentinels(ctx, handoff.Source{}, o)
	assert.Error(t, err)
	_, err = Drift(ctx, handoff.Source{}, o)
	assert.Error(t, err)
	assert.NoError(t, ctx.Err())
}
