package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// guideDist is a DistributionSummary of guidellm 0.8.
type guideDist struct {
	Mean   *float64 `json:"mean"`
	Median *float64 `json:"median"`
	Std    *float64 `json:"std_dev"`
	Min    *float64 `json:"min"`
	Max    *float64 `json:"max"`
	Count  int      `json:"count"`
	Sum    *float64 `json:"total_sum"`
	P      struct {
		P90  *float64 `json:"p90"`
		P95  *float64 `json:"p95"`
		P99  *float64 `json:"p99"`
		P999 *float64 `json:"p999"`
	} `json:"percentiles"`
}

// byStatus is a StatusDistributionSummary: figures of the successes and of the others.
type byStatus struct {
	OK *guideDist `json:"successful"`
}

type guideBenchmark struct {
	Config struct {
		Strategy map[string]any `json:"strategy"`
	} `json:"config"`
	Scheduler struct {
		Start    float64 `json:"measure_start_time"` // unix s
		End      float64 `json:"measure_end_time"`
		Strategy string  `json:"strategy_type"`
	} `json:"scheduler_metrics"`
	Metrics struct {
		Totals struct {
			OK         int `json:"successful"`
			Errored    int `json:"errored"`
			Incomplete int `json:"incomplete"`
		} `json:"request_totals"`
		PerS       byStatus `json:"requests_per_second"`
		Concurrent byStatus `json:"request_concurrency"`
		Latency    byStatus `json:"request_latency"` // s
		TTFT       byStatus `json:"time_to_first_token_ms"`
		TPOT       byStatus `json:"time_per_output_token_ms"`
		ITL        byStatus `json:"inter_token_latency_ms"`
		Prompt     byStatus `json:"prompt_token_count"`
		Output     byStatus `json:"output_token_count"`
		OutputPerS byStatus `json:"output_tokens_per_second"`
		TotalPerS  byStatus `json:"tokens_per_second"`
	} `json:"metrics"`
}

var guideMapping = []Mapped{
	{"time_to_first_token_ms", "TTFT", "first content, reasoning or tool-call delta; the profile vllm takes the first event, whatever it holds"},
	{"inter_token_latency_ms", "TPOT", "guidellm's ITL is the average of each request from first to last token: vLLM's TPOT but for the end point"},
	{"time_per_output_token_ms", "", "(last token - start) / tokens, prefill included: no counterpart"},
	{"request_latency", "E2EL", "seconds in the file; to the end of the stream"},
	{"requests_per_second", "req/s", "mean over guidellm's measuring window"},
	{"output_tokens_per_second", "tokens/s", "mean over guidellm's measuring window"},
	{"tokens_per_second", "total tokens/s", ""},
	{"prompt_token_count, output_token_count", "input and output tokens", "usage, else counted iterations"},
	{"request_concurrency", "mean in flight", ""},
	{"request_totals.errored", "failed", ""},
	{"request_totals.incomplete", "", "cut off by the end of the run: neither a success nor a failure, said as an error of the row"},
	{"gaps between single chunks", "", "guidellm keeps none: vLLM's ITL is not measured"},
	{"(clock)", "", "guidellm reads the wall clock: a step of it is in the figures"},
}

func importGuideLLM(raw []byte) (Result, []Mapped, error) {
	var f struct {
		Metadata struct {
			Version string `json:"guidellm_version"`
		} `json:"metadata"`
		Benchmarks []guideBenchmark `json:"benchmarks"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return Result{}, nil, err
	}
	if len(f.Benchmarks) == 0 {
		return Result{}, nil, errors.New("no benchmark in the file")
	}
	r := Result{Target: "by guidellm", Plan: Plan{Profile: "guidellm", Source: "guidellm's definitions, under our names"}, Provenance: Provenance{Tool: "guidellm", Version: f.Metadata.Version}}
	for i := range f.Benchmarks {
		row, err := f.Benchmarks[i].row()
		if err != nil {
			return Result{}, nil, fmt.Errorf("benchmark %d: %w", i+1, err)
		}
		if i == 0 {
			r.Created = time.Unix(int64(f.Benchmarks[0].Scheduler.Start), 0).UTC()
		}
		r.Rows = append(r.Rows, row)
	}
	return r, guideMapping, nil
}

func (b *guideBenchmark) row() (Row, error) {
	m := &b.Metrics
	wall := b.Scheduler.End - b.Scheduler.Start
	if wall <= 0 {
		return Row{}, errors.New("no measuring window: rates cannot be checked")
	}
	n := m.Totals.OK + m.Totals.Errored
	row := Row{Name: b.Scheduler.Strategy, Mode: Online, Requests: n}
	if streams, ok := b.number("max_concurrency", "streams"); ok {
		row.Concurrency = int(streams)
		row.Name = fmt.Sprintf("%s %g", row.Name, streams)
	}
	if rate, ok := b.number("rate"); ok {
		row.Load = Load{Arrivals: b.Scheduler.Strategy, Rate: rate}
		row.Name = fmt.Sprintf("%s %g/s", row.Name, rate)
	}
	if seed, ok := b.number("random_seed"); ok {
		row.Load.Seed = int64(seed)
	}
	none := "guidellm keeps no gaps between single chunks"
	row.Summary = metrics.Summary{Profile: "guidellm", WallS: wall, Requests: n, OK: m.Totals.OK, Failed: m.Totals.Errored,
		TTFT: m.TTFT.dist(1), TPOT: m.ITL.dist(1), ITL: noDist(none), E2EL: m.Latency.dist(1e3),
		InputTokens: m.Prompt.sum(), OutputTokens: m.Output.sum(), RequestRate: m.PerS.mean(), OutputTokenRate: m.OutputPerS.mean(), TotalTokenRate: m.TotalPerS.mean()}
	if v, ok := m.Concurrent.mean().Get(); ok {
		row.MeanInFlight = v
	}
	if m.Totals.Errored > 0 {
		row.Summary.Failures = []string{fmt.Sprintf("%dx (the summary does not say why)", m.Totals.Errored)}
	}
	if m.Totals.Incomplete > 0 {
		row.Errors = []string{plural(m.Totals.Incomplete, "request") + " cut off by the end of the run, in no figure"}
	}
	return row, nil
}

// number is one of the strategy's parameters.
func (b *guideBenchmark) number(keys ...string) (float64, bool) {
	for _, k := range keys {
		if v, ok := b.Config.Strategy[k].(float64); ok {
			return v, true
		}
	}
	return 0, false
}

func (s byStatus) mean() metrics.Value {
	if s.OK == nil || s.OK.Count == 0 {
		return metrics.Absent("no request succeeded")
	}
	return told(s.OK.Mean, "mean")
}

func (s byStatus) sum() metrics.Value {
	if s.OK == nil || s.OK.Count == 0 {
		return metrics.Absent("no request succeeded")
	}
	return told(s.OK.Sum, "total_sum")
}

// dist is the distribution of the successes, times `by` for milliseconds.
func (s byStatus) dist(by float64) metrics.Dist {
	g := s.OK
	if g == nil || g.Count == 0 {
		return noDist("no request succeeded")
	}
	scaled := func(v *float64) *float64 {
		if v == nil {
			return nil
		}
		x := *v * by
		return &x
	}
	d := metrics.Dist{Unit: "ms", N: g.Count, Requests: g.Count}
	d.Mean, d.Median, d.Std = told(scaled(g.Mean), "mean"), told(scaled(g.Median), "median"), told(scaled(g.Std), "std_dev")
	d.Min, d.Max = told(scaled(g.Min), "min"), told(scaled(g.Max), "max")
	d.P90, d.P95 = quoted(scaled(g.P.P90), "p90", 90, g.Count), quoted(scaled(g.P.P95), "p95", 95, g.Count)
	d.P99, d.P999 = quoted(scaled(g.P.P99), "p99", 99, g.Count), quoted(scaled(g.P.P999), "p99.9", 99.9, g.Count)
	return d
}
