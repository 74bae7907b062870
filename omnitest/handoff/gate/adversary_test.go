package gate_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
)

// A decode that computes for itself is seen by the crowd as well, and an outcome says how long it took.
func TestCrowd(t *testing.T) {
	t.Parallel()
	for faults, want := range map[string]handoff.State{"": handoff.StateProven, "decode.silent-recompute": handoff.StateRefuted} {
		s := refpd.Failure{Faults: faults}.Stack(t)
		g := attached(t, target(s.Start(t), s))
		r := run(t, g, "no-silent-fallback")
		o := r.Outcome("no-silent-fallback")
		assert.Equal(t, want, o.Verdict.State, "%v", o.Verdict)
		assert.Contains(t, o.Verdict.String(), "6 at once: ")
		assert.Positive(t, o.Seconds)
	}
}
