package report

import (
	"fmt"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Metric is one figure of a row in the form of a benchmark line: testing.B.ReportMetric(m.Value, m.Unit).
type Metric struct {
	Unit   string // the name with its unit last, without spaces: "ttft-mean-ms"
	Value  float64
	Better string // "lower" or "higher"
}

const (
	lower  = "lower"
	higher = "higher"
	mb     = 1e6 // bytes, as benchstat reads MB
)

// benchUnits are all units of benchmark lines. benchstat knows no direction but those of ns/op and its like, hence
// UnitLines.
var benchUnits = []struct {
	unit, better string
	value        func(Row) metrics.Value
}{
	{"ttft-mean-ms", lower, func(r Row) metrics.Value { return r.Summary.TTFT.Mean }},
	{"ttft-p50-ms", lower, func(r Row) metrics.Value { return r.Summary.TTFT.Median }},
	{"ttft-p99-ms", lower, func(r Row) metrics.Value { return r.Summary.TTFT.P99 }},
	{"tpot-mean-ms", lower, func(r Row) metrics.Value { return r.Summary.TPOT.Mean }},
	{"tpot-p50-ms", lower, func(r Row) metrics.Value { return r.Summary.TPOT.Median }},
	{"tpot-p99-ms", lower, func(r Row) metrics.Value { return r.Summary.TPOT.P99 }},
	{"itl-mean-ms", lower, func(r Row) metrics.Value { return r.Summary.ITL.Mean }},
	{"e2el-mean-ms", lower, func(r Row) metrics.Value { return r.Summary.E2EL.Mean }},
	{"e2el-p50-ms", lower, func(r Row) metrics.Value { return r.Summary.E2EL.Median }},
	{"e2el-p99-ms", lower, func(r Row) metrics.Value { return r.Summary.E2EL.P99 }},
	{"req/s", higher, func(r Row) metrics.Value { return r.Summary.RequestRate }},
	{"tok/s", higher, func(r Row) metrics.Value { return r.Summary.OutputTokenRate }},
	{"images/s", higher, func(r Row) metrics.Value { return r.Summary.ImageRate }},
	{"failed-req", lower, func(r Row) metrics.Value { return metrics.Of(float64(r.Summary.Failed)) }},
	{"gpu-peak-MB", lower, func(r Row) metrics.Value { return r.GPUMemory.Per(mb) }},
	{"rss-peak-MB", lower, func(r Row) metrics.Value { return r.memoryRSS().Per(mb) }},
	{"cpu-s", lower, Row.cpuSeconds},
}

// Metrics are the measured figures of a row. What was not measured is left out: a benchmark line has no way to say so
// but silence, and a 0 would win every comparison.
func Metrics(r Row) []Metric {
	var all []Metric
	for _, u := range benchUnits {
		if v, ok := u.value(r).Get(); ok {
			all = append(all, Metric{u.unit, v, u.better})
		}
	}
	return all
}

// UnitLines tell benchmark tools which direction is better, "Unit ttft-mean-ms better=lower". Print them once to standard
// output before the benchmarks run, on lines of their own.
func UnitLines() []string {
	lines := make([]string, len(benchUnits))
	for i, u := range benchUnits {
		lines[i] = fmt.Sprintf("Unit %s better=%s", u.unit, u.better)
	}
	return lines
}
