package perf

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/offline"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/dit"
	"github.com/omnitest/suite/omnitest/report"
)

// The judge of edits has to be right about a healthy stack, whatever the pictures are, and to see what a broken one does, also where
// the output has another shape than the input.
func TestJudgeOfEdits(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: makes pictures")
	}
	t.Parallel()
	for _, out := range []api.Size{{W: 1376, H: 768}, {W: 512, H: 512}} {
		for _, c := range []struct {
			faults dit.Faults
			says   string
		}{
			{dit.Faults{}, ""},
			{dit.Faults{EditIgnored: true}, "colour is missing"},
			{dit.Faults{EditRedraws: true}, "picture changed outside the region"},
			{dit.Faults{Blank: true}, "blank"},
		} {
			engine := &offline.Reference{Faults: refstack.Faults{DiT: c.faults}, PlanTokens: 64}
			row := report.Row{Batch: 8, PromptTokens: 100, Steps: 20}
			if c.says != "" {
				row.Batch = 2
			}
			jobs, err := batchOf(11, row, out)
			require.NoError(t, err)
			results, err := engine.Generate(t.Context(), jobs)
			require.NoError(t, err)
			require.NoError(t, engine.Close())
			for i, r := range results {
				if err := offlineJudge(jobs[i], r, out); c.says == "" {
					assert.NoError(t, err, "%v, picture %d", out, i)
				} else {
					assert.ErrorContains(t, err, c.says)
				}
			}
		}
	}
}

// Of an engine that is not known the least is asked: an input that comes back, stretched to the size that was asked for, is no edit, and
// neither is one picture for everybody.
func TestJudgeOfEditsOfAnyEngine(t *testing.T) {
	in, out := api.Size{W: 256, H: 256}, api.Size{W: 344, H: 192}
	file := func(m image.Image) []byte {
		var b bytes.Buffer
		require.NoError(t, png.Encode(&b, m))
		return b.Bytes()
	}
	judge := func(answer func(input image.Image, i int) image.Image) (said []error) {
		task := &pictureTask{params: api.ImageParams{Size: out}, input: in}
		require.NoError(t, task.prepare(5, 0, 2))
		for i := range 2 {
			input, err := decodeInput(task.requests(i).Images[0].Data)
			require.NoError(t, err)
			im, err := api.ReadImage(file(answer(input, i)), api.Limits{})
			require.NoError(t, err)
			task.answers[i].images = &api.Images{Items: []api.Image{im}}
			said = append(said, task.judge(i))
		}
		return said
	}
	area := image.Rect(0, 0, out.W, out.H)
	circled := func(input image.Image, i int) image.Image {
		m := stretched(input, area)
		draw.Draw(m, image.Rect(140, 60, 200, 130), image.NewUniform(color.RGBA{255, 0, uint8(i), 255}), image.Point{}, draw.Src)
		return m
	}
	for i, err := range judge(circled) {
		assert.NoError(t, err, "edit %d", i)
	}
	for i, err := range judge(func(input image.Image, _ int) image.Image { return stretched(input, area) }) {
		assert.ErrorContains(t, err, "edit: edit did not happen: changed tiles of the picture 0", "edit %d", i)
	}
	var first image.Image
	said := judge(func(input image.Image, i int) image.Image {
		if first == nil {
			first = circled(input, i)
		}
		return first
	})
	assert.NoError(t, said[0])
	assert.EqualError(t, said[1], "edit: the edits of two different pictures are the same, pixel for pixel")
}
