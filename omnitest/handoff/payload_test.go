package handoff_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/handoff"
)

// painted is the record of one picture request: what decode made, what the DiT was sent.
func painted(id, made, sent string) flow.Record {
	return flow.Record{Seq: 1, RequestID: id, Route: "/v1/images/generations", Status: 200, Outcome: "ok", Hops: []flow.Hop{
		{Stage: "prefill", Status: 200, EndMS: 5}, {Stage: "decode", Status: 200, StartMS: 6, EndMS: 20, Plan: made},
		{Stage: "dit", Status: 200, StartMS: 21, EndMS: 90, Plan: sent},
	}}
}

func TestPayloadProven(t *testing.T) {
	t.Parallel()
	seen := func(id, prompt string) handoff.Observation { return handoff.Observation{RequestID: id, Prompt: prompt} }
	with := func(r flow.Record, change func(*flow.Record)) flow.Record { change(&r); return r }
	for _, c := range []struct {
		name    string
		records []flow.Record
		seen    []handoff.Observation
		want    string
		notes   int
	}{
		{"same", []flow.Record{painted("a", "a fox at dusk", "a fox at dusk"), painted("b", "two cubes", "two cubes")}, []handoff.Observation{seen("a", "fox"), seen("b", "cubes")},
			"proven: 2 plans went from decode to the DiT as made", 0},
		{"echoed", []flow.Record{painted("a", "fox", "fox")}, []handoff.Observation{seen("a", "fox")}, "proven: 1 plan went from decode to the DiT as made", 1},
		{"not observed", []flow.Record{painted("a", "fox", "fox")}, nil, "proven: 1 plan went from decode to the DiT as made", 0},
		{"crossed", []flow.Record{painted("a", "a fox at dusk", "two cubes"), painted("b", "two cubes", "two cubes")}, []handoff.Observation{seen("a", "fox"), seen("b", "cubes")},
			`refuted: request a: the DiT was sent the plan of request b: "two cubes", want "a fox at dusk"`, 0},
		{"prompt", []flow.Record{painted("a", "a fox at dusk", "fox")}, []handoff.Observation{seen("a", "fox")},
			`refuted: the DiT was sent the client's prompt "fox", not decode's plan "a fox at dusk"`, 0},
		{"altered", []flow.Record{painted("a", "a fox at dusk", "a fox at")}, []handoff.Observation{seen("a", "fox")},
			`refuted: the plan was altered between decode and the DiT: answer ends after 8 of 13 bytes`, 0},
		{"too early", []flow.Record{with(painted("a", "a fox", "a fox"), func(r *flow.Record) { r.Hops[2].StartMS = 10 })}, []handoff.Observation{seen("a", "fox")},
			"refuted: the DiT was asked at +10 ms, decode ended at +20 ms: that plan was not read to its end", 0},
		{"no plan", []flow.Record{with(painted("a", "", "fox"), func(r *flow.Record) { r.Hops = r.Hops[2:] })}, []handoff.Observation{seen("a", "fox")},
			`refuted: the DiT was sent "fox", and decode was never asked for a plan`, 0},
		{"no dit", []flow.Record{with(painted("a", "a fox", ""), func(r *flow.Record) { r.Hops = r.Hops[:2] })}, []handoff.Observation{seen("a", "fox")},
			"refuted: decode made a plan of 5 bytes, and the answer was given without asking the DiT: whose picture is it?", 0},
		{"not told", []flow.Record{painted("a", "a fox", "")}, []handoff.Observation{seen("a", "fox")},
			"inconclusive: the flow ledger does not tell the plan (decode 5 bytes, dit 0 bytes)", 0},
		{"cancelled", []flow.Record{with(painted("a", "a fox", "a fox"), func(r *flow.Record) { r.Outcome = "cancelled" })}, nil,
			"inconclusive: cancelled at the end of the window", 0},
		{"failed", []flow.Record{with(painted("a", "a fox", "a fox"), func(r *flow.Record) { r.Outcome, r.Error = "failed", "dit: no answer" })},
			[]handoff.Observation{{RequestID: "a", Err: errors.New("502")}}, "refuted: request failed: 502", 0},
		{"text only", []flow.Record{{Seq: 1, RequestID: "a", Outcome: "ok", Hops: []flow.Hop{{Stage: "prefill"}, {Stage: "decode"}}}}, []handoff.Observation{seen("a", "fox")},
			"inconclusive: no picture was made in this window: no plan went to a DiT", 0},
		{"unknown to the ledger", nil, []handoff.Observation{seen("a", "fox")}, "inconclusive: not in the proxy's flow ledger", 0},
		{"nothing", nil, nil, "inconclusive: no request was made in the window", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := handoff.PayloadProven(&handoff.Evidence{Flow: handoff.Flow{Kept: true, Records: c.records}, Observations: c.seen})
			assert.Contains(t, v.String(), c.want)
			assert.Len(t, v.Notes, c.notes)
		})
	}
	t.Run("no ledger", func(t *testing.T) {
		v := handoff.PayloadProven(&handoff.Evidence{Flow: handoff.Flow{Note: "this proxy keeps no flow ledger"}, Observations: []handoff.Observation{seen("a", "fox")}})
		assert.Equal(t, "inconclusive: no flow ledger (this proxy keeps no flow ledger): what the DiT was sent is not known", v.String())
	})
}

// The same on the reference stack, whose plan is the prompt.
func TestReferencePayload(t *testing.T) {
	t.Parallel()
	s := plan{pictures: true}.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	w, err := handoff.Open(ctx, s)
	require.NoError(t, err)
	const prompt = "a red circle on a white background"
	_, err = s.Entry.Generate(ctx, api.ImageRequest{Prompt: prompt, RequestID: "picture", ImageParams: api.ImageParams{Size: api.Size{W: 64, H: 64}, Steps: 2}})
	w.Observe(handoff.Observation{RequestID: "picture", Prompt: prompt, Want: prompt, WantFrom: "known answer", Err: err})
	e, err := w.Close(ctx)
	require.NoError(t, err)
	v := handoff.PayloadProven(e)
	assert.Equal(t, "proven: 1 plan went from decode to the DiT as made", v.String())
	assert.Len(t, v.Notes, 1)
	assert.Equal(t, handoff.StateProven, handoff.Proven(e).State, handoff.Proven(e))
}
