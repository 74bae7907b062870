package e2e

import (
	"image"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// TestEditInTurns edits the result of the edit before, ten times. Each turn is held against the one before it; the part that no
// turn touched against the first picture, with the loss that k turns may add up to, and for a tone that wanders off.
func TestEditInTurns(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	file := fixtures.Image(fixtures.Turns[0].Inputs[0])
	first := picture(t, file)
	before := first
	var touched []image.Rectangle
	for k, e := range fixtures.Turns {
		after := edit(t, s, e, file)
		omnitest.Check(t, after, changedOnly(before, e)...)
		touched = append(touched, e.In(first.Size().W, first.Size().H))
		omnitest.Check(t, after, imagecheck.KeptOverTurns(first, k+1, touched...), imagecheck.NoDrift(first, k+1, touched...))
		omnitest.Check(t, after, shows(s, after, standing(fixtures.Turns[:k+1]), after.Image.Rect)...)
		if t.Failed() {
			t.Fatalf("turn %d of %d: the later turns would repeat this", k+1, len(fixtures.Turns))
		}
		before, file = after, after.Raw()
	}
}

// standing is what turns made and no later one painted over.
func standing(turns []fixtures.Edit) (parts []fixtures.Part) {
	for k, e := range turns {
		over := false
		for _, later := range turns[k+1:] {
			over = over || later.Region.Overlaps(e.Region)
		}
		if !over {
			parts = append(parts, e.Parts...)
		}
	}
	return parts
}
