package e2e

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// TestOpenAIPictures: generation and edit by their client give the very pixels that ours gives.
func TestOpenAIPictures(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	e := peer(t, "picture", painter(t, s))
	const steps, seed = 2, 5
	small := api.Size{W: 256, H: 256}

	t.Run("generation", func(t *testing.T) {
		c := imagecheck.Case{Name: "openai", Prompt: fixtures.Scenes[0].Prompt, Steps: steps, Seed: seed}
		want := generate(t, s, c, api.ImageParams{Size: small, Steps: steps, Seed: seed})
		got, err := e.theirs.Images.Generate(requestContext(t, s), openai.ImageGenerateParams{
			Prompt: c.Prompt, N: openai.Int(2), Size: openai.ImageGenerateParamsSize(small.String()),
			ResponseFormat: openai.ImageGenerateParamsResponseFormatB64JSON, OutputFormat: openai.ImageGenerateParamsOutputFormatPNG,
		}, option.WithJSONSet("num_inference_steps", steps), option.WithJSONSet("seed", seed))
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Data) != 2 {
			t.Fatalf("%d pictures, asked for 2", len(got.Data))
		}
		omnitest.Check(t, theirPicture(t, s, got.Data[0], c, small), imagecheck.SamePixels(want))
	})
	t.Run("edit", func(t *testing.T) {
		in := fixtures.ContentEdits[0]
		files := inputs(in)
		want := edit(t, s, in, files...)
		p := openai.ImageEditParams{Prompt: in.Instruction, OutputFormat: openai.ImageEditParamsOutputFormatPNG}
		p.Image.OfFile = openai.File(bytes.NewReader(files[0]), "input.png", "image/png")
		// As edit sends them, but as strings: openai-go v3.0.0 drops a number, and all fields after it, without a word.
		p.SetExtraFields(map[string]any{"num_inference_steps": "20", "seed": "5"})
		got, err := e.theirs.Images.Edit(requestContext(t, s), p)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Data) != 1 {
			t.Fatalf("%d pictures, asked for 1", len(got.Data))
		}
		c := imagecheck.Case{Name: "openai-edit", Prompt: in.Instruction, Steps: 20, Seed: 5}
		omnitest.Check(t, theirPicture(t, s, got.Data[0], c, want.Size()), imagecheck.SamePixels(want))
	})
	t.Run("errors", func(t *testing.T) {
		for _, c := range []struct {
			size       string
			typ, param string
			says       string
		}{
			{"9000x9000", "Bad Request", "", "exceeds the maximum allowed size"},
			{"huge", "Bad Request", "body.size", "size must be in format 'WIDTHxHEIGHT'"},
		} {
			_, err := e.theirs.Images.Generate(requestContext(t, s), openai.ImageGenerateParams{Prompt: "x", Size: openai.ImageGenerateParamsSize(c.size)})
			if err := sameError(err, 400, c.typ, c.param, c.says); err != nil {
				t.Errorf("size %s: %v", c.size, err)
			}
		}
	})
}

// theirPicture decodes a picture that their client received.
func theirPicture(t *testing.T, s *omnitest.Stack, got openai.Image, c imagecheck.Case, size api.Size) imagecheck.Picture {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(got.B64JSON)
	if err != nil {
		t.Fatalf("b64_json: %v", err)
	}
	im, err := api.ReadImage(raw, api.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, s, im, c, size)
}
