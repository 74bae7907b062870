package handoff

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/textcheck"
)

// A difference is doubt where the control itself was undecided, and nowhere else.
func TestNearTie(t *testing.T) {
	margins := []textcheck.Margin{{End: 3, Nats: 4.9}, {End: 7, Nats: 0.1}, {End: 10, Nats: 3.8}, {End: 15, Nats: 8.9}}
	judge := func(got string) Verdict {
		e := healthy("r")
		o := &e.Observations[0]
		o.Want, o.WantFrom, o.Margins, o.Got = "the sea is blue", "control: prefill alone", margins, got
		data, err := json.Marshal(e)
		require.NoError(t, err)
		back := new(Evidence)
		require.NoError(t, json.Unmarshal(data, back), "margins are part of the evidence")
		return Proven(back)
	}
	assert.Equal(t, StateProven, judge("the sea is blue").State)
	assert.Equal(t, `inconclusive: text diverges at byte 4: got "ocean is deep", want "sea is blue" (control: prefill alone), but there the control itself was undecided: 0.100 nats between its two best tokens`,
		judge("the ocean is deep").String())
	assert.Equal(t, `refuted: text diverges at byte 11: got "green", want "blue" (control: prefill alone)`, judge("the sea is green").String(),
		"a tie before the divergence excuses nothing")
	assert.Equal(t, `refuted: text diverges at byte 0: got "xxx", want "the sea is blue" (control: prefill alone)`, judge("xxx").String())
}

// A tie excuses a different word, never a neighbour's.
func TestNearTieExcusesNoForeignContent(t *testing.T) {
	e := healthy("a", "b")
	o := e.Observations
	o[0].Margins = []textcheck.Margin{{End: len(o[0].Want), Nats: 0}}
	o[0].Got = o[1].Want
	assert.Equal(t, `refuted: request a: answered with the text of request b: "the answer to b, which has a certain length", though it had its own ticket: blocks freed too early, or the wrong ones read`, Proven(e).String())
}
