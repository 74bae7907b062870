package workload_test

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/workload"
)

func TestZeroTextIsVLLMsShape(t *testing.T) {
	requests, err := workload.Text{}.Requests(1)
	require.NoError(t, err)
	r := requests(0)
	assert.Len(t, r.PromptIDs, 512)
	assert.Empty(t, r.Prompt)
	assert.Equal(t, 128, r.MaxTokens)
	assert.True(t, r.IgnoreEOS)
	for _, id := range r.PromptIDs {
		assert.True(t, id >= 32 && id < 127, "%d", id)
	}
}

// For one seed a request depends on its number alone; another seed, another request.
func TestRequestsAreDecidedBySeedAndNumber(t *testing.T) {
	spec := workload.Text{Input: workload.Uniform{Around: 64, Ratio: 0.5}, Output: workload.Uniform{Around: 32, Ratio: 0.5}, StopAtEOS: true,
		Sampling: api.Sampling{Temperature: 0.5}}
	a, err := spec.Requests(5)
	require.NoError(t, err)
	b, _ := spec.Requests(5)
	other, _ := spec.Requests(6)
	for _, i := range []int{7, -2, 0, 1 << 40} {
		assert.Equal(t, a(i), b(i))
		assert.NotEqual(t, a(i).PromptIDs, other(i).PromptIDs)
	}
	assert.False(t, a(0).IgnoreEOS)
	assert.Equal(t, 0.5, a(0).Temperature)
	ahead := workload.Ahead(a, -2, 8)
	for i := -2; i < 8; i++ {
		assert.Equal(t, a(i), ahead(i))
	}
}

// No two prompts share the first block of 16 tokens, warm-ups included: a prefix cache has nothing to give. Text has its exact number
// of bytes.
func TestNoPrefixIsShared(t *testing.T) {
	for _, bytesOnly := range []bool{false, true} {
		rapid.Check(t, func(rt *rapid.T) {
			n := rapid.IntRange(16, 40).Draw(rt, "tokens")
			requests, err := workload.Text{Input: workload.Fixed(n), Bytes: bytesOnly}.Requests(rapid.Uint64().Draw(rt, "seed"))
			require.NoError(rt, err)
			seen := map[string]int{}
			for i := -20; i < 200; i++ {
				r := requests(i)
				head := fmt.Sprint(r.PromptIDs[:min(16, len(r.PromptIDs))])
				if bytesOnly {
					if len(r.Prompt) != n || r.PromptIDs != nil {
						rt.Fatalf("%d bytes and %d ids, want %d bytes", len(r.Prompt), len(r.PromptIDs), n)
					}
					head = r.Prompt[:16]
				} else if len(r.PromptIDs) != n {
					rt.Fatalf("%d ids, want %d", len(r.PromptIDs), n)
				}
				if before, twice := seen[head]; twice {
					rt.Fatalf("calls %d and %d share their first block", before, i)
				}
				seen[head] = i
			}
		})
	}
}

func TestTokenIDsStayInTheirRange(t *testing.T) {
	requests, err := workload.Text{IDs: [2]int{1000, 1002}}.Requests(1) // the nonce needs 64 places in base 2
	require.NoError(t, err)
	for _, id := range requests(3).PromptIDs {
		assert.True(t, id == 1000 || id == 1001, "%d", id)
	}
	assert.NotEqual(t, requests(3).PromptIDs[:64], requests(4).PromptIDs[:64])
	_, err = workload.Text{IDs: [2]int{7, 8}}.Requests(1)
	assert.EqualError(t, err, "workload: token ids 7 to 8: want at least two")
	_, err = workload.Text{IDs: [2]int{-1, 8}}.Requests(1)
	assert.EqualError(t, err, "workload: token ids -1 to 8: want at least two")
}

func TestPictures(t *testing.T) {
	requests, err := workload.PicturePreset().Requests(1)
	require.NoError(t, err)
	a, b := requests(0), requests(1)
	assert.Equal(t, api.Size{W: 1024, H: 1024}, a.Size)
	assert.NotEqual(t, strings.Fields(a.Prompt)[0], strings.Fields(b.Prompt)[0])
	assert.Equal(t, a.Seed+1, b.Seed)

	requests, err = workload.Pictures{Words: workload.Fixed(5), Params: api.ImageParams{Size: api.Size{W: 1376, H: 768}, Steps: 20, Seed: 40}}.Requests(1)
	require.NoError(t, err)
	assert.Len(t, strings.Fields(requests(2).Prompt), 1+5)
	assert.Equal(t, api.ImageParams{Size: api.Size{W: 1376, H: 768}, Steps: 20, Seed: 42}, requests(2).ImageParams)

	for _, c := range []struct {
		params api.ImageParams
		text   string
	}{
		{api.ImageParams{Size: api.Size{W: -1, H: 8}}, "workload: pictures of -1x8"},
		{api.ImageParams{Size: api.Size{W: 8}}, "workload: pictures of 8x0"},
		{api.ImageParams{Size: api.Size{W: 1 << 40, H: 1 << 40}}, "workload: pictures of 1099511627776x1099511627776"},
		{api.ImageParams{N: -1}, "workload: -1 pictures"},
	} {
		_, err := workload.Pictures{Params: c.params}.Requests(1)
		assert.EqualError(t, err, c.text)
		_, err = workload.Edits{Params: c.params}.Requests(1)
		assert.EqualError(t, err, c.text)
	}
}

func decode(t *testing.T, in api.Input) image.Image {
	t.Helper()
	m, err := png.Decode(bytes.NewReader(in.Data))
	require.NoError(t, err)
	return m
}

func TestEditsSendPicturesOfTheirSizeAndNoneTwice(t *testing.T) {
	requests, err := workload.Edits{Inputs: 2, InputSize: api.Size{W: 40, H: 24}}.Requests(1)
	require.NoError(t, err)
	seen := map[string]bool{}
	for i := range 20 {
		r := requests(i)
		require.Len(t, r.Images, 2)
		for _, in := range r.Images {
			m := decode(t, in)
			assert.Equal(t, image.Rect(0, 0, 40, 24), m.Bounds())
			pixels := fmt.Sprint(m.(*image.RGBA).Pix)
			assert.False(t, seen[pixels], "request %d: a picture that was sent before", i)
			seen[pixels] = true
		}
	}
	assert.Equal(t, requests(3), requests(3))

	requests, err = workload.EditPreset().Requests(1)
	require.NoError(t, err)
	assert.Equal(t, image.Rect(0, 0, 1024, 1024), decode(t, requests(0).Images[0]).Bounds())

	one, err := workload.Edits{InputSize: api.Size{W: 1, H: 1}}.Requests(1) // the smallest
	require.NoError(t, err)
	assert.Equal(t, image.Rect(0, 0, 1, 1), decode(t, one(0).Images[0]).Bounds())
}

// An edit of several turns works on the last answer's picture, with a new instruction each time.
func TestEditTurns(t *testing.T) {
	turn, err := workload.Edits{Inputs: 2, InputSize: api.Size{W: 8, H: 8}}.Turns(1)
	require.NoError(t, err)
	first := turn(0, nil)
	answer := &api.Images{Items: []api.Image{{Raw: []byte("picture")}}}
	second := turn(0, []*api.Images{answer})
	assert.Equal(t, []byte("picture"), second.Images[0].Data)
	assert.Len(t, second.Images, 2)
	assert.NotEqual(t, first.Prompt, second.Prompt)
	assert.NotEqual(t, second.Prompt, turn(1, []*api.Images{answer}).Prompt)
	assert.NotEmpty(t, turn(0, []*api.Images{nil}).Images[0].Data, "no picture came: a fresh one")
}

func TestChatTurnsCarryTheirHistory(t *testing.T) {
	turn, err := workload.Chat{System: "Be short.", Words: workload.Fixed(3), Output: workload.Fixed(9), Images: 1,
		ImageSize: api.Size{W: 8, H: 8}, Image: &api.ImageParams{Seed: 10}}.Turns(1)
	require.NoError(t, err)
	first := turn(4, nil)
	require.Len(t, first.Messages, 2)
	assert.Equal(t, "system", first.Messages[0].Role)
	assert.Len(t, strings.Fields(first.Messages[1].Text), 1+3)
	assert.Len(t, first.Messages[1].Images, 1)
	assert.Equal(t, 9, first.MaxTokens)
	assert.EqualValues(t, 14, first.Image.Seed)

	answer := &api.Text{Choices: []api.Choice{{Text: "A boat."}}, Images: []api.Image{{Raw: []byte("boat")}}}
	second := turn(4, []*api.Text{answer})
	require.Len(t, second.Messages, 4)
	assert.Equal(t, first.Messages, second.Messages[:2], "what was said stays: the prefix is shared, as in a real chat")
	assert.Equal(t, api.Message{Role: "assistant", Text: "A boat."}, second.Messages[2])
	assert.Equal(t, "user", second.Messages[3].Role)
	assert.Equal(t, []api.Input{{Data: []byte("boat")}}, second.Messages[3].Images)
	assert.NotEqual(t, turn(5, nil).Messages[1].Text, first.Messages[1].Text)

	zero, err := workload.Chat{}.Turns(1)
	require.NoError(t, err)
	assert.Len(t, zero(0, nil).Messages, 1)
	for _, c := range []struct {
		chat workload.Chat
		text string
	}{
		{workload.Chat{Words: workload.Fixed(0)}, "workload: length 0: want at least 1"},
		{workload.Chat{Output: workload.Fixed(0)}, "workload: length 0: want at least 1"},
		{workload.Chat{Images: -1}, "workload: -1 pictures"},
	} {
		_, err = c.chat.Turns(1)
		assert.EqualError(t, err, c.text)
	}
}

func TestTimedTraceIsMooncakes(t *testing.T) {
	requests, err := workload.Text{Input: workload.Fixed(600), Output: workload.Fixed(20)}.Requests(1)
	require.NoError(t, err)
	var b strings.Builder
	due := []time.Duration{0, 1_500_000}
	require.NoError(t, workload.WriteTimedTrace(&b, due, requests))
	assert.Equal(t, `{"timestamp":0.000000,"input_length":600,"output_length":20,"hash_ids":[0,1]}
{"timestamp":1.500000,"input_length":600,"output_length":20,"hash_ids":[2,3]}
`, b.String())
	back, err := load.ReadTrace(strings.NewReader(b.String()), "f", load.TraceFormat{Unit: time.Millisecond})
	require.NoError(t, err)
	assert.Equal(t, due, back.Due)
}
