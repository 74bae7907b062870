package e2e

import (
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
)

// TestGateOfOneInMany asks those assertions of the gate that see failures of one kind of request, or of one request in many.
// TestGate asks all; this is the part that the faults of that kind are planted for, and it takes seconds.
func TestGateOfOneInMany(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode, engine.DiT)
	omnitest.Require(t, "reference-stack", echoes(s), "its limits are those of the reference stack; TestGate asks the same of a real one")
	r, err := gate.Run(t.Context(), gate.Target{
		Source:  s.Handoff(),
		Options: probe.Options{Prompt: probe.Random(vocabulary(t, s), 192), Limit: limit(s), Concurrency: []int{4}},
		Each:    4 * limit(s),
		Only:    []string{"handoff-proven", "no-silent-fallback", "plan-read-whole", "nothing-kept"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}
