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
	for _, c := range []struct {
		name, prompt string
		checks       []imagecheck.Check
	}{
		{"one", "A single red circle on a plain white background", []imagecheck.Check{imagecheck.Things(1, "red", whole)}},
		{"one of each", "A red circle and a blue square on a plain white background", []imagecheck.Check{imagecheck.Things(1, "red"), imagecheck.Things(1, "blue")}},
		{"no other", "A green triangle on a plain white background", []imagecheck.Check{imagecheck.Things(1, "green"), imagecheck.Things(0, "red")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := generate(t, s, imagecheck.Case{Name: "things-" + c.name, Prompt: c.prompt, Steps: 20, Seed: 7}, api.ImageParams{Size: size, Steps: 20, Seed: 7})
			omnitest.Check(t, p, imagecheck.Aspect(1, 1))
			omnitest.Check(t, p, c.checks...)
		})
	}
}
