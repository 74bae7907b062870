package perf

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/report"
)

// offline are the definitions of an in-process batch: there is no wire, so first token, plan and picture come from the
// engine's own clock, counted from the submission of the batch.
var offline = metrics.Profile{
	Name:   "offline",
	Source: "first token, last token and picture since the batch was submitted; TPOT = (last - first) / (output tokens - 1)",
	Measure: func(s *metrics.Sample) (metrics.Figures, error) {
		if s.Err != nil {
			return metrics.Figures{}, s.Err
		}
		ms := func(d time.Duration) metrics.Value { return metrics.Of(float64(d) / float64(time.Millisecond)) }
		first, last := s.Exchange.Events[0].At, s.Exchange.Events[1].At
		f := metrics.Figures{TTFT: ms(first), E2EL: ms(s.Exchange.End), TPOT: metrics.Absent("fewer than 2 output tokens")}
		if s.OutputTokens > 1 {
			f.TPOT = ms((last - first) / time.Duration(s.OutputTokens-1))
		}
		return f, nil
	},
}

// BenchmarkOffline runs batches in process, without HTTP and proxy: prompt to plan to picture.
func BenchmarkOffline(b *testing.B) {
	spec, err := omnitest.Spec()
	if err != nil {
		b.Fatal(err)
	}
	if spec.Stages != nil {
		b.Skip("offline batches run on the reference stack only so far; unset " + omnitest.EnvStack)
	}
	faults, err := spec.Planted()
	if err != nil {
		b.Fatal(err)
	}
	engine := &refstack.Offline{Faults: faults, Timing: spec.Timing}
	b.Cleanup(func() { engine.Close() })
	for _, batch := range []int{1, 2, 4} {
		for _, prompt := range []int{512, 2048, 2560} {
			b.Run(fmt.Sprintf("batch=%d/prompt=%d/out=%s", batch, prompt, size), func(b *testing.B) {
				offlineBatch(b, engine, batch, prompt)
			})
		}
	}
}

func offlineBatch(b *testing.B, engine *refstack.Offline, batch, prompt int) {
	var all tally
	meter := hw.NewMeter(map[string]int{"offline": os.Getpid()})
	start(b, meter)
	for b.Loop() {
		jobs := make([]refstack.OfflineJob, batch)
		for i := range jobs {
			jobs[i] = refstack.OfflineJob{Prompt: promptOf(prompt), W: size.W, H: size.H, Steps: steps, Seed: int64(i + 1)}
		}
		began := time.Now()
		results, err := engine.Generate(b.Context(), jobs)
		if err != nil {
			b.Fatal(err)
		}
		run := load.Result{Wall: time.Since(began), Peak: batch, MeanInFlight: float64(batch)}
		var samples []metrics.Sample
		for i, r := range results {
			samples = append(samples, metrics.Sample{
				Start: began, InputTokens: r.PromptTokens, OutputTokens: r.PlanTokens, Images: 1, Pixels: int64(size.W) * int64(size.H),
				Exchange: api.Exchange{Status: 200, Start: began, End: r.End, Events: []api.Event{{At: r.FirstToken}, {At: r.PlanEnd}}},
			})
			if r.Plan != jobs[i].Prompt {
				b.Errorf("job %d: the plan is not the prompt repeated: %.60q", i, r.Plan)
			}
			omnitest.Check(b, imagecheck.Of(r.Image, imagecheck.Case{Name: "offline"}), imagecheck.Size(size), imagecheck.NotBlank())
		}
		all.add(samples, run)
	}
	row := all.row(b, offline, report.Row{
		Mode: report.Offline, Batch: batch, PromptTokens: prompt, OutputSize: size.String(), Steps: steps, Hardware: meter.Stop(),
	})
	keep(b, row, document(offline, "reference stack (simulated)", true, map[string]report.Stage{"offline": {Engine: "reference", Simulated: true}}))
}
