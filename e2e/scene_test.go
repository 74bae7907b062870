package e2e

import (
	"context"
	"fmt"
	"image"
	"sync"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// shows are the checks of colours that a picture must show: on the reference DiT at the place where the thing is known to be,
// on another engine anywhere within.
func shows(s *omnitest.Stack, p imagecheck.Picture, parts []fixtures.Part, within image.Rectangle) []imagecheck.Check {
	var checks []imagecheck.Check
	for _, part := range parts {
		if s.Instance(engine.DiT).Simulated {
			checks = append(checks, imagecheck.Colour(part.In(p.Size().W, p.Size().H), part.Colour))
		} else {
			checks = append(checks, imagecheck.Shows(within, part.Colour))
		}
	}
	return checks
}

// TestSceneGoldens holds the scenes against approved pictures: shape, place and colours, as no prompt can state them.
func TestSceneGoldens(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	needGoldens(t, s)
	for _, scene := range fixtures.Scenes {
		t.Run(scene.Name, func(t *testing.T) {
			c := imagecheck.Case{Name: scene.Name, Prompt: scene.Prompt, Size: api.Size{W: 512, H: 512}, Steps: 20, Seed: 7}
			p := generate(t, s, c, api.ImageParams{Size: c.Size, Steps: c.Steps, Seed: c.Seed})
			omnitest.Check(t, p, goldens(t).Check("scene-"+scene.Name, referenceKey))
		})
	}
}

// TestColourWordCounts changes one word of a prompt, the colour, and nothing else.
func TestColourWordCounts(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	paint := func(t *testing.T, scene fixtures.Scene) imagecheck.Picture {
		c := imagecheck.Case{Name: scene.Name, Prompt: scene.Prompt, Size: api.Size{W: 512, H: 512}, Steps: 8, Seed: 7}
		return generate(t, s, c, api.ImageParams{Size: c.Size, Steps: c.Steps, Seed: c.Seed})
	}
	first := paint(t, fixtures.Scenes[0])
	for _, word := range fixtures.ColourWords {
		t.Run(word, func(t *testing.T) {
			scene := fixtures.Recoloured(word)
			p := paint(t, scene)
			omnitest.Check(t, p, shows(s, p, scene.Parts, p.Image.Rect)...)
			if hasGoldens(s) { // another model may move the camera for another word; the reference has the table where it was
				omnitest.Check(t, p, imagecheck.KeptColour(first, frame(p.Size())...))
			}
		})
	}
}

// frame gives the four sides of a picture, an eighth deep: there is no cube in them.
func frame(s api.Size) []image.Rectangle {
	x, y := s.W/8, s.H/8
	return []image.Rectangle{image.Rect(0, 0, s.W, y), image.Rect(0, s.H-y, s.W, s.H), image.Rect(0, 0, x, s.H), image.Rect(s.W-x, 0, s.W, s.H)}
}

// TestStepsCount: every step counts. Neighbouring numbers of steps must give other pixels, which a server that rounds, caps or
// halves the number cannot do, and more of them less noise.
func TestStepsCount(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	ladder := func(t *testing.T, paint func(steps int) imagecheck.Picture) (rungs []imagecheck.Picture) {
		for steps := 1; steps <= 5; steps++ {
			p := paint(steps)
			for i, other := range rungs {
				if samePixels(other, p) {
					t.Errorf("%d and %d steps gave the same pixels: the number of steps is not used as it was asked for", i+1, steps)
				}
			}
			rungs = append(rungs, p)
		}
		return rungs
	}
	t.Run("picture", func(t *testing.T) {
		rungs := ladder(t, func(steps int) imagecheck.Picture {
			c := imagecheck.Case{Name: fmt.Sprintf("steps-%d", steps), Prompt: fixtures.Scenes[0].Prompt, Steps: steps, Seed: 7}
			return generate(t, s, c, api.ImageParams{Size: api.Size{W: 512, H: 512}, Steps: steps, Seed: 7})
		})
		omnitest.Check(t, rungs[4], imagecheck.LessNoise(rungs[1]))
		if s.Instance(engine.DiT).Simulated { // whose noise is known to fall with every step; of a real scheduler only the trend is
			for i, p := range rungs[1:] {
				omnitest.Check(t, p, imagecheck.LessNoise(rungs[i]))
			}
		}
	})
	t.Run("edit", func(t *testing.T) { // the loss of the VAE hides what noise is left
		e := fixtures.ContentEdits[0]
		ladder(t, func(steps int) imagecheck.Picture {
			return editWith(t, s, e, api.EditRequest{ImageParams: api.ImageParams{Steps: steps, Seed: 5}}, inputs(e)...)
		})
	})
}

// TestPicturesUnderLoad asks for pictures and edits one after the other, then for each of them three times, all at once:
// everybody must get the picture that was asked for, as it was without neighbours.
func TestPicturesUnderLoad(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	const each = 3
	client := painter(t, s)
	size := api.Size{W: 512, H: 512} // of the input pictures too
	params := api.ImageParams{Size: size, Steps: 8, Seed: 7}
	type job struct {
		name, prompt string
		send         func(ctx context.Context, id string) (*api.Images, error)
		alone        imagecheck.Picture
	}
	var jobs []job
	for _, scene := range fixtures.Scenes {
		jobs = append(jobs, job{name: scene.Name, prompt: scene.Prompt, send: func(ctx context.Context, id string) (*api.Images, error) {
			return client.Generate(ctx, api.ImageRequest{Prompt: scene.Prompt, RequestID: id, ImageParams: params})
		}})
	}
	for _, e := range fixtures.ContentEdits[:3] {
		jobs = append(jobs, job{name: e.Name, prompt: e.Instruction, send: func(ctx context.Context, id string) (*api.Images, error) {
			return client.Edit(ctx, api.EditRequest{Prompt: e.Instruction, RequestID: id, Images: []api.Input{{Data: inputs(e)[0]}}, ImageParams: params})
		}})
	}
	read := func(j job, id, lane string, answer *api.Images, err error) (imagecheck.Picture, bool) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v\n  ledger  %s", lane, err, story(s, id))
			return imagecheck.Picture{}, false
		}
		omnitest.Check(t, answer, imagecheck.Count(1))
		if len(answer.Items) == 0 {
			return imagecheck.Picture{}, false
		}
		c := imagecheck.Case{Name: j.name + "-" + lane, Prompt: j.prompt, Steps: params.Steps, Seed: params.Seed}
		return decoded(t, s, answer.Items[0], c, size), true
	}
	for i, j := range jobs {
		id := "alone-" + nonce()
		answer, err := j.send(requestContext(t, s), id)
		p, ok := read(j, id, "alone", answer, err)
		if !ok {
			t.FailNow()
		}
		jobs[i].alone = p
	}
	type result struct {
		id     string
		answer *api.Images
		err    error
	}
	results := make([]result, each*len(jobs))
	ctx, cancel := context.WithTimeout(t.Context(), 4*limit(s)) // one engine, many in its queue
	defer cancel()
	var wg sync.WaitGroup
	for i := range results {
		r, j := &results[i], jobs[i%len(jobs)]
		r.id = "load-" + nonce()
		wg.Go(func() { r.answer, r.err = j.send(ctx, r.id) })
	}
	wg.Wait()
	for i, r := range results {
		own := i % len(jobs)
		lane := fmt.Sprintf("lane %d", i)
		p, ok := read(jobs[own], r.id, lane, r.answer, r.err)
		if !ok {
			continue
		}
		if err := imagecheck.SameUnderLoad(jobs[own].alone)(p); err != nil {
			text := ""
			for k, j := range jobs {
				if k != own && samePixels(j.alone, p) {
					text = fmt.Sprintf("\n  this is the picture of another request: prompt %q", j.prompt)
				}
			}
			t.Errorf("%s: %v%s", lane, err, text)
		}
	}
}

// samePixels is for pictures that must differ: a check would keep evidence of every difference.
func samePixels(a, b imagecheck.Picture) bool {
	return a.Size() == b.Size() && imagecheck.PixelSHA256(a.Image) == imagecheck.PixelSHA256(b.Image)
}
