package offline

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// batches is what a benchmark or a test does with any engine; that it compiles for both is the interface's point.
func batches(ctx context.Context, e Engine, jobs []Job) ([]Result, error) {
	alone := make([]Result, len(jobs))
	for i := range jobs {
		r, err := e.Generate(ctx, jobs[i:i+1])
		if err != nil {
			return nil, err
		}
		alone[i] = r[0]
	}
	together, err := e.Generate(ctx, jobs)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		err = errors.Join(err, Same(alone[i], together[i]))
	}
	return together, err
}

func TestReferenceText(t *testing.T) {
	e := &Reference{Timing: refstack.Timing{Decode: ar.Timing{DecodePerStep: 2 * time.Millisecond}}}
	got, err := batches(within(t, patience), e, []Job{{Prompt: "red fox", MaxTokens: 3}, {Prompt: "你好, world", MaxTokens: 100}})
	require.NoError(t, err)
	require.Equal(t, "red", got[0].Text)
	require.Equal(t, 3, got[0].OutputTokens)
	require.Equal(t, "length", got[0].FinishReason)
	require.Equal(t, "你好, world", got[1].Text)
	require.Equal(t, "stop", got[1].FinishReason)
	require.Equal(t, 13, got[1].PromptTokens)
	require.Positive(t, got[1].FirstToken)
	require.GreaterOrEqual(t, got[1].LastToken-got[1].FirstToken, 12*2*time.Millisecond, "the planted time of 12 further steps")
	require.Nil(t, got[1].Picture)
	require.NoError(t, e.Close())
	_, err = e.Generate(within(t, patience), []Job{{Prompt: "x"}})
	require.ErrorIs(t, err, errClosed)
}

func TestReferencePictures(t *testing.T) {
	e := &Reference{}
	defer e.Close()
	jobs := []Job{{Prompt: "a red cube", Picture: &Picture{W: 64, H: 48, Steps: 2, Seed: 1}}, {Prompt: "a blue cube", Picture: &Picture{W: 48, H: 64, Steps: 2}}}
	got, err := batches(within(t, patience), e, jobs)
	require.NoError(t, err)
	for i, r := range got {
		require.Equal(t, jobs[i].Prompt, r.Text, "the plan")
		require.Equal(t, jobs[i].Picture.W, r.Picture.Bounds().Dx())
		require.LessOrEqual(t, r.FirstToken, r.LastToken)
		require.Less(t, r.LastToken, r.End, "the picture comes after the plan")
	}
}

func TestReferenceSaysWhatItCannot(t *testing.T) {
	e := &Reference{}
	defer e.Close()
	for says, jobs := range map[string][]Job{
		"takes no PromptIDs":             {{PromptIDs: []int{1}}},
		"takes no PromptIDs, IgnoreEOS":  {{Prompt: "x", IgnoreEOS: true}},
		"Reference.PlanTokens":           {{Prompt: "x", MaxTokens: 4, Picture: &Picture{}}},
		"1 of 2 jobs ask for a picture":  {{Prompt: "x"}, {Prompt: "x", Picture: &Picture{}}},
		"job 0 of 1: the reference engi": {{Prompt: "x", Margins: true}},
	} {
		_, err := e.Generate(within(t, patience), jobs)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.ErrorContains(t, err, says)
	}
}
