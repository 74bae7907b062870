package inference

import (
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/handoff/gate"
)

// TestHandoffGate asks the assertions that cost one window between them; with Only left out it would ask all sixteen.
func TestHandoffGate(t *testing.T) {
	s := omnitest.Shared(t) // or handoff.Source{Entry: ..., Prefill: ..., Decode: ...} with the URLs of a deployment
	r, err := gate.Run(t.Context(), gate.Target{Source: s.Handoff(), Only: []string{
		"handoff-proven", "no-silent-fallback", "bounded-termination", "proxy-conformance", "ticket-well-formed", "metric-sanity"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Errorf("%v\n%s", err, r)
	}
}
