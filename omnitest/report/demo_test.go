package report_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// demo is a whole experiment as perf would keep it: offline batches, a concurrency sweep of text and pictures, a rate sweep,
// with a late client, failures, gaps in the hardware series and every optional part. Its figures are made up and the same
// each time.
func demo() report.Result {
	rng := rand.New(rand.NewPCG(1, 2))
	r := report.Result{
		Created: time.Date(2026, 11, 28, 9, 30, 0, 0, time.UTC), Target: "reference stack", Simulated: true,
		Stack: report.Stack{Name: "reference", Stages: map[string]report.Stage{
			"proxy": {Engine: "reference", Simulated: true}, "prefill": {Engine: "vllm", Version: "0.32.0", Model: "tiny", DType: "bfloat16"},
			"decode": {Engine: "vllm", Version: "0.32.0", Model: "tiny", DType: "bfloat16"}, "dit": {Engine: "reference", Simulated: true}}},
		Plan:        report.Plan{Profile: "vllm", Source: metrics.VLLM.Source, Warmup: 4, LimitS: 300},
		Environment: report.Environment{Go: "go1.26.8", OS: "linux", Arch: "amd64", CPUs: 2, MaxProcs: 2, CPU: "AMD EPYC", Kernel: "6.18.0"},
		Provenance:  report.Provenance{Tool: "omnitest", Version: "v0.7.0", Flags: []string{"-max-concurrency=1,2,4,16,32", "-random-input-len=512"}},
	}
	for _, prompt := range []int{512, 2560} {
		for _, batch := range []int{1, 2, 4} {
			row := demoRow(rng, fmt.Sprintf("batch=%d/prompt=%d", batch, prompt), batch, batch, prompt, 0)
			row.Mode, row.Batch, row.Concurrency, row.Client = report.Offline, batch, 0, metrics.ClientError{}
			row.OutputSize, row.InputSize, row.Steps = "1376x768", "1024x1024", 20
			row.GPUMemory = metrics.Of(gbOf(61.5 + 0.9*float64(batch) + float64(prompt)/700))
			if prompt == 2560 && batch == 2 {
				row.GPUMemory = metrics.Absent("NVML: driver not loaded")
			}
			r.Rows = append(r.Rows, row)
		}
	}
	for _, conc := range []int{1, 2, 4, 16, 32} {
		row := demoRow(rng, fmt.Sprintf("conc=%d/task=text", conc), conc, 24*conc, 512, 0)
		if conc == 32 {
			row.Client.Verdict = metrics.ClientInvalid
			row.Client.Reasons = []string{"event lateness p99 3.9 ms, limit 1.1 ms (5 % of the median ITL)"}
			row.Client.Event.P99 = metrics.Of(3.9)
		}
		r.Rows = append(r.Rows, row)
	}
	for _, conc := range []int{1, 4} {
		row := demoRow(rng, fmt.Sprintf("conc=%d/task=t2i", conc), conc, 6*conc, 128, 1)
		row.OutputTokens, row.OutputSize, row.Steps = 0, "1376x768", 20
		r.Rows = append(r.Rows, row)
	}
	for _, rate := range []float64{2, 8} {
		row := demoRow(rng, fmt.Sprintf("rate=%g", rate), int(2*rate), 60, 512, 0)
		row.Concurrency, row.Load = 0, report.Load{Arrivals: "poisson", Rate: rate, Seed: 7}
		r.Rows = append(r.Rows, row)
	}
	good := []report.Verdict{{Name: "decode used the KV cache that prefill computed", Verdict: "proven"}}
	for i, name := range []string{"conc=1/task=text window 1", "conc=2/task=text window 1", "conc=4/task=text window 1"} {
		w := report.Window{Name: name, Dialect: "nixl", BlockSize: 16, Verdicts: good, Requests: nil,
			Numbers: map[string]float64{"decode.prompt_tokens": 4096, "decode.external_tokens": 4096, "decode.computed_tokens": 0, "decode.bytes": 33_554_432}}
		if i == 2 {
			w.Verdicts = []report.Verdict{{Name: "decode used the KV cache that prefill computed", Verdict: "refuted",
				Reasons: []string{"decode computed 1361 of 1361 prompt tokens itself (iteration_tokens +2723, bytes 0)"}}}
			delete(w.Numbers, "decode.bytes")
		}
		r.Handoff = append(r.Handoff, w)
	}
	return r
}

func gbOf(gb float64) float64 { return math.Round(gb*1e3) * 1e6 }

// demoRow has a queue that grows with the load, and a failure in every 25th request of a load of 16 and more.
func demoRow(rng *rand.Rand, name string, load, n, prompt, images int) report.Row {
	var samples []metrics.Sample
	began := time.Date(2026, 11, 28, 9, 30, 0, 0, time.UTC)
	queue := 4 * math.Pow(float64(load), 1.3)
	lanes := make([]time.Duration, load)
	var wall time.Duration
	for i := range n {
		lane := i % load
		ttft := 30 + float64(prompt)/12 + queue*(0.5+rng.ExpFloat64()/2)
		s := metrics.Sample{Start: began.Add(lanes[lane]), InputTokens: prompt, OutputTokens: 48, Exchange: api.Exchange{Status: 200}}
		at := ttft
		for range 48 {
			s.Exchange.Events = append(s.Exchange.Events, api.Event{At: time.Duration(at * 1e6), Text: "y", Tokens: 1, Has: api.HasChoices | api.HasText})
			at += 18 + float64(load)/4 + 6*rng.ExpFloat64()
		}
		s.Exchange.End = time.Duration(at * 1e6)
		if images > 0 {
			s.Exchange.Events, s.InputTokens, s.OutputTokens, s.Images, s.Pixels = nil, -1, -1, 1, 1376*768
		}
		if load >= 16 && i%25 == 3 {
			s.Err = errors.New("stage decode: connection reset by <peer> & others")
		}
		lanes[lane] += s.Exchange.End + 2*time.Millisecond
		wall = max(wall, lanes[lane])
		samples = append(samples, s)
	}
	row := report.Row{Name: name, Mode: report.Online, Concurrency: load, Requests: n, PromptTokens: prompt, OutputTokens: 48,
		Summary: metrics.Summarize(metrics.VLLM, samples, wall), PeakInFlight: load, MeanInFlight: float64(load) * 0.97}
	row.Client = metrics.ClientError{Verdict: metrics.ClientValid, CPUShare: metrics.Of(0.04 + 0.01*float64(load)), Steal: metrics.Of(0.002), Coalesced: metrics.Of(0.001),
		LittleGap: metrics.Of(0.008), Dispatch: demoLateness(0.02, 0.2), Event: demoLateness(0.06, 0.7)}
	row.Detail(metrics.VLLM, samples, wall)
	row.Timeline = append(row.Timeline, demoHardware(rng, wall.Seconds(), load)...)
	parts := []float64{0.3, queue, float64(prompt) / 16, 6, 48 * 22, 0, 1.1}
	total := 0.0
	for _, p := range parts {
		total += p
	}
	for i, stage := range []string{"client", "queue", "prefill", "kv transfer", "decode", "dit", "residual"} {
		st := report.StageTime{Stage: stage, Mean: metrics.Of(parts[i]), Share: metrics.Of(parts[i] / total)}
		if stage == "dit" {
			st = report.StageTime{Stage: stage, Mean: metrics.Absent("no picture was asked for"), Share: metrics.Absent("no picture was asked for")}
		}
		if stage == "residual" && load == 4 {
			st.Mean, st.Share = metrics.Of(-38), metrics.Of(-38/total)
		}
		row.Stages = append(row.Stages, st)
	}
	decode := hw.Series{PID: 7, Samples: 80, PeakRSS: 3_200_000_000, MeanRSS: 3_000_000_000, CPUSeconds: wall.Seconds() * 0.8, Processes: 2}
	row.Hardware = hw.Window{WallS: wall.Seconds(), IntervalMS: 50, Stages: map[string]hw.Series{"decode": decode, "dit": {Absent: hw.AttachedByURL}}, Total: hw.Series{Absent: "dit " + hw.AttachedByURL}}
	return row
}

func demoLateness(p50, p99 float64) metrics.Lateness {
	return metrics.Lateness{N: 1000, P50: metrics.Of(p50), P99: metrics.Of(p99), P999: metrics.Absent("1000 events, p99.9 needs 3688"), Max: metrics.Of(2 * p99)}
}

// demoHardware has a gap in the middle of the GPU's series: a sampler that was held up.
func demoHardware(rng *rand.Rand, seconds float64, load int) []report.Series {
	var all []report.Series
	for _, stage := range []string{"prefill", "decode"} {
		memory := report.Series{Stage: stage, Name: "GPU memory", Unit: "bytes"}
		busy := report.Series{Stage: stage, Name: "GPU utilisation", Unit: "share"}
		for i := range 50 {
			at := seconds * (float64(i) + 0.5) / 50
			m, u := metrics.Of(gbOf(20+float64(load)/8+3*float64(i)/50)), metrics.Of(min(0.99, 0.35+0.03*float64(load)+0.06*rng.NormFloat64()))
			if stage == "decode" {
				m = metrics.Of(gbOf(31 + float64(load)/6))
				if i >= 22 && i < 28 {
					m, u = metrics.Absent("NVML timed out"), metrics.Absent("NVML timed out")
				}
			}
			memory.At, memory.Value = append(memory.At, at), append(memory.Value, m)
			busy.At, busy.Value = append(busy.At, at), append(busy.Value, u)
		}
		all = append(all, memory, busy)
	}
	return all
}
