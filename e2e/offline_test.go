package e2e

import (
	"fmt"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/refstack"
)

// TestOffline runs batches in process, with no HTTP and no proxy: the batch size must not change what a request gives.
func TestOffline(t *testing.T) {
	spec, err := omnitest.Spec()
	if err != nil {
		t.Fatal(err)
	}
	omnitest.Require(t, "offline", spec.Stages == nil, "offline batches run on the reference stack only so far; unset OMNITEST_STACK")
	faults, err := spec.Planted()
	if err != nil {
		t.Fatal(err)
	}
	engine := &refstack.Offline{Faults: faults}
	t.Cleanup(func() { engine.Close() })
	size := api.Size{W: 512, H: 384}
	alone := map[string]imagecheck.Picture{}
	for _, batch := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("batch=%d", batch), func(t *testing.T) {
			var jobs []refstack.OfflineJob
			for i := range batch {
				jobs = append(jobs, refstack.OfflineJob{Prompt: fixtures.Scenes[i].Prompt, W: size.W, H: size.H, Steps: 4, Seed: 9})
			}
			results, err := engine.Generate(t.Context(), jobs)
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != batch {
				t.Fatalf("%d results for a batch of %d", len(results), batch)
			}
			for i, r := range results {
				if r.Plan != jobs[i].Prompt {
					t.Errorf("job %d: plan %q, want the prompt repeated, %q", i, r.Plan, jobs[i].Prompt)
				}
				p := imagecheck.Of(r.Image, imagecheck.Case{Name: fixtures.Scenes[i].Name, Prompt: jobs[i].Prompt, Dir: omnitest.TestDir(t)})
				omnitest.Check(t, p, imagecheck.Size(size), imagecheck.NotBlank())
				if first, seen := alone[jobs[i].Prompt]; seen {
					omnitest.Check(t, p, imagecheck.SamePixels(first))
				}
				alone[jobs[i].Prompt] = p
			}
		})
	}
}
