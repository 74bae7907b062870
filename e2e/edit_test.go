package e2e

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
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

// TestEditWithMask: the mask says where, and the instruction does not.
func TestEditWithMask(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	e := fixtures.Edit{Name: "mask", Instruction: "Paint it purple", Inputs: []string{"harbour-512"}}
	files := inputs(e)
	before := picture(t, files[0])
	where := image.Rect(32, 320, 224, 480)
	mask := image.NewGray(before.Image.Rect) // white where something may change
	for y := where.Min.Y; y < where.Max.Y; y++ {
		for x := where.Min.X; x < where.Max.X; x++ {
			mask.SetGray(x, y, color.Gray{Y: 255})
		}
	}
	var file bytes.Buffer
	if err := png.Encode(&file, mask); err != nil {
		t.Fatal(err)
	}
	after := editWith(t, s, e, api.EditRequest{Mask: &api.Input{Data: file.Bytes()}, ImageParams: api.ImageParams{Steps: 20, Seed: 5}}, files...)
	omnitest.Check(t, after, imagecheck.EditInside(before, mask), imagecheck.EditOutside(before, mask), imagecheck.Colour(where.Inset(16), "purple"))
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

// TestEditInTurns edits the result of the edit before. Each turn is held against the one before it, and the part that no
// turn touched against the first picture, with the loss that k turns may add up to.
func TestEditInTurns(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	file := fixtures.Image(fixtures.Turns[0].Inputs[0])
	first := picture(t, file)
	before := first
	var touched []image.Rectangle
	var parts []fixtures.Part
	for k, e := range fixtures.Turns {
		after := edit(t, s, e, file)
		omnitest.Check(t, after, changedOnly(before, e)...)
		touched = append(touched, e.In(first.Size().W, first.Size().H))
		omnitest.Check(t, after, imagecheck.KeptOverTurns(first, k+1, touched...))
		parts = append(parts, e.Parts...) // what an earlier turn added is still there
		omnitest.Check(t, after, shows(s, after, parts, after.Image.Rect)...)
		if t.Failed() {
			t.Fatalf("turn %d of %d: the later turns would repeat this", k+1, len(fixtures.Turns))
		}
		before, file = after, after.Raw()
	}
}
