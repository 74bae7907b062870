package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// aiperfMetric is one entry of profile_export_aiperf.json (JsonMetricResult of aiperf 0.13, schema 1.4).
type aiperfMetric struct {
	Unit  string   `json:"unit"`
	Avg   *float64 `json:"avg"`
	P50   *float64 `json:"p50"`
	P90   *float64 `json:"p90"`
	P95   *float64 `json:"p95"`
	P99   *float64 `json:"p99"`
	Min   *float64 `json:"min"`
	Max   *float64 `json:"max"`
	Std   *float64 `json:"std"`
	Count *int     `json:"count"`
}

type aiperfFile struct {
	Version      string        `json:"aiperf_version"`
	Start        string        `json:"start_time"`
	TTFT         *aiperfMetric `json:"time_to_first_token"`
	ITL          *aiperfMetric `json:"inter_token_latency"`
	ICL          *aiperfMetric `json:"inter_chunk_latency"`
	Latency      *aiperfMetric `json:"request_latency"`
	Requests     *aiperfMetric `json:"request_count"`
	Errors       *aiperfMetric `json:"error_request_count"`
	RequestPerS  *aiperfMetric `json:"request_throughput"`
	OutputPerS   *aiperfMetric `json:"output_token_throughput"`
	TotalPerS    *aiperfMetric `json:"total_token_throughput"`
	OutputTokens *aiperfMetric `json:"total_output_tokens"`
	TotalOSL     *aiperfMetric `json:"total_osl"`
	TotalISL     *aiperfMetric `json:"total_isl"`
	Goodput      *aiperfMetric `json:"goodput"`
	Duration     *aiperfMetric `json:"benchmark_duration"`
	ErrorSummary []struct {
		Error struct {
			Message string `json:"message"`
			Type    string `json:"type"`
		} `json:"error_details"`
		Count int `json:"count"`
	} `json:"error_summary"`
	Run struct {
		Seed *int64 `json:"random_seed"`
	} `json:"run_info"`
	Complete *bool  `json:"is_complete"`
	Why      string `json:"incomplete_reason"`
}

var aiperfMapping = []Mapped{
	{"time_to_first_token", "TTFT", "first non-empty response, reasoning included; the profile vllm takes the first event, whatever it holds"},
	{"inter_token_latency", "TPOT", "aiperf's ITL is the average of each request: vLLM's TPOT. Tokens are counted by aiperf's own tokenizer unless told otherwise"},
	{"inter_chunk_latency", "ITL", "gaps between chunks: vLLM's ITL, up to empty chunks"},
	{"request_latency", "E2EL", "to the last response with content"},
	{"request_throughput", "req/s", "over first send to last response, not over the harness time"},
	{"output_token_throughput", "tokens/s", "over the same duration, tokens by aiperf's tokenizer"},
	{"total_token_throughput", "total tokens/s", ""},
	{"total_isl, total_osl", "input and output tokens", "by aiperf's tokenizer"},
	{"benchmark_duration", "duration", "first send to last response"},
	{"goodput", "", "the file's objectives are in its input_config only"},
	{"time_to_second_token, time_to_first_output_token", "", "no counterpart in the profile vllm"},
	{"output_token_throughput_per_user", "", "1 / TPOT"},
	{"telemetry_data", "", "not read"},
}

func importAIPerf(raw []byte) (Result, []Mapped, error) {
	var f aiperfFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return Result{}, nil, err
	}
	wall, ok := f.Duration.scaled("s").avg().Get()
	if !ok || wall <= 0 {
		return Result{}, nil, errors.New("no benchmark_duration: rates cannot be checked")
	}
	count := func(m *aiperfMetric) int {
		v, _ := m.avg().Get()
		return int(v)
	}
	succeeded, failed := count(f.Requests), count(f.Errors)
	r := Result{Target: "by aiperf", Plan: Plan{Profile: "aiperf", Source: "aiperf's definitions, under our names"}, Provenance: Provenance{Tool: "aiperf", Version: f.Version}}
	r.Created, _ = time.Parse("2006-01-02T15:04:05.999999", f.Start)
	row := Row{Mode: Online, Requests: succeeded + failed}
	if f.Run.Seed != nil {
		row.Load.Seed = *f.Run.Seed
	}
	osl := f.OutputTokens
	if osl == nil {
		osl = f.TotalOSL
	}
	row.Summary = metrics.Summary{Profile: "aiperf", WallS: wall, Requests: row.Requests, OK: succeeded, Failed: failed,
		TTFT: f.TTFT.dist(succeeded), TPOT: f.ITL.dist(succeeded), ITL: f.ICL.dist(succeeded), E2EL: f.Latency.dist(succeeded),
		InputTokens: f.TotalISL.avg(), OutputTokens: osl.avg(), RequestRate: f.RequestPerS.avg(), OutputTokenRate: f.OutputPerS.avg(), TotalTokenRate: f.TotalPerS.avg()}
	for _, e := range f.ErrorSummary {
		row.Summary.Failures = append(row.Summary.Failures, fmt.Sprintf("%dx %s", e.Count, join(e.Error.Type, e.Error.Message)))
	}
	if f.Complete != nil && !*f.Complete {
		row.Errors = []string{"aiperf marks its run as incomplete: " + f.Why}
	}
	r.Rows = []Row{row}
	return r, aiperfMapping, nil
}

// avg is the metric's value, or mean.
func (m *aiperfMetric) avg() metrics.Value {
	if m == nil {
		return metrics.Absent("not in the file")
	}
	return told(m.Avg, "avg")
}

// perUnit are the units of aiperf's times, in ms.
var perUnit = map[string]float64{"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3, "sec": 1e3}

// scaled is the metric in another unit of time.
func (m *aiperfMetric) scaled(unit string) *aiperfMetric {
	if m == nil {
		return nil
	}
	per, known := perUnit[m.Unit]
	if !known {
		return nil
	}
	by := per / perUnit[unit]
	out := &aiperfMetric{Unit: unit, Count: m.Count}
	for _, v := range []struct{ to, from **float64 }{{&out.Avg, &m.Avg}, {&out.P50, &m.P50}, {&out.P90, &m.P90}, {&out.P95, &m.P95}, {&out.P99, &m.P99}, {&out.Min, &m.Min}, {&out.Max, &m.Max}, {&out.Std, &m.Std}} {
		if *v.from != nil {
			x := **v.from * by
			*v.to = &x
		}
	}
	return out
}

// dist is the metric as a distribution of milliseconds. requests are those that succeeded.
func (m *aiperfMetric) dist(requests int) metrics.Dist {
	if m == nil || m.Avg == nil {
		return noDist("not in the file")
	}
	ms := m.scaled("ms")
	if ms == nil {
		return noDist("the file's unit is " + m.Unit)
	}
	d := metrics.Dist{Unit: "ms", N: requests, Requests: requests}
	if m.Count != nil {
		d.N = *m.Count
	}
	d.Requests = min(d.Requests, d.N)
	d.Mean, d.Median, d.Std, d.Min, d.Max = told(ms.Avg, "avg"), told(ms.P50, "p50"), told(ms.Std, "std"), told(ms.Min, "min"), told(ms.Max, "max")
	d.P90, d.P95, d.P99 = quoted(ms.P90, "p90", 90, d.Requests), quoted(ms.P95, "p95", 95, d.Requests), quoted(ms.P99, "p99", 99, d.Requests)
	d.P999 = metrics.Absent("the file has no p99.9")
	return d
}
