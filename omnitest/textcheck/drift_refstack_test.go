package textcheck_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/textcheck"
)

var long = flag.Bool("long", false, "the studies on the reference stack at full size: more prompts, up to 4,096 tokens")

// words is a prompt of n tokens, which are bytes here, without anything repeated.
func words(seed uint64, n int) string {
	rng := rand.New(rand.NewPCG(seed, 17))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%s%d ", []string{"tide ", "lamp ", "rope ", "gull ", "mast ", "fog "}[rng.IntN(6)], rng.IntN(1e6))
	}
	return b.String()[:n]
}

// pair asks prefill alone and the stack for the same continuation and compares the two.
func pair(t *testing.T, r *refpd.Running, prompt string, tokens int) (control, got *api.Text, p textcheck.Parting) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*refpd.Limit)
	defer cancel()
	ask := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: tokens, IgnoreEOS: true, Logprobs: 2, TokenIDs: true}}
	control, err := (&api.Client{BaseURL: r.Prefill}).Complete(ctx, ask)
	require.NoError(t, err)
	got, err = (&api.Client{BaseURL: r.Entry}).Complete(ctx, ask)
	require.NoError(t, err)
	p, err = textcheck.Part(control, got)
	require.NoError(t, err)
	return control, got, p
}

// partings of so many prompts, a few at once.
func partings(t *testing.T, r *refpd.Running, prompts, tokens int) []textcheck.Parting {
	all := make([]textcheck.Parting, prompts)
	var lanes sync.WaitGroup
	next := make(chan int)
	for range 4 {
		lanes.Go(func() {
			for i := range next {
				_, _, all[i] = pair(t, r, words(uint64(i), tokens+8), tokens)
			}
		})
	}
	for i := range prompts {
		next <- i
	}
	close(next)
	lanes.Wait()
	return all
}

// TestPlantedDriftIsLocated: drift from token k on is located within one block by where answers part and, in each answer alone,
// by where its certainty moves; and each of the checks that should says so.
func TestPlantedDriftIsLocated(t *testing.T) {
	ks, prompts := []int{32, 70, 128, 301, 512}, 8
	if *long {
		ks, prompts = []int{32, 40, 47, 63, 64, 65, 100, 128, 200, 256, 301, 400, 480, 512}, 24
	}
	less := 0
	for _, k := range ks {
		t.Run(strconv.Itoa(k), func(t *testing.T) {
			r := refpd.Stack{Decode: ar.Config{Faults: ar.Faults{Drift: strconv.Itoa(k)}}}.Start(t)
			all := partings(t, r, prompts, k+96)
			c := textcheck.NewCurve(all, 16)
			o := c.Located()
			t.Logf("k=%d: %v", k, o)
			assert.InDelta(t, k, o.From, 16)
			assert.ErrorContains(t, textcheck.NoOnset(c, textcheck.Bounds{}).Err(), fmt.Sprintf("divergence-onset %.4g, want <= 8 (default): from tokens %d..%d on ", o.Gain, o.From, o.To-1))
			assert.ErrorContains(t, textcheck.PartingRate(c, textcheck.Bounds{}).Err(), fmt.Sprintf("%d of %d answers part where the control was sure", prompts, prompts))
			for i, p := range all {
				assert.True(t, p.Margins)
				assert.Greater(t, p.First(), k, "prompt %d: token k itself is right", i)
				assert.LessOrEqual(t, p.First(), k+16, "prompt %d", i)
				if p.Moved >= 0 {
					less++
				}
			}
			control, got, _ := pair(t, r, words(99, k+104), k+96)
			moved := textcheck.EntropyKept(control, got, textcheck.Bounds{})
			assert.Less(t, moved.Value, textcheck.EntropyMove/2, "a mean over 32 tokens hardly sees drift, margins do")
			t.Log(moved)
			assert.ErrorContains(t, textcheck.NoLoop(textcheck.Bounds{Loop: 0.05})(got), "repetition-loop ", "it ends in one")
			assert.NoError(t, textcheck.NoLoop(textcheck.Bounds{Loop: 0.05})(control))
		})
	}
	assert.Greater(t, less, len(ks)*prompts/2, "most are less sure before they are wrong; which, is decided by k")
}

// TestHealthyStackDoesNotDrift is the other half: the same questions to a stack without a fault.
func TestHealthyStackDoesNotDrift(t *testing.T) {
	r := refpd.Stack{}.Start(t)
	all := partings(t, r, 24, 200)
	c := textcheck.NewCurve(all, 16)
	assert.NoError(t, textcheck.PartingRate(c, textcheck.Bounds{}).Err())
	assert.NoError(t, textcheck.NoOnset(c, textcheck.Bounds{}).Err())
	assert.Equal(t, textcheck.Onset{}, c.Located())
	for _, p := range all {
		assert.Equal(t, -1, p.Moved)
	}
	control, got, _ := pair(t, r, words(99, 400), 392)
	assert.NoError(t, textcheck.EntropyKept(control, got, textcheck.Bounds{}).Err())
	assert.ErrorContains(t, textcheck.EntropyCollapse(got, textcheck.Bounds{}).Err(), "there is nothing to collapse", "an echo is sure from its beginning")
	assert.NoError(t, textcheck.NoLoop(textcheck.Bounds{})(got))
	assert.NoError(t, textcheck.WholeCharacters(textcheck.Bounds{})(got))
}

// TestWrongLayoutIsLessSure: attention over garbage is spread, and the model is unsure where it was sure.
func TestWrongLayoutIsLessSure(t *testing.T) {
	r := refpd.Stack{Decode: ar.Config{Faults: ar.Faults{WrongLayout: true}}}.Start(t)
	control, got, p := pair(t, r, words(1, 300), 96)
	assert.Zero(t, p.At, "wrong from the first token on")
	assert.EqualError(t, textcheck.EntropyKept(control, got, textcheck.Bounds{}).Err(),
		"entropy-move 0.353, want <= 0.2 (default): tokens 0..31: 0.353 nats per token, control 0.000")
}

// TestNeedlesByDepth: needles at every depth of a prompt are found in its echo, and drift hides those that are behind it.
func TestNeedlesByDepth(t *testing.T) {
	size, rounds := 1000, 2
	if *long {
		size, rounds = 4000, 10
	}
	recall := func(t *testing.T, faults ar.Faults) textcheck.Recall {
		r := refpd.Stack{Decode: ar.Config{Faults: faults}}.Start(t)
		var asked []textcheck.Asked
		for round := range rounds {
			h := textcheck.Haystack{Bytes: size}
			for i := range 200 {
				h.Filler = append(h.Filler, words(uint64(round*1000+i), 40)+".")
			}
			for d := 0.0; d <= 1; d += .125 {
				secret := fmt.Sprintf("QX%d-%03.0f", round, 1000*d)
				h.Needles = append(h.Needles, textcheck.Needle{Depth: d, Text: "The word is " + secret + ".", Want: secret})
			}
			_, got, _ := pair(t, r, h.Prompt(), len(h.Prompt()))
			asked = append(asked, h.Found(got.String())...)
		}
		return textcheck.NewRecall(asked)
	}
	healthy := recall(t, ar.Faults{})
	require.Len(t, healthy, 9)
	t.Log("\n" + healthy.String())
	assert.NoError(t, textcheck.Needles(healthy, textcheck.Bounds{}).Err())
	drifted := recall(t, ar.Faults{Drift: strconv.Itoa(size / 2)})
	t.Log("\n" + drifted.String())
	for _, row := range drifted {
		assert.Equal(t, row.Depth < .5, row.Found == row.Asked, "depth %.3f", row.Depth)
	}
	assert.EqualError(t, textcheck.Needles(drifted, textcheck.Bounds{}).Err(),
		fmt.Sprintf("needle-missing 1, want <= 0.1 (default): at depth 50 %% 0 of %d needles were found (95 %%: 0.00 to %.2f)", rounds, textcheck.Wilson(0, rounds).High))
}
