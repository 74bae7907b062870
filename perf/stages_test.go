package perf

import (
	"fmt"
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
)

// BenchmarkPrefill measures prefill apart: its own server is asked for one token, so that TTFT is the time of the prompt.
func BenchmarkPrefill(b *testing.B) {
	s := shared(b)
	lengths := set.inputLen.or(512, 2048, 2560)
	for _, conc := range set.concurrency.or(1) {
		for _, in := range lengths {
			b.Run(fmt.Sprintf("conc=%d/in=%d", conc, in), func(b *testing.B) {
				measureStage(b, s, engine.Prefill, textPoint{loop{conc: conc}, in, 1})
			})
		}
	}
}

// BenchmarkDecode measures decode apart: its own server is asked to go on from one prompt that is in its prefix cache, so that nothing
// but its steps takes time. TPOT is the figure; TTFT is one step and the last block of the prompt.
func BenchmarkDecode(b *testing.B) {
	s := shared(b)
	for _, conc := range set.concurrencies() {
		for _, in := range set.inputs() {
			for _, out := range set.outputs() {
				b.Run(fmt.Sprintf("conc=%d/in=%d/out=%d", conc, in, out), func(b *testing.B) {
					measureStage(b, s, engine.Decode, textPoint{loop{conc: conc}, in, out})
				})
			}
		}
	}
}

func measureStage(b *testing.B, s *omnitest.Stack, stage engine.Stage, p textPoint) {
	if s.Stage(stage) == nil {
		b.Skipf("the stack has no %s stage", stage)
	}
	client := lean(s.Stage(stage))
	warmup := set.warmups
	row := p.row()
	row.PromptTokens, row.OutputTokens = p.in, p.out
	task := &textTask{client: client, text: set.text(s, p.in, p.out), known: simulated(s), cached: stage == engine.Decode}
	if task.cached {
		warmup = max(warmup, 1) // the first request brings the prompt into the cache
	}
	measure(b, point{set: string(stage), row: row, plan: p.plan(6), warmup: warmup, client: client, stack: s, stage: stage, task: task})
}
