package e2e

import (
	"bytes"
	"image"
	"image/png"
	"testing"

	xdraw "golang.org/x/image/draw"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// maskOf is white within the rectangles, where something may change, and black elsewhere; with its file.
func maskOf(t *testing.T, size api.Size, white ...image.Rectangle) (*image.Gray, []byte) {
	t.Helper()
	mask := image.NewGray(image.Rect(0, 0, size.W, size.H))
	for _, r := range white {
		xdraw.Draw(mask, r, image.White, image.Point{}, xdraw.Src)
	}
	var file bytes.Buffer
	if err := png.Encode(&file, mask); err != nil {
		t.Fatal(err)
	}
	return mask, file.Bytes()
}

// TestEditWithMask: the mask says where, and the instruction does not. An L is no box: its corner must stay.
func TestEditWithMask(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	e := fixtures.Edit{Name: "mask", Instruction: "Paint it purple", Inputs: []string{"harbour-512"}}
	files := inputs(e)
	before := picture(t, files[0])
	upright, foot := image.Rect(32, 160, 160, 480), image.Rect(32, 352, 352, 480)
	mask, file := maskOf(t, before.Size(), upright, foot)
	ask := api.EditRequest{Mask: &api.Input{Data: file}, ImageParams: api.ImageParams{Steps: 20, Seed: 5}}
	after := editWith(t, s, e, ask, files...)
	omnitest.Check(t, after, imagecheck.EditInside(before, mask), imagecheck.EditOutside(before, mask),
		imagecheck.Colour(upright.Inset(16), "purple"), imagecheck.Colour(foot.Inset(16), "purple"))
}

// TestEditOfUnknownRegion judges edits as one must where nobody says which part may change: something happened, it stayed local,
// and what is not next to a change was given back. Edits of half a picture and of its style are no local ones.
func TestEditOfUnknownRegion(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	for _, e := range fixtures.ContentEdits {
		if e.Region.Dx()*e.Region.Dy() > 300_000 {
			continue
		}
		t.Run(e.Name, func(t *testing.T) {
			files := inputs(e)
			before := picture(t, files[0])
			after := edit(t, s, e, files...)
			omnitest.Check(t, after, imagecheck.EditInside(before, nil), imagecheck.EditLocal(before))
		})
	}
}

// TestEditOfSeveralInputs: which picture is the first, and is edited, and which is the second, and is put in, is said by their
// order; a third that no word names shows nowhere. More than the engine takes are refused in words.
func TestEditOfSeveralInputs(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	e := fixtures.Edit{Instruction: "Put the second picture into the top right", Region: image.Rect(500, 0, 1000, 500)}
	cube := generate(t, s, imagecheck.Case{Name: "third", Prompt: fixtures.Scenes[0].Prompt, Steps: 8, Seed: 3},
		api.ImageParams{Size: api.Size{W: 512, H: 512}, Steps: 8, Seed: 3})
	harbour, desk := input(t, "harbour-512"), input(t, "desk-512")
	for _, c := range []struct {
		name  string
		order []imagecheck.Picture
	}{
		{"two", []imagecheck.Picture{harbour, desk}},
		{"two the other way round", []imagecheck.Picture{desk, harbour}},
		{"three", []imagecheck.Picture{harbour, desk, cube}},
		{"three in another order", []imagecheck.Picture{desk, cube, harbour}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := e
			e.Name = "inputs-" + c.name
			var files [][]byte
			var others []imagecheck.Picture
			for i, p := range c.order {
				files = append(files, p.Raw())
				if i != 1 {
					others = append(others, p)
				}
			}
			after := edit(t, s, e, files...)
			omnitest.Check(t, after, changedOnly(c.order[0], e)...)
			omnitest.Check(t, after, imagecheck.Holds(e.In(512, 512), c.order[1], others...))
		})
	}
	if !s.Instance(engine.DiT).Simulated {
		return // how many another model takes is its own affair
	}
	_, err := painter(t, s).Edit(requestContext(t, s), api.EditRequest{Prompt: e.Instruction, ImageParams: api.ImageParams{Steps: 1, Seed: 1},
		Images: []api.Input{{Data: desk.Raw()}, {Data: desk.Raw()}, {Data: desk.Raw()}, {Data: desk.Raw()}, {Data: desk.Raw()}}})
	if api.KindOf(err) != api.Refused {
		t.Errorf("five pictures: want a refusal (4xx), got %v", err)
	}
}
