package e2e

import (
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// edit sends one instruction with its input files and gives the picture that came back.
func edit(t *testing.T, s *omnitest.Stack, e fixtures.Edit, inputs ...[]byte) imagecheck.Picture {
	t.Helper()
	return editWith(t, s, e, api.EditRequest{ImageParams: api.ImageParams{Steps: 20, Seed: 5}}, inputs...)
}

// editWith is edit with more to ask for.
func editWith(t *testing.T, s *omnitest.Stack, e fixtures.Edit, ask api.EditRequest, inputs ...[]byte) imagecheck.Picture {
	t.Helper()
	id := "edit-" + nonce()
	ask.Prompt, ask.RequestID = e.Instruction, id
	for _, data := range inputs {
		ask.Images = append(ask.Images, api.Input{Data: data})
	}
	answer, err := painter(t, s).Edit(requestContext(t, s), ask)
	if err != nil {
		fail(t, s, id, err)
	}
	omnitest.Check(t, answer, imagecheck.Count(1))
	c := imagecheck.Case{Name: e.Name, Prompt: e.Instruction, Steps: ask.Steps, Seed: ask.Seed}
	return decoded(t, s, answer.Items[0], c, picture(t, inputs[0]).Size()) // size=auto: the first input's
}

// picture decodes an input file.
func picture(t *testing.T, data []byte) imagecheck.Picture {
	t.Helper()
	im, err := api.ReadImage(data, api.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := imagecheck.Decode(im, imagecheck.Case{Name: "input"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func inputs(e fixtures.Edit) [][]byte {
	var files [][]byte
	for _, name := range e.Inputs {
		files = append(files, fixtures.Image(name))
	}
	return files
}

// TestContentEdits: the named part changes, the rest stays, as far as a VAE lets it stay.
func TestContentEdits(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	for _, e := range fixtures.ContentEdits {
		t.Run(e.Name, func(t *testing.T) {
			files := inputs(e)
			before := picture(t, files[0])
			after := edit(t, s, e, files...)
			omnitest.Check(t, after, changedOnly(before, e)...)
			omnitest.Check(t, after, carriedOut(t, s, after, e)...)
		})
	}
}

// changedOnly are the two checks of a content edit: something happened inside the region, nothing outside it.
func changedOnly(before imagecheck.Picture, e fixtures.Edit) []imagecheck.Check {
	region := e.In(before.Size().W, before.Size().H)
	return []imagecheck.Check{imagecheck.EditInside(before, region), imagecheck.EditOutside(before, region)}
}

// carriedOut are the checks that it was this edit and no other: what the instruction names is there.
func carriedOut(t *testing.T, s *omnitest.Stack, after imagecheck.Picture, e fixtures.Edit) []imagecheck.Check {
	t.Helper()
	w, h := after.Size().W, after.Size().H
	region := e.In(w, h)
	if e.Style() {
		region = after.Image.Rect
	}
	checks := shows(s, after, e.Parts, region)
	if e.Grey {
		checks = append(checks, imagecheck.Greyscale())
	}
	if !e.Like.Empty() {
		checks = append(checks, imagecheck.ColourLike(region, e.LikeIn(w, h)))
	}
	if e.Holds != "" {
		var others []imagecheck.Picture
		for _, name := range e.Inputs {
			if name != e.Holds {
				others = append(others, input(t, name))
			}
		}
		checks = append(checks, imagecheck.Holds(region, input(t, e.Holds), others...))
	}
	if hasGoldens(s) {
		var boxes []imagecheck.Box
		if e.Text != "" {
			boxes = append(boxes, imagecheck.Box{Text: e.Text, Lines: 1, Rect: dit.EditTextBox(e.Instruction, w, h)})
		}
		checks = append(checks, goldens(t).Check("edit-"+e.Name, referenceKey, boxes...))
	}
	return checks
}

// input decodes an input picture by its name.
func input(t *testing.T, name string) imagecheck.Picture {
	t.Helper()
	p := picture(t, fixtures.Image(name))
	p.Case.Name = name
	return p
}

// TestEditSeed: the seed of an edit counts, and the same seed repeats.
func TestEditSeed(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	e := fixtures.ContentEdits[0]
	files := inputs(e)
	first := edit(t, s, e, files...)
	omnitest.Check(t, edit(t, s, e, files...), imagecheck.SamePixels(first))
	if samePixels(first, editWith(t, s, e, api.EditRequest{ImageParams: api.ImageParams{Steps: 20, Seed: 6}}, files...)) {
		t.Error("an edit with seed 5 and with seed 6 gave the same pixels: the seed is ignored")
	}
}

// TestStyleEdits: the whole picture changes and still shows the same thing.
func TestStyleEdits(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	for _, e := range fixtures.StyleEdits {
		t.Run(e.Name, func(t *testing.T) {
			files := inputs(e)
			after := edit(t, s, e, files...)
			omnitest.Check(t, after, imagecheck.StyleChanged(picture(t, files[0])))
			omnitest.Check(t, after, carriedOut(t, s, after, e)...)
		})
	}
}
