// Package inference shows how somebody else's repository uses omnitest: a TestMain, a stack, the checks they need.
package inference

import (
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

func TestMain(m *testing.M) { omnitest.Main(m) }

func TestPosterComesOutInTheAskedSize(t *testing.T) {
	s := omnitest.Shared(t)
	size := api.Size{W: 512, H: 512}
	answer, err := s.Generate(t.Context(), api.ImageRequest{
		Prompt:      `A blue poster with the words "ACME 7"`,
		ImageParams: api.ImageParams{Size: size, Steps: 8, Seed: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	omnitest.Check(t, answer, imagecheck.Count(1))
	picture, err := imagecheck.Decode(answer.Items[0], imagecheck.Case{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	omnitest.Check(t, picture, imagecheck.Size(size), imagecheck.NotBlank())
}

func TestKVIsHandedOver(t *testing.T) {
	s := omnitest.Shared(t)
	w, err := handoff.Open(t.Context(), s.Handoff())
	if err != nil {
		t.Fatal(err)
	}
	prompt := "An order for nine anvils, to be delivered on Tuesday."
	answer, err := s.Complete(t.Context(), api.CompletionRequest{
		Prompt: prompt, Sampling: api.Sampling{MaxTokens: 64, RequestID: "acme-1"}, // the id joins the answer with the proxy's ledger
	})
	seen := handoff.Observed(answer, err)
	seen.Prompt, seen.Want, seen.WantFrom = prompt, prompt, "known answer: the reference model repeats its prompt"
	w.Observe(seen)
	evidence, err := w.Close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := handoff.Proven(evidence).Err(); err != nil {
		t.Error(err)
	}
}
