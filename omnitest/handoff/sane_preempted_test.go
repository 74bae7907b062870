package handoff

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A prefill that preempts in the middle of a prompt computes its beginning again: its steps hold more than the prompts, and that
// is no lie of its counters. Found by TestAxesHealthy on a tight pool; steps that hold less are one all the same.
func TestPreemptedPrefillIsSane(t *testing.T) {
	e := healthy("r")
	d := e.d()
	e.set(&e.Prefill, d.Iteration, 513+32)
	assert.Contains(t, Sane(e).String(), "refuted: the steps of prefill hold 544 prompt tokens (iteration_tokens 545 - generated 1), by source it computed 512")

	e.set(&e.Prefill, d.Preemptions, 1)
	v := Sane(e)
	assert.False(t, v.Has("steps"), v.String())
	assert.Contains(t, v.Notes, "prefill preempted 1 time: the 32 prompt tokens that it computed again are in its steps alone")

	e.set(&e.Prefill, d.Iteration, 513-32)
	assert.True(t, Sane(e).Has("steps"))
}
