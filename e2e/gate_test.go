package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
)

// TestGate asks the shared stack all that can be asked of a KV handoff without breaking anything, in one report: what is proven
// here is what an operator may believe of a deployment.
func TestGate(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	target := gate.Target{
		Source: s.Handoff(),
		Options: probe.Options{
			Prompt: probe.Random(vocabulary(t, s), 192), Limit: limit(s), Rounds: 2, Concurrency: []int{1, 4},
		},
		Each: 2 * limit(s),
	}
	for _, a := range gate.Assertions() {
		// These wait for leases and for the limits of hung requests, half a minute each. TestClientLeaves and TestTickets ask the same of
		// a stack with short ones, and the fault matrix asks them as they are.
		if a.Name == "ticket-tampering" || echoes(s) && a.Name == "blocks-released" {
			continue
		}
		target.Only = append(target.Only, a.Name)
	}
	if !echoes(s) {
		target.Output, target.Limit, target.Each = 32, 30*time.Second, 8*time.Minute // a CPU writes slowly; the reference must come to the end of its prompt
	}
	began := time.Now()
	r, err := gate.Run(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(omnitest.TestDir(t), "gate.json")
	if err := r.WriteFile(path); err != nil {
		t.Error(err)
	}
	t.Logf("%.1f s, report %s\n%s", time.Since(began).Seconds(), path, r)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}
