package perf

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

const (
	requestLimit = 5 * time.Minute
	promptTokens = 512
	outputTokens = 128
	steps        = 20
)

var size = api.Size{W: 1376, H: 768}

// BenchmarkOnline sends requests through the proxy at a fixed concurrency: streamed text, for TTFT and TPOT, and pictures,
// for the whole way to the DiT.
func BenchmarkOnline(b *testing.B) {
	s := omnitest.Shared(b)
	for _, conc := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("conc=%d/task=text", conc), func(b *testing.B) { onlineText(b, s, conc) })
		b.Run(fmt.Sprintf("conc=%d/task=t2i/out=%s", conc, size), func(b *testing.B) { onlineImages(b, s, conc) })
	}
}

func onlineText(b *testing.B, s *omnitest.Stack, conc int) {
	if s.Stage(engine.Prefill) == nil || s.Stage(engine.Decode) == nil {
		b.Skip("the stack has no prefill and decode stage")
	}
	plan := load.Plan{Concurrency: conc, Requests: 8 * conc, Warmup: conc, Limit: requestLimit}
	var all tally
	meter := hw.NewMeter(pids(s))
	start(b, meter)
	for b.Loop() {
		// The window is passive: two scrapes, no request of its own. Its cost stays outside the load's own clock.
		w, err := handoff.Open(b.Context(), s.Handoff())
		if err != nil {
			b.Fatal(err)
		}
		samples, run, err := load.Collect(b.Context(), plan, func(ctx context.Context, _ int) (metrics.Sample, error) {
			prompt := promptOf(promptTokens)
			answer, err := s.StreamComplete(ctx, api.CompletionRequest{
				Prompt: prompt, Sampling: api.Sampling{MaxTokens: outputTokens, IgnoreEOS: true, RequestID: "perf-" + rand.Text()},
			}, nil)
			o := handoff.Observed(answer, err)
			o.Prompt = prompt
			if s.Instance(engine.Decode).Simulated {
				o.Want, o.WantFrom = prompt[:outputTokens], "known answer: the reference model repeats its prompt"
			}
			w.Observe(o)
			return metrics.FromText(answer, err), err
		})
		if err != nil {
			b.Fatal(err)
		}
		all.add(samples, run)
		e, err := w.Close(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		verdict := handoff.Moved(e)
		if s.Instance(engine.Decode).Simulated {
			verdict = handoff.Proven(e)
		}
		all.judged(e, verdict)
		if err := verdict.Err(); err != nil {
			b.Error(err)
		}
	}
	row := all.row(b, metrics.VLLM, report.Row{
		Mode: report.Online, Concurrency: conc, PromptTokens: promptTokens, OutputTokens: outputTokens, Hardware: meter.Stop(),
	})
	keep(b, row, document(metrics.VLLM, s.Target(), s.Simulated(), stages(s)), all.windows...)
}

func onlineImages(b *testing.B, s *omnitest.Stack, conc int) {
	if s.Stage(engine.DiT) == nil {
		b.Skip("the stack has no dit stage")
	}
	plan := load.Plan{Concurrency: conc, Requests: 3 * conc, Warmup: 1, Limit: requestLimit}
	var all tally
	meter := hw.NewMeter(pids(s))
	start(b, meter)
	for b.Loop() {
		answers := make(chan *api.Images, plan.Requests+plan.Warmup)
		samples, run, err := load.Collect(b.Context(), plan, func(ctx context.Context, i int) (metrics.Sample, error) {
			answer, err := s.Generate(ctx, api.ImageRequest{
				Prompt:      fixtures.Scenes[(i+len(fixtures.Scenes))%len(fixtures.Scenes)].Prompt + " " + rand.Text(),
				ImageParams: api.ImageParams{Size: size, Steps: steps, Seed: int64(i + 1)},
			})
			if err == nil {
				answers <- answer
			}
			return metrics.FromImages(answer, err), err
		})
		if err != nil {
			b.Fatal(err)
		}
		all.add(samples, run)
		// Decoding a picture takes as long as a request of the reference stack: it waits until the load is over.
		close(answers)
		for answer := range answers {
			look(b, answer)
		}
	}
	row := all.row(b, metrics.VLLM, report.Row{
		Mode: report.Online, Concurrency: conc, OutputSize: size.String(), Steps: steps, Hardware: meter.Stop(),
	})
	keep(b, row, document(metrics.VLLM, s.Target(), s.Simulated(), stages(s)))
}

// look checks a measured picture: a rate of blank pictures is no rate.
func look(b *testing.B, answer *api.Images) {
	b.Helper()
	pictures, err := imagecheck.DecodeAll(answer, imagecheck.Case{Name: "measured"})
	if err != nil {
		b.Error(err)
	}
	omnitest.Check(b, answer, imagecheck.Count(1))
	for _, p := range pictures {
		omnitest.Check(b, p, imagecheck.Size(size), imagecheck.NotBlank())
	}
}

// promptOf gives a prompt of n tokens for a byte tokenizer. It begins with a nonce: a prompt that an engine has in its prefix
// cache is not prefilled, and not measured.
func promptOf(n int) string {
	var text strings.Builder
	text.WriteString(rand.Text()[:16])
	for text.Len() < n {
		text.WriteString(" the quick brown fox jumps over the lazy dog and comes back")
	}
	return text.String()[:n]
}

func start(b *testing.B, meter *hw.Meter) {
	b.Helper()
	if err := meter.Start(b.Context(), 50*time.Millisecond); err != nil {
		b.Fatal(err)
	}
}
