//go:build linux

package e2e

import (
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
)

// TestThirdPartySidecarAndVLLM puts nothing of ours into the path of a request but taps: llm-d's sidecar and two engines of real
// vLLM. In good health the handoff is proven, with the same reservation as in front of the reference engines; with prefill out of
// the sidecar's reach the answers are right all the same, and both ledgers tell.
func TestThirdPartySidecarAndVLLM(t *testing.T) {
	spec, paths := vllmSpec(t), thirdParty(t)
	s := omnitest.Start(t, spec)
	p, d := s.Instance(engine.Prefill), s.Instance(engine.Decode)
	options := probe.Options{Prompt: probe.Random(vocabulary(t, s), 192), Limit: limit(s)}

	t.Run("hands over", func(t *testing.T) {
		c := sidecarChain(t, paths, p, d, p.BaseURL)
		c.Lease = spec.Stages[engine.Prefill].Lease
		r := judgedBy(t, gate.Target{Source: c.Source, Options: options, Only: append([]string{"bytes-conserved", "metric-sanity"}, judgeable...)}, map[string]told{
			"no-silent-fallback":  {handoff.StateProven, []string{"8 answered, of whose prompts decode computed 0 tokens itself"}},
			"bounded-termination": {handoff.StateProven, nil},
			"bytes-conserved":     {handoff.StateProven, nil},
			"metric-sanity":       {handoff.StateProven, nil},
		})
		t.Log(r)
		for _, name := range []string{"handoff-proven", "proxy-conformance", "ticket-well-formed"} {
			provenOf(t, name, r.Outcome(name).Verdict)
		}
		c.Ledger = nil
		judgedBy(t, gate.Target{Source: c.Source, Options: options, Only: []string{"handoff-proven"}}, map[string]told{"handoff-proven": {handoff.StateProven, nil}})
	})
	t.Run("prefill is dead for the sidecar", func(t *testing.T) {
		c := sidecarChain(t, paths, p, d, nobody)
		c.Lease = spec.Stages[engine.Prefill].Lease
		t.Log(judgedBy(t, gate.Target{Source: c.Source, Options: options, Only: judgeable}, map[string]told{
			"handoff-proven":     {handoff.StateRefuted, []string{"decode computed ", "prefill failed (dial tcp 127.0.0.1:1: connect: connection refused)"}},
			"no-silent-fallback": {handoff.StateRefuted, []string{"decode computed ", "yet decode answered and no fallback was declared"}},
			"proxy-conformance":  {handoff.StateRefuted, []string{"decode was called all the same at +"}},
		}))
	})
}
