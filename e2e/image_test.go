package e2e

import (
	"fmt"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/measure"
)

// generate asks for one picture, checks that it is a picture of the asked size, and decodes it.
func generate(t *testing.T, s *omnitest.Stack, c imagecheck.Case, ask api.ImageParams) imagecheck.Picture {
	t.Helper()
	return generateAll(t, s, c, ask)[0]
}

// generateAll asks for ask.N pictures and gives them, each checked and no two with the same pixels.
func generateAll(t *testing.T, s *omnitest.Stack, c imagecheck.Case, ask api.ImageParams) []imagecheck.Picture {
	t.Helper()
	id := "image-" + nonce()
	answer, err := painter(t, s).Generate(requestContext(t, s), api.ImageRequest{Prompt: c.Prompt, RequestID: id, ImageParams: ask})
	if err != nil {
		fail(t, s, id, err)
	}
	omnitest.Check(t, answer, imagecheck.Count(max(1, ask.N)))
	pictures := make([]imagecheck.Picture, len(answer.Items))
	for i, item := range answer.Items {
		ci := c
		if len(answer.Items) > 1 {
			ci.Name = fmt.Sprintf("%s-%d", c.Name, i)
		}
		pictures[i] = decoded(t, s, item, ci, ask.Size)
		for k := range i {
			if samePixels(pictures[k], pictures[i]) {
				t.Errorf("pictures %d and %d of an answer have the same pixels: each must start from noise of its own", k, i)
			}
		}
	}
	return pictures
}

// decoded reads a received picture and gives it the checks that every picture must pass.
func decoded(t *testing.T, s *omnitest.Stack, im api.Image, c imagecheck.Case, size api.Size) imagecheck.Picture {
	t.Helper()
	c.Size, c.Stack, c.Dir = size, s.Target(), omnitest.TestDir(t)
	c.Observe = measure.Warnings(func(w string) { t.Log("warn  " + w) })
	p, err := imagecheck.Decode(im, c)
	if err != nil {
		t.Fatal(err)
	}
	omnitest.Check(t, p, imagecheck.Size(size), imagecheck.Format("png"), imagecheck.NotBlank())
	return p
}

// TestImages generates scenes over sizes and steps. More steps must leave less noise; other prompts must give other pictures; what
// the prompt names must have the colour that it names.
func TestImages(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	sizes := []api.Size{{W: 1024, H: 1024}, {W: 1376, H: 768}, {W: 512, H: 768}}
	for _, size := range sizes {
		var others []imagecheck.Picture
		for _, scene := range fixtures.Scenes {
			t.Run(fmt.Sprintf("%s/%s", size, scene.Name), func(t *testing.T) {
				var coarse, fine imagecheck.Picture
				for _, steps := range []int{4, 20} {
					c := imagecheck.Case{Name: scene.Name, Prompt: scene.Prompt, Steps: steps, Seed: 7}
					p := generate(t, s, c, api.ImageParams{Size: size, Steps: steps, Seed: 7})
					if steps == 4 {
						coarse = p
					} else {
						fine = p
					}
				}
				omnitest.Check(t, fine, imagecheck.LessNoise(coarse), imagecheck.Distinct(others...))
				omnitest.Check(t, fine, shows(s, fine, scene.Parts, fine.Image.Rect)...)
				others = append(others, fine)
			})
			if t.Failed() {
				return // a stack that cannot make this picture would fail, or time out, on each of the others
			}
		}
	}
}

// TestSameSeedSamePixels: alone and with the same request, a stack must repeat itself to the bit; and another seed must count.
func TestSameSeedSamePixels(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	c := imagecheck.Case{Name: "seed", Prompt: fixtures.Scenes[0].Prompt, Steps: 4}
	ask := api.ImageParams{Size: api.Size{W: 512, H: 512}, Steps: 4, Seed: 11}
	first := generate(t, s, c, ask)
	omnitest.Check(t, generate(t, s, c, ask), imagecheck.SamePixels(first))
	ask.Seed = 12
	if samePixels(first, generate(t, s, c, ask)) {
		t.Error("seed 11 and seed 12 gave the same pixels: the seed is ignored")
	}
}

// TestSeveralPictures asks for n pictures at once, and for a picture inside a chat answer.
func TestSeveralPictures(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	size := api.Size{W: 512, H: 512}
	t.Run("n=3", func(t *testing.T) {
		scene := fixtures.Scenes[1]
		c, ask := imagecheck.Case{Name: "n3", Prompt: scene.Prompt, Steps: 2, Seed: 3}, api.ImageParams{N: 3, Size: size, Steps: 2, Seed: 3}
		first, again := generateAll(t, s, c, ask), generateAll(t, s, c, ask)
		for i, p := range again {
			omnitest.Check(t, p, imagecheck.SamePixels(first[i])) // the seed counts for several pictures too
			omnitest.Check(t, p, shows(s, p, scene.Parts, p.Image.Rect)...)
		}
	})
	scene := fixtures.Scenes[2]
	chat := func(t *testing.T, messages ...api.Message) {
		id := "chat-" + nonce()
		answer, err := painter(t, s).Chat(requestContext(t, s), api.ChatRequest{
			Messages:   messages,
			Modalities: []string{"image"},
			Image:      &api.ImageParams{Size: size, Steps: 2, Seed: 3},
			Sampling:   api.Sampling{RequestID: id},
		})
		if err != nil {
			fail(t, s, id, err)
		}
		if len(answer.Images) != 1 {
			t.Fatalf("the chat answer holds %d pictures, asked for 1", len(answer.Images))
		}
		p := decoded(t, s, answer.Images[0], imagecheck.Case{Name: "chat", Prompt: scene.Prompt}, size)
		omnitest.Check(t, p, shows(s, p, scene.Parts, p.Image.Rect)...)
	}
	t.Run("chat", func(t *testing.T) { chat(t, api.Message{Role: "user", Text: scene.Prompt}) })
	t.Run("chat of several messages", func(t *testing.T) {
		chat(t, api.Message{Role: "user", Text: fixtures.Scenes[0].Prompt}, api.Message{Role: "assistant", Text: "Here it is."},
			api.Message{Role: "user", Text: scene.Prompt})
	})
}
