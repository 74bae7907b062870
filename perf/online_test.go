package perf

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/workload"
)

// pace are the times that are planted into the reference stack, unless its stack.yaml plants others. Without any it answers faster
// than a client on the same cores can read, and what was measured would be the client.
var pace = refstack.Timing{
	Prefill: ar.Timing{PrefillPerToken: 100 * time.Microsecond},
	Decode:  ar.Timing{PrefillPerToken: 100 * time.Microsecond, DecodePerStep: 10 * time.Millisecond, TransferPerBlock: 100 * time.Microsecond},
}

// shared is the stack that the environment asks for.
func shared(b *testing.B) *omnitest.Stack {
	b.Helper()
	spec, err := omnitest.Spec()
	if err != nil {
		b.Fatal(err)
	}
	if spec.Stages == nil && spec.Timing == (refstack.Timing{}) {
		spec.Timing = pace
	}
	return omnitest.Shared(b, spec)
}

// lean is a client that keeps no payloads.
func lean(c *api.Client) *api.Client {
	own := *c
	own.Lean, own.Timeout = true, requestLimit
	return &own
}

// BenchmarkOnline sends requests through the proxy and holds a number of them in flight: streamed text, for TTFT and TPOT, and
// pictures made and edited, for the whole way to the DiT.
func BenchmarkOnline(b *testing.B) {
	if !set.closed() {
		b.Skip("-request-rate without inf: see BenchmarkRate")
	}
	if set.rates.values != nil && set.concurrency.values == nil {
		b.Skip("-request-rate=inf without -max-concurrency is all requests at once: see BenchmarkRate")
	}
	s := shared(b)
	for _, p := range set.textPoints() {
		b.Run(fmt.Sprintf("conc=%d/task=text/in=%d/out=%d", p.conc, p.in, p.out), func(b *testing.B) {
			measureText(b, s, p, 6)
		})
	}
	for _, conc := range set.concurrencies() {
		for _, out := range set.outputSizes() {
			b.Run(fmt.Sprintf("conc=%d/task=t2i/out=%s", conc, out), func(b *testing.B) {
				measurePictures(b, s, loop{conc: conc}, api.Size{}, out)
			})
			b.Run(fmt.Sprintf("conc=%d/task=edit/in=%s/out=%s", conc, set.input(), out), func(b *testing.B) {
				measurePictures(b, s, loop{conc: conc}, set.input(), out)
			})
		}
	}
}

// BenchmarkRate sends requests by a schedule, whatever the stack does. A request waits for nobody, or with -max-concurrency for a free
// slot, and that wait is its own.
func BenchmarkRate(b *testing.B) {
	s := shared(b)
	for _, r := range set.requestRates() {
		caps := []int{0}
		if set.concurrency.values != nil {
			if caps = set.concurrency.values; math.IsInf(r, 1) {
				continue // a closed loop: BenchmarkOnline
			}
		}
		for _, most := range caps {
			name := fmt.Sprintf("rate=%g", r)
			if most > 0 {
				name += fmt.Sprintf("/conc=%d", most)
			}
			for _, in := range set.inputs() {
				for _, out := range set.outputs() {
					b.Run(fmt.Sprintf("%s/task=text/in=%d/out=%d", name, in, out), func(b *testing.B) {
						measureText(b, s, textPoint{loop{most, r}, in, out}, 8)
					})
				}
			}
			if set.rates.values == nil && set.plan == "small" {
				continue
			}
			for _, out := range set.outputSizes() {
				b.Run(fmt.Sprintf("%s/task=t2i/out=%s", name, out), func(b *testing.B) {
					measurePictures(b, s, loop{most, r}, api.Size{}, out)
				})
			}
		}
	}
}

// plan of a load run, with as many requests for each one in flight.
func (l loop) plan(each int) load.Plan {
	p := load.Plan{Concurrency: l.conc, Requests: set.requests(max(l.conc, 1), each), Limit: requestLimit, Seed: set.seed}
	if l.rate > 0 {
		p.Arrivals = set.arrivals(l.rate)
	}
	return p
}

// row begins the row of a loop.
func (l loop) row() report.Row {
	row := report.Row{Mode: report.Online, Concurrency: l.conc}
	if l.rate > 0 {
		row.Load.Arrivals, row.Load.Burstiness = "gamma", set.burstiness.or(1)[0]
		if row.Load.Burstiness == 1 {
			row.Load.Arrivals = "poisson"
		}
		if row.Load.Rate = l.rate; math.IsInf(l.rate, 1) {
			row.Load = report.Load{Arrivals: "burst"}
		}
	}
	return row
}

func measureText(b *testing.B, s *omnitest.Stack, p textPoint, each int) {
	if s.Stage(engine.Prefill) == nil || s.Stage(engine.Decode) == nil {
		b.Skip("the stack has no prefill and decode stage")
	}
	client := lean(s.Client)
	row := p.row()
	row.PromptTokens, row.OutputTokens = p.in, p.out
	measure(b, point{set: "online", row: row, plan: p.plan(each), warmup: set.warmups, client: client, stack: s, window: true,
		task: &textTask{client: client, text: set.text(s, p.in, p.out), known: simulated(s)}})
}

func measurePictures(b *testing.B, s *omnitest.Stack, l loop, input, output api.Size) {
	if s.Stage(engine.DiT) == nil {
		b.Skip("the stack has no dit stage")
	}
	client := lean(s.Client)
	row := l.row()
	row.OutputSize, row.Steps = output.String(), set.steps
	if input != (api.Size{}) {
		row.InputSize = input.String()
	}
	measure(b, point{set: "online", row: row, plan: l.plan(5), warmup: set.warmups, client: client, stack: s, window: s.Stage(engine.Decode) != nil,
		task: &pictureTask{client: client, params: api.ImageParams{Size: output, Steps: set.steps, Seed: 1}, input: input, known: simulated(s)}})
}

// simulated tells whether text comes from the reference engines, whose answers are known.
func simulated(s *omnitest.Stack) bool {
	p, d := s.Instance(engine.Prefill), s.Instance(engine.Decode)
	return p != nil && d != nil && p.Simulated && d.Simulated
}

// text is the workload of one pair of lengths. To the reference stack it is sent as text, a byte a token, so that answers can be
// compared; to all others as token ids.
func (s *settings) text(stack *omnitest.Stack, in, out int) workload.Text {
	return workload.Text{Input: s.length(in), Output: s.length(out), Bytes: simulated(stack)}
}

func (s *settings) length(n int) workload.Length {
	if s.rangeRatio == 0 {
		return workload.Fixed(n)
	}
	return workload.Uniform{Around: n, Ratio: s.rangeRatio}
}
