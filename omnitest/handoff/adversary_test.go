package handoff

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// Somebody else's prompt that decode computes, as it must without a ticket, accuses nobody; our own does, whoever else is there.
func TestComputedBesideOthers(t *testing.T) {
	for _, c := range []struct {
		computed float64
		want     State
	}{{300, StateInconclusive}, {400, StateRefuted}} {
		e := &Evidence{Dialect: "nixl", BlockSize: 16, Observations: []Observation{{PromptTokens: 100, OutputTokens: 8, Got: "x", Want: "x", WantFrom: "known"}}}
		e.Decode.Counters = map[string]Counter{}
		for _, x := range []struct {
			series Series
			delta  float64
		}{{NIXL.Finished, 2}, {NIXL.PromptTokens, 400}, {NIXL.LocalCompute, c.computed}, {NIXL.LocalHit, 0}, {NIXL.External, 400 - c.computed},
			{NIXL.Iteration, c.computed + 16}, {NIXL.Generated, 16}} {
			e.Decode.Counters[x.series.String()] = Counter{prom.Present, x.delta}
		}
		for _, v := range []Verdict{Proven(e), NoSilentFallback(e)} {
			assert.Equal(t, c.want, v.State, "%v", v)
			assert.True(t, v.Has("computed-itself"), "%v", v)
		}
	}
}
