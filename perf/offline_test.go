package perf

import (
	"fmt"
	"image"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/canary"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/offline"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/workload"
)

// offlineProfile are the definitions of an in-process batch: there is no wire, so first token, plan and picture come from the
// engine's own clock, counted from the submission of the batch.
var offlineProfile = metrics.Profile{
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

// BenchmarkOffline runs batches in process, without HTTP and proxy: a prompt and a picture become a plan, and that another picture.
func BenchmarkOffline(b *testing.B) {
	spec, err := omnitest.Spec()
	if err != nil {
		b.Fatal(err)
	}
	if spec.Stages != nil {
		b.Skip("offline batches with pictures run on the reference stack only so far; unset " + omnitest.EnvStack)
	}
	faults, err := spec.Planted()
	if err != nil {
		b.Fatal(err)
	}
	if spec.Timing == (refstack.Timing{}) {
		spec.Timing = pace
	}
	for _, plan := range set.outputs() {
		engine := &offline.Reference{Faults: faults, Timing: spec.Timing, PlanTokens: plan}
		// The engines start with the first batch: that is no row's time.
		if _, err := engine.Generate(b.Context(), []offline.Job{{Prompt: "warm-up", Picture: &offline.Picture{W: 64, H: 64, Steps: 1}}}); err != nil {
			b.Fatal(err)
		}
		for _, batch := range set.batches() {
			for _, prompt := range set.lengths(batch) {
				for _, out := range set.outputSizes() {
					b.Run(fmt.Sprintf("batch=%d/prompt=%d/plan=%d/in=%s/out=%s", batch, prompt, plan, set.input(), out), func(b *testing.B) {
						offlineBatch(b, engine, report.Row{Mode: report.Offline, Batch: batch, PromptTokens: prompt, OutputTokens: plan,
							InputSize: set.input().String(), OutputSize: out.String(), Steps: set.steps}, out)
					})
				}
			}
		}
		if err := engine.Close(); err != nil {
			b.Error(err)
		}
	}
}

func offlineBatch(b *testing.B, engine offline.Engine, row report.Row, out api.Size) {
	p := point{set: "offline", row: row}
	p.row.Client = canary.NotMeasured("an offline batch has no client: its times are the engine's own")
	all := tally{point: &p, name: cleanName(b.Name()), profile: &offlineProfile}
	p.row.Load.Seed = int64(set.seed + runs.Load())
	log, err := eventLog(b, p.set)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		jobs, err := batchOf(set.seed+runs.Add(1)-1, row, out)
		if err != nil {
			b.Fatal(err)
		}
		meter := meterOf(nil)
		if err := meter.Start(b.Context(), 50*time.Millisecond); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		results, err := engine.Generate(b.Context(), jobs)
		run := load.Result{Began: began, Wall: time.Since(began), Peak: row.Batch, MeanInFlight: float64(row.Batch)}
		all.hardware(meter.Stop(), began, row.Batch)
		if err != nil {
			b.Fatal(err)
		}
		var samples []metrics.Sample
		for i, r := range results {
			s := metrics.Sample{
				Start: began, PromptTokens: row.PromptTokens, InputTokens: r.PromptTokens, OutputTokens: r.OutputTokens, Images: 1, Pixels: int64(out.W) * int64(out.H),
				Exchange: api.Exchange{Status: 200, Start: began, End: r.End, Events: []api.Event{{At: r.FirstToken}, {At: r.LastToken}}},
			}
			s.Err = offlineJudge(jobs[i], r, out)
			if err := log.Add(all.name, &s); err != nil {
				b.Fatal(err)
			}
			samples = append(samples, s)
		}
		all.add(samples, run)
	}
	all.finish(b)
}

// batchOf are the jobs of one batch: prompts of the same length with a nonce each, and a picture each to edit.
func batchOf(seed uint64, row report.Row, out api.Size) ([]offline.Job, error) {
	edits, err := workload.Edits{Words: workload.Fixed(1), InputSize: set.input()}.Requests(seed)
	if err != nil {
		return nil, err
	}
	jobs := make([]offline.Job, row.Batch)
	for i := range jobs {
		r := edits(i)
		input, err := decodeInput(r.Images[0].Data)
		if err != nil {
			return nil, err
		}
		jobs[i] = offline.Job{Prompt: longAsk(nonceOf(r.Prompt)+editAsk(input), row.PromptTokens), Picture: &offline.Picture{
			W: out.W, H: out.H, Steps: row.Steps, Seed: int64(i + 1), Inputs: []image.Image{input},
		}}
	}
	return jobs, nil
}

// longAsk makes an instruction of n bytes that still asks for the same.
func longAsk(ask string, n int) string {
	var text strings.Builder
	text.WriteString(ask)
	for text.Len() < n {
		text.WriteString(" and keep all else of it as it is")
	}
	return text.String()[:n]
}

// offlineJudge: a wrong picture is a failed request.
func offlineJudge(j offline.Job, r offline.Result, out api.Size) error {
	if want := j.Prompt[:min(r.OutputTokens, len(j.Prompt))]; r.Text != want {
		return fmt.Errorf("the plan is not the prompt repeated: %.60q", r.Text)
	}
	p := imagecheck.Of(r.Picture, imagecheck.Case{Name: "offline", Prompt: j.Prompt})
	if err := sound(p, out); err != nil {
		return err
	}
	return edited(p, j.Picture.Inputs[0])
}
