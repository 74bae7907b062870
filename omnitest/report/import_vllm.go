package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// vllmFile is a file of `vllm bench serve --save-result`, with the lists of --save-detailed where it has them.
type vllmFile struct {
	Date           string   `json:"date"`
	Backend        string   `json:"backend"`
	Model          string   `json:"model_id"`
	NumPrompts     int      `json:"num_prompts"`
	RequestRate    any      `json:"request_rate"` // number, or "inf"
	Burstiness     *float64 `json:"burstiness"`
	MaxConcurrency *int     `json:"max_concurrency"`
	Duration       *float64 `json:"duration"` // s
	Completed      int      `json:"completed"`
	Failed         *int     `json:"failed"` // older files do not say

	InputTokens  *float64 `json:"total_input_tokens"`
	OutputTokens *float64 `json:"total_output_tokens"`
	RequestPerS  *float64 `json:"request_throughput"`
	OutputPerS   *float64 `json:"output_throughput"`
	TotalPerS    *float64 `json:"total_token_throughput"`

	InputLens  []int       `json:"input_lens"`
	OutputLens []int       `json:"output_lens"`
	TTFTs      []float64   `json:"ttfts"` // s
	ITLs       [][]float64 `json:"itls"`  // s
	StartTimes []float64   `json:"start_times"`
	QueueTimes []float64   `json:"queue_times"`
	Errors     []string    `json:"errors"`
}

var vllmMapping = []Mapped{
	{"completed, failed", "requests", "a failed request is in no figure, as here"},
	{"mean/median/std/pNN_ttft_ms", "TTFT", "equal: profile vllm"},
	{"mean/median/std/pNN_tpot_ms", "TPOT", "equal: profile vllm"},
	{"mean/median/std/pNN_itl_ms", "ITL", "equal: profile vllm, gaps between events"},
	{"mean/median/std/pNN_e2el_ms", "E2EL", "equal since vllm#55508 (September 2026); older chat files count to the usage message"},
	{"request_throughput", "req/s", "equal"},
	{"output_throughput", "tokens/s", "equal"},
	{"total_token_throughput", "total tokens/s", "equal"},
	{"queue_times", "client queue", "equal: wait for --max-concurrency"},
	{"max_output_tokens_per_s", "peak tokens/s", "events per second, computed again from the details"},
	{"max_concurrent_requests", "peak concurrency", "an exact sweep here and in newer files; older ones count by buckets of 1 s, so the number differs"},
	{"request_goodput", "", "the file does not say for which objectives"},
	{"generated_texts, rtfx, label", "", ""},
}

func importVLLM(raw []byte) (Result, []Mapped, error) {
	var f vllmFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return Result{}, nil, err
	}
	if f.Duration == nil || *f.Duration <= 0 {
		return Result{}, nil, errors.New("no duration: rates cannot be checked")
	}
	r := Result{Target: "model " + f.Model + ", by vllm bench serve", Plan: Plan{Profile: metrics.VLLM.Name, Source: metrics.VLLM.Source}, Provenance: Provenance{Tool: "vllm bench serve"}}
	r.Created, _ = time.Parse("20060102-150405", f.Date) // without one: unknown
	row := Row{Mode: Online}
	if f.MaxConcurrency != nil {
		row.Concurrency = *f.MaxConcurrency
	}
	if rate, finite := f.RequestRate.(float64); finite {
		row.Load = Load{Arrivals: "vllm", Rate: rate}
		if f.Burstiness != nil {
			row.Load.Burstiness = *f.Burstiness
		}
	}
	wall := time.Duration(math.Round(*f.Duration * 1e9))
	if n := len(f.TTFTs); n > 0 {
		samples, err := f.samples()
		if err != nil {
			return Result{}, nil, err
		}
		row.Requests, row.Summary = n, metrics.Summarize(metrics.VLLM, samples, wall)
		row.Detail(metrics.VLLM, samples, wall)
	} else if err := f.summary(raw, &row); err != nil {
		return Result{}, nil, err
	}
	if row.Summary.OK != f.Completed {
		return Result{}, nil, fmt.Errorf("%d requests completed, the details have %d", f.Completed, row.Summary.OK)
	}
	r.Rows = []Row{row}
	return r, vllmMapping, nil
}

// samples plays the detailed lists back as the events that they were measured from.
func (f *vllmFile) samples() ([]metrics.Sample, error) {
	n := len(f.TTFTs)
	if len(f.ITLs) != n || len(f.OutputLens) != n || len(f.InputLens) != n {
		return nil, fmt.Errorf("details of different lengths: %d ttfts, %d itls, %d output_lens, %d input_lens", n, len(f.ITLs), len(f.OutputLens), len(f.InputLens))
	}
	ns := func(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }
	samples := make([]metrics.Sample, n)
	for i := range samples {
		s := &samples[i]
		s.InputTokens, s.OutputTokens = f.InputLens[i], f.OutputLens[i]
		if len(f.StartTimes) == n {
			s.Start = time.Unix(0, 0).Add(ns(f.StartTimes[i]))
		}
		if len(f.QueueTimes) == n && !s.Start.IsZero() {
			s.Queue = ns(f.QueueTimes[i])
			s.Due = s.Start.Add(-s.Queue)
		}
		if len(f.Errors) == n && f.Errors[i] != "" {
			s.Err = errors.New(f.Errors[i])
			continue
		}
		at := f.TTFTs[i]
		s.Exchange.Status = 200
		add := func() {
			s.Exchange.Events = append(s.Exchange.Events, api.Event{At: ns(at), Has: api.HasChoices | api.HasText})
		}
		add()
		for _, gap := range f.ITLs[i] {
			at += gap
			add()
		}
		s.Exchange.End = ns(at)
	}
	return samples, nil
}

// summary takes the figures of a file without details.
func (f *vllmFile) summary(raw []byte, row *Row) error {
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	if f.Failed == nil {
		missing := f.NumPrompts - f.Completed
		f.Failed = &missing
	}
	if *f.Failed < 0 || f.Completed < 0 {
		return fmt.Errorf("%d of %d prompts completed", f.Completed, f.NumPrompts)
	}
	number := func(key string) *float64 {
		if v, ok := all[key].(float64); ok {
			return &v
		}
		return nil
	}
	dist := func(name string) metrics.Dist {
		n := f.Completed
		d := metrics.Dist{Unit: "ms", N: n, Requests: n}
		d.Mean, d.Median, d.Std = told(number("mean_"+name+"_ms"), "mean"), told(number("median_"+name+"_ms"), "median"), told(number("std_"+name+"_ms"), "std")
		d.Min, d.Max = metrics.Absent("the file has no min"), metrics.Absent("the file has no max")
		for _, p := range []struct {
			to *metrics.Value
			p  float64
		}{{&d.P90, 90}, {&d.P95, 95}, {&d.P99, 99}, {&d.P999, 99.9}} {
			key := "p" + strconv.FormatFloat(p.p, 'f', -1, 64)
			*p.to = quoted(number(key+"_"+name+"_ms"), key, p.p, n)
		}
		if !d.Mean.OK() {
			return noDist("the file has none")
		}
		return d
	}
	row.Requests = f.Completed + *f.Failed
	row.Summary = metrics.Summary{Profile: metrics.VLLM.Name, WallS: *f.Duration, Requests: row.Requests, OK: f.Completed, Failed: *f.Failed,
		TTFT: dist("ttft"), TPOT: dist("tpot"), ITL: dist("itl"), E2EL: dist("e2el"),
		InputTokens: told(f.InputTokens, "total_input_tokens"), OutputTokens: told(f.OutputTokens, "total_output_tokens"),
		RequestRate: told(f.RequestPerS, "request_throughput"), OutputTokenRate: told(f.OutputPerS, "output_throughput"), TotalTokenRate: told(f.TotalPerS, "total_token_throughput")}
	if *f.Failed > 0 {
		row.Summary.Failures = []string{fmt.Sprintf("%dx (the file does not say why)", *f.Failed)}
	}
	return nil
}
