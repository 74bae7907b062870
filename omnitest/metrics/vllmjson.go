package metrics

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// VLLMRun is what a result file of `vllm bench serve` says besides figures. The zero value works.
type VLLMRun struct {
	Date           time.Time
	EndpointType   string // "openai", "openai-chat"; "": the Backend
	Backend        string // "": "openai"
	Label          string // "": null
	Model          string
	Tokenizer      string    // "": the Model
	RequestRate    float64   // req/s; 0 or infinite: "inf"
	Burstiness     float64   // 0: 1
	MaxConcurrency int       // 0: null
	Percentiles    []float64 // of each figure; nil: 99
	SLOs           SLOs      // none: request_goodput is null
	Metadata       map[string]string
}

// VLLMJSON gives a run under the keys of `vllm bench serve --save-result --save-detailed`, for scripts that read such files: encode
// it with encoding/json. Times of requests are in seconds, start_times since the earliest start (vLLM's clock has no meaning
// outside of its process either).
//
// A figure that was not measured is null. vLLM writes 0 there, and so does a literal profile; a percentile that the number
// of requests does not support is written, as vLLM does, because the key is what such scripts look for: the table and the
// result document refuse it.
func VLLMJSON(p Profile, samples []Sample, wall time.Duration, run VLLMRun) map[string]any {
	sum := Options{SLOs: run.SLOs}.Summarize(p, samples, wall)
	out := map[string]any{}
	for k, v := range run.Metadata {
		out[k] = v
	}
	run.head(out, len(samples))
	number := func(v Value) any {
		if x, ok := v.Get(); ok {
			return x
		}
		if p.Literal {
			return 0.0
		}
		return nil
	}
	out["duration"] = sum.WallS
	out["completed"], out["failed"] = sum.OK, sum.Failed
	out["total_input_tokens"], out["total_output_tokens"] = number(sum.InputTokens), number(sum.OutputTokens)
	out["request_throughput"], out["output_throughput"] = number(sum.RequestRate), number(sum.OutputTokenRate)
	out["total_token_throughput"] = number(sum.TotalTokenRate)
	out["request_goodput"] = nil
	if sum.Goodput != nil {
		out["request_goodput"] = number(sum.Goodput.Rate)
	}
	out["max_output_tokens_per_s"], out["max_concurrent_requests"] = number(sum.PeakOutputRate), number(sum.PeakConcurrency)
	out["rtfx"] = 0.0 // seconds of sound sent per second: nothing is transcribed here

	pools := details(&p, samples, out)
	if run.Percentiles == nil {
		run.Percentiles = []float64{99}
	}
	for name, d := range map[string]Dist{"ttft": sum.TTFT, "tpot": sum.TPOT, "itl": sum.ITL, "e2el": sum.E2EL} {
		out["mean_"+name+"_ms"], out["median_"+name+"_ms"], out["std_"+name+"_ms"] = number(d.Mean), number(d.Median), number(d.Std)
		slices.Sort(pools[name])
		for _, q := range run.Percentiles {
			out["p"+strconv.FormatFloat(q, 'f', -1, 64)+"_"+name+"_ms"] = number(Of(Percentile(pools[name], q)))
		}
	}
	return out
}

func (run *VLLMRun) head(out map[string]any, prompts int) {
	or := func(s, other string) string {
		if s == "" {
			return other
		}
		return s
	}
	run.Backend = or(run.Backend, "openai")
	out["date"] = run.Date.Format("20060102-150405")
	out["backend"], out["endpoint_type"] = run.Backend, or(run.EndpointType, run.Backend)
	out["label"] = nil
	if run.Label != "" {
		out["label"] = run.Label
	}
	out["model_id"], out["tokenizer_id"] = run.Model, or(run.Tokenizer, run.Model)
	out["num_prompts"] = prompts
	out["request_rate"], out["burstiness"] = run.RequestRate, run.Burstiness
	if run.RequestRate <= 0 || math.IsInf(run.RequestRate, 1) {
		out["request_rate"] = "inf"
	}
	if run.Burstiness == 0 {
		out["burstiness"] = 1.0
	}
	out["max_concurrency"] = nil
	if run.MaxConcurrency > 0 {
		out["max_concurrency"] = run.MaxConcurrency
	}
}

// details adds the lists with one entry per request, failed ones with zeros as vLLM keeps them. It gives the values of each
// figure over the successes.
func details(p *Profile, samples []Sample, out map[string]any) map[string][]float64 {
	n := len(samples)
	inputs, outputs, texts, errs := make([]any, n), make([]any, n), make([]string, n), make([]string, n)
	ttfts, latencies, starts, queues, itls := make([]any, n), make([]any, n), make([]any, n), make([]float64, n), make([][]float64, n)
	pools := map[string][]float64{}
	keep := func(name string, v Value) any {
		x, ok := v.Get()
		if !ok {
			return nil
		}
		pools[name] = append(pools[name], x)
		return x / 1e3
	}
	var first time.Time
	for i := range samples {
		if at := samples[i].Start; !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	for i := range samples {
		s := &samples[i]
		inputs[i], outputs[i], ttfts[i], latencies[i], itls[i] = s.PromptTokens, 0, 0.0, 0.0, []float64{}
		texts[i], queues[i] = s.Text(), s.Queue.Seconds()
		if !s.Start.IsZero() {
			starts[i] = s.Start.Sub(first).Seconds()
		}
		f, err := p.measure(s)
		if err != nil {
			errs[i] = err.Error()
			continue
		}
		ttfts[i], latencies[i] = keep("ttft", f.TTFT), keep("e2el", f.E2EL)
		keep("tpot", f.TPOT)
		inputs[i], outputs[i] = count(f.InputTokens), count(f.OutputTokens)
		pools["itl"] = append(pools["itl"], f.ITL...)
		for _, gap := range f.ITL {
			itls[i] = append(itls[i], gap/1e3)
		}
	}
	out["input_lens"], out["output_lens"], out["ttfts"], out["itls"], out["latencies"] = inputs, outputs, ttfts, itls, latencies
	out["start_times"], out["queue_times"], out["generated_texts"], out["errors"] = starts, queues, texts, errs
	return pools
}

// count is a number of tokens as JSON has it, null where nobody told it.
func count(v Value) any {
	if n, ok := v.Get(); ok {
		return int(n)
	}
	return nil
}
