package textcheck

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

var draws = flag.Int("draws", 2000, "random curves for the bound of NoOnset")

func TestWilson(t *testing.T) {
	// The worked values of the interval: 0 of 10 and 81 of 263 stand in R. G. Newcombe, Statistics in Medicine 17, 1998, 857-872 (table I).
	i := Wilson(81, 263)
	assert.InDelta(t, 0.2553, i.Low, 1e-4)
	assert.InDelta(t, 0.3662, i.High, 1e-4)
	i = Wilson(15, 148)
	assert.InDelta(t, 0.0624, i.Low, 1e-4)
	assert.InDelta(t, 0.1605, i.High, 1e-4)
	i = Wilson(0, 20)
	assert.Zero(t, i.Low)
	assert.InDelta(t, 0.1611, i.High, 1e-4)
	assert.Equal(t, Interval{0, 1}, Wilson(0, 0))
	assert.Equal(t, 1.0, Wilson(5, 5).High)
}

func TestPart(t *testing.T) {
	answer := func(finish string, all ...api.Logprob) *api.Text {
		x := &api.Text{Choices: []api.Choice{{Logprobs: all, FinishReason: finish}}}
		for _, l := range all {
			x.Choices[0].Text += l.Token
		}
		return x
	}
	the, sea, is, blue := logprob("the", -0.1, -5), logprob(" sea", -0.6, -0.7), logprob(" is", -0.2, -4), logprob(" blue", -0.1, -9)
	control := answer("length", the, sea, is, blue)
	for _, c := range []struct {
		got  *api.Text
		want string
		part Parting
	}{
		{control, "the same for 4 tokens", Parting{Compared: 4, At: -1, Moved: -1}},
		{answer("length", the, sea), "the same for 2 tokens", Parting{Compared: 2, At: -1, Moved: -1}},
		{answer("", the, sea), `parts at token 2: "end of text", control " is" (margin 3.8 nats)`, Parting{Compared: 2, At: 2, Moved: -1}},
		{answer("stop", the, sea), `parts at token 2: "end of text", control " is" (margin 3.8 nats)`, Parting{Compared: 2, At: 2, Moved: -1}},
		{answer("length", the, logprob(" ocean", -0.1, -3), is), `parts at token 1: " ocean", control " sea", undecided itself (margin 0.10 nats)`,
			Parting{Compared: 1, At: 1, Undecided: true, Moved: -1}},
		{answer("length", the, sea, logprob(" is", -0.2, -2), logprob(" red", -0.1, -9)), `parts at token 3: " red", control " blue" (margin 8.9 nats)`,
			Parting{Compared: 3, At: 3, Moved: 2}},
	} {
		p, err := Part(control, c.got)
		require.NoError(t, err)
		assert.Equal(t, c.want, p.String())
		assert.Equal(t, c.part, Parting{Compared: p.Compared, At: p.At, Undecided: p.Undecided, Moved: p.Moved})
		assert.True(t, p.Margins)
	}
	ids := func(list ...int) *api.Text {
		return &api.Text{Choices: []api.Choice{{TokenIDs: list, FinishReason: "length"}}}
	}
	p, err := Part(ids(1, 2, 3), ids(1, 2, 4))
	require.NoError(t, err)
	assert.Equal(t, "parts at token 2: \"token id 4\", control \"token id 3\" (margin not told)", p.String())
	assert.False(t, p.Margins)
	_, err = Part(ids(1), answer("stop", the))
	assert.EqualError(t, err, "textcheck: not measured: control and answer tell their tokens in different ways")
	_, err = Part(nil, control)
	assert.EqualError(t, err, "textcheck: control: not measured: no choices")
	_, err = Part(control, answerOf("x"))
	assert.EqualError(t, err, "textcheck: answer: not measured: it does not tell its tokens (ask with TokenIDs, or Logprobs >= 2)")
}

func parting(compared, at int, undecided bool) Parting {
	return Parting{Compared: compared, At: at, Undecided: undecided}
}

func TestCurveIsALifeTable(t *testing.T) {
	c := NewCurve([]Parting{parting(64, -1, false), parting(20, 20, false), parting(36, 36, true), parting(40, 40, false), parting(50, -1, false)}, 16)
	require.Len(t, c.Rows, 4)
	assert.Equal(t, []int{5, 5, 3, 1}, []int{c.Rows[0].AtRisk, c.Rows[1].AtRisk, c.Rows[2].AtRisk, c.Rows[3].AtRisk})
	assert.Equal(t, []int{0, 1, 1, 0}, []int{c.Rows[0].Parted, c.Rows[1].Parted, c.Rows[2].Parted, c.Rows[3].Parted})
	assert.Equal(t, 1, c.Rows[2].Undecided)
	assert.InDelta(t, 4.0/5*2/3, c.Rows[3].Kept, 1e-9)
	assert.Equal(t, `5 answers, blocks of 16 tokens
  tokens       at risk  parted  undecided  rate (95 %)      kept
      0..15          5       0          0  0.000 to 0.434  1.000
     16..31          5       1          0  0.036 to 0.624  0.800
     32..47          3       1          1  0.061 to 0.792  0.533
     48..63          1       0          0  0.000 to 0.793  0.533`, c.String())
}

func TestPartingRate(t *testing.T) {
	all := slices.Repeat([]Parting{parting(64, -1, false)}, 24)
	assert.NoError(t, PartingRate(NewCurve(all, 0), Bounds{}).Err(), "24 suffice")
	assert.EqualError(t, PartingRate(NewCurve(all[:8], 0), Bounds{}).Err(),
		"parting-rate not measured: none of 8 answers parts, but the share may be as large as 0.3244; ask more prompts")
	for i := range 6 {
		all[i] = parting(30, 30, i == 5)
	}
	assert.EqualError(t, PartingRate(NewCurve(all, 0), Bounds{Key: "lab"}).Err(),
		"parting-rate 0.4047, want <= 0.1406 (lab): 5 of 24 answers part where the control was sure; the share may be as large as this (95 %)")
}

// drawn is a set of answers that part at a rate of early per block before block onset and of late from there on.
func drawn(rng *rand.Rand, answers, blocks, onset int, early, late float64) Curve {
	var all []Parting
	for range answers {
		p := parting(blocks*16, -1, false)
		for b := range blocks {
			rate := early
			if b >= onset {
				rate = late
			}
			if rng.Float64() < rate {
				at := b*16 + rng.IntN(16)
				p = parting(at, at, false)
				break
			}
		}
		all = append(all, p)
	}
	return NewCurve(all, 16)
}

// TestOnsetGainIsMeasured: what a constant rate gains by chance stays below the bound. -draws 30000 measured it.
func TestOnsetGainIsMeasured(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 9))
	var gains []float64
	for range *draws {
		rate := 0.005 + 0.295*rng.Float64()*rng.Float64()
		gains = append(gains, drawn(rng, 8+rng.IntN(57), 4+rng.IntN(29), 0, rate, rate).Located().Gain)
	}
	slices.Sort(gains)
	n := len(gains)
	t.Logf("of %d: half below %.2f, 99 %% below %.2f, 99.9 %% below %.2f, most %.2f", n, gains[n/2], gains[n*99/100], gains[n*999/1000], gains[n-1])
	assert.Less(t, gains[n*995/1000], float64(OnsetGain))
}

// Drift that makes most answers part within a block is located in its block or the next, also above chance partings.
func TestLocated(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	right, n := 0, 0
	for range 300 {
		onset := 2 + rng.IntN(28)
		c := drawn(rng, 12, 36, onset, 0.005, 0.9)
		o := c.Located()
		n++
		if d := o.From - onset*16; d >= -16 && d <= 16 && NoOnset(c, Bounds{}).Err() != nil {
			right++
		}
	}
	t.Logf("%d of %d located within one block", right, n)
	assert.GreaterOrEqual(t, right, n*97/100)

	c := NewCurve(append(slices.Repeat([]Parting{parting(70, 70, false)}, 10), parting(82, 82, false), parting(160, -1, false)), 16)
	assert.EqualError(t, NoOnset(c, Bounds{}).Err(),
		"divergence-onset 17.71, want <= 8 (default): from tokens 64..79 on 11 of 18 answers and blocks part, before 0 of 48")
	assert.NoError(t, NoOnset(NewCurve(slices.Repeat([]Parting{parting(160, -1, false)}, 12), 16), Bounds{}).Err())
	assert.EqualError(t, NoOnset(NewCurve(nil, 16), Bounds{}).Err(), "divergence-onset not measured: 0 answers of 0 blocks have no course; ask for longer ones")
}
