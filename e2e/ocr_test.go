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

// needReader gives a reader of text, or skips (fails under OMNITEST_REQUIRE=ocr) and says how to get one.
func needReader(t *testing.T) imagecheck.Reader {
	t.Helper()
	r, err := imagecheck.FindTesseract(t.Context(), "")
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	omnitest.Require(t, "ocr", err == nil, reason)
	return r
}

// TestTextIsReadable asks for posters and reads them, as one must where there is no golden: another engine, another seed. On the
// reference DiT the place of the text is known; elsewhere it is looked for in the whole picture.
func TestTextIsReadable(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	r := needReader(t)
	const steps, seed = 12, 11
	for i, poster := range fixtures.Posters {
		if testing.Short() && i >= 6 {
			break
		}
		t.Run(poster.Lang+"/"+poster.Name, func(t *testing.T) {
			size := api.Size{W: poster.W, H: poster.H}
			c := imagecheck.Case{Name: poster.Name, Prompt: poster.Prompt, Steps: steps, Seed: seed}
			p := generate(t, s, c, api.ImageParams{Size: size, Steps: steps, Seed: seed})
			if s.Instance(engine.DiT).Simulated {
				box := imagecheck.Box{Text: strings.Join(poster.Text, "\n"), Lines: len(poster.Text), Rect: dit.TextBox(poster.Prompt, size.W, size.H)}
				omnitest.Check(t, p, imagecheck.Reads(t.Context(), r, box))
				return
			}
			omnitest.Check(t, p, imagecheck.ReadsSomewhere(t.Context(), r, poster.Text...))
		})
	}
}
