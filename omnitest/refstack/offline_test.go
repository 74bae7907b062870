package refstack

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

func offline(t *testing.T, o *Offline) (*Offline, context.Context) {
	t.Cleanup(func() { assert.NoError(t, o.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return o, ctx
}

func TestOfflinePaintsThePlanOfEachJob(t *testing.T) {
	o, ctx := offline(t, &Offline{})
	jobs := []OfflineJob{
		{Prompt: `a shop with a sign "OPEN"`, W: 128, H: 64, Steps: 2, Seed: 1},
		{Prompt: `一家店，招牌写着“营业中”`, W: 96, H: 96, Steps: 2, Seed: 2},
		{Prompt: "a red fox beside a still lake", W: 64, H: 64, Steps: 2, Seed: 3},
	}
	results, err := o.Generate(ctx, jobs)
	require.NoError(t, err)
	require.Len(t, results, len(jobs))

	painter, err := dit.New(dit.Config{})
	require.NoError(t, err)
	var before time.Duration
	for i, r := range results {
		assert.Equal(t, jobs[i].Prompt, r.Plan, "the reference AR model echoes its prompt")
		assert.Equal(t, len(jobs[i].Prompt), r.PromptTokens)
		assert.GreaterOrEqual(t, r.PlanTokens, len(jobs[i].Prompt))
		assert.Equal(t, jobs[i].W, r.Image.Bounds().Dx())
		assert.Positive(t, r.FirstToken)
		assert.LessOrEqual(t, r.FirstToken, r.PlanEnd)
		assert.LessOrEqual(t, r.PlanEnd, r.End)
		assert.LessOrEqual(t, before, r.End, "one after the other")
		before = r.End
		for _, stage := range []string{"text_encoder", "diffuse", "vae.decode"} {
			assert.Contains(t, r.Stages, stage)
		}
		alone, err := painter.Render(ctx, dit.Job(jobs[i]))
		require.NoError(t, err)
		assert.Equal(t, alone.Image.Pix, r.Image.Pix, "the same pixels as the DiT alone gives for this plan")
	}

	o.Pictures = 3 // several at once change no pixel
	again, err := o.Generate(ctx, jobs)
	require.NoError(t, err)
	for i := range again {
		assert.Equal(t, results[i].Image.Pix, again[i].Image.Pix)
	}
}

func TestOfflineCarriesFaultsAndTimes(t *testing.T) {
	o, ctx := offline(t, &Offline{
		Faults: Faults{DiT: dit.Faults{WrongSize: true}},
		Timing: Timing{Decode: ar.Timing{DecodePerStep: time.Millisecond}, DiT: dit.Timing{Encode: 30 * time.Millisecond}},
	})
	r, err := o.Generate(ctx, []OfflineJob{{Prompt: "a fox by a lake", W: 128, H: 64, Steps: 1}})
	require.NoError(t, err)
	assert.Equal(t, 112, r[0].Image.Bounds().Dx(), "16 px narrower, as planted")
	assert.GreaterOrEqual(t, r[0].Stages["text_encoder"], 30*time.Millisecond)
	assert.GreaterOrEqual(t, r[0].PlanEnd-r[0].FirstToken, 10*time.Millisecond, "15 steps of 1 ms")
}

func TestOfflineFailures(t *testing.T) {
	o, ctx := offline(t, &Offline{})
	none, err := o.Generate(ctx, nil)
	require.NoError(t, err)
	assert.Empty(t, none)

	_, err = o.Generate(ctx, []OfflineJob{{Prompt: ""}})
	assert.EqualError(t, err, "offline: ar: prompt 0 of the batch is empty")
	_, err = o.Generate(ctx, []OfflineJob{{Prompt: "a fox", W: 64, H: 64}, {Prompt: "a lake", W: -1, H: 64}})
	assert.ErrorContains(t, err, "offline: job 1 of 2: dit: ")

	o.PlanTokens = 1
	_, err = o.Generate(ctx, []OfflineJob{{Prompt: "  \n fox", W: 64, H: 64}})
	assert.EqualError(t, err, `offline: job 0 of 1: the AR engine produced an empty plan (finish_reason "length")`)

	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = o.Generate(gone, []OfflineJob{{Prompt: "a fox"}})
	assert.ErrorIs(t, err, context.Canceled)

	require.NoError(t, o.Close())
	_, err = o.Generate(ctx, []OfflineJob{{Prompt: "a fox"}})
	assert.EqualError(t, err, "offline: already closed")
}
