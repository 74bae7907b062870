package e2e

import (
	"strings"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// goldens gives the approved pictures. OMNITEST_UPDATE=1 writes them anew; a person looks at each before it is committed.
func goldens(t *testing.T) imagecheck.Store {
	t.Helper()
	if omnitest.Updating() {
		return imagecheck.Store{Dir: "../fixtures/goldens", Update: true, Out: omnitest.TestDir(t), CropsOnly: true}
	}
	return imagecheck.Store{FS: fixtures.Goldens(), Out: omnitest.TestDir(t)}
}

// referenceKey is where the goldens come from; steps, size, seed and prompt are the request's.
var referenceKey = imagecheck.Key{Engine: "reference", Model: "reference-dit"}

// hasGoldens is true where the stack's DiT is the one that made the goldens.
func hasGoldens(s *omnitest.Stack) bool { return s.Instance(engine.DiT).Simulated }

// needGoldens skips or fails a test that is nothing without them.
func needGoldens(t *testing.T, s *omnitest.Stack) {
	t.Helper()
	omnitest.Require(t, "goldens", hasGoldens(s), "fixtures/goldens holds pictures of the reference DiT only; approve your engine's with make golden")
}

// TestTextRendering asks for posters and compares their text with approved ones, letter by letter: a hash of the whole
// picture does not see a wrong letter (AUC 0.59), a crop of the text does.
func TestTextRendering(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	needGoldens(t, s)
	const steps, seed = 20, 7
	for _, poster := range fixtures.Posters {
		t.Run(poster.Lang+"/"+poster.Name, func(t *testing.T) {
			size := api.Size{W: poster.W, H: poster.H}
			c := imagecheck.Case{Name: poster.Name, Prompt: poster.Prompt, Steps: steps, Seed: seed}
			p := generate(t, s, c, api.ImageParams{Size: size, Steps: steps, Seed: seed})
			box := imagecheck.Box{Text: strings.Join(poster.Text, " / "), Lines: len(poster.Text), Rect: dit.TextBox(poster.Prompt, size.W, size.H)}
			omnitest.Check(t, p, goldens(t).Check(poster.Name, referenceKey, box))
		})
	}
}
