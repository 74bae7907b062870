package e2e

import (
	"image"
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// TestCountAndPlace asks for things by number, colour and side, on a ground of another colour, and counts them.
func TestCountAndPlace(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	size := api.Size{W: 512, H: 512}
	whole := image.Rect(0, 0, size.W, size.H)
	left, right := image.Rect(0, 0, size.W/2, size.H), image.Rect(size.W/2, 0, size.W, size.H)
	for _, c := range []struct {
		name, prompt string
		checks       []imagecheck.Check
	}{
		{"one", "A single red circle on a plain white background", []imagecheck.Check{imagecheck.Things(1, "red", whole)}},
		{"one of each", "A red circle and a blue square on a plain white background", []imagecheck.Check{imagecheck.Things(1, "red"), imagecheck.Things(1, "blue")}},
		{"no other", "A green triangle on a plain white background", []imagecheck.Check{imagecheck.Things(1, "green"), imagecheck.Things(0, "red")}},
		{"two", "Two red circles side by side on a plain white background", []imagecheck.Check{imagecheck.Things(2, "red", left, right)}},
		{"three", "Three blue squares in a row on a plain white background", []imagecheck.Check{imagecheck.Things(3, "blue", left, right)}},
		{"place", "A red circle on the left and a blue square on the right, on a plain white background",
			[]imagecheck.Check{imagecheck.Things(1, "red", left), imagecheck.Things(1, "blue", right)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := generate(t, s, imagecheck.Case{Name: "things-" + c.name, Prompt: c.prompt, Steps: 20, Seed: 7}, api.ImageParams{Size: size, Steps: 20, Seed: 7})
			omnitest.Check(t, p, imagecheck.Aspect(1, 1))
			omnitest.Check(t, p, c.checks...)
		})
	}
}

// TestAspect asks for pictures that are wide, tall and square: where an engine may choose its own size, the shape is what must stay.
func TestAspect(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	for _, size := range []api.Size{{W: 768, H: 432}, {W: 432, H: 768}, {W: 512, H: 512}, {W: 1024, H: 256}} {
		t.Run(size.String(), func(t *testing.T) {
			c := imagecheck.Case{Name: "aspect-" + size.String(), Prompt: "A red circle on a plain white background", Steps: 8, Seed: 7}
			p := generate(t, s, c, api.ImageParams{Size: size, Steps: 8, Seed: 7})
			omnitest.Check(t, p, imagecheck.Aspect(size.W, size.H), imagecheck.Things(1, "red"))
		})
	}
}
