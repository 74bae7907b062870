package report

import (
	"fmt"
	"math"
	"slices"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Metric is one figure of a row in the form of a benchmark line: testing.B.ReportMetric(m.Value, m.Unit).
type Metric struct {
	Unit   string // the name with its unit last, without spaces: "p50-ttft-ns"
	Value  float64
	Better string // "lower" or "higher"
}

const (
	lower  = "lower"
	higher = "higher"
)

// benchUnits are all units of benchmark lines. Times are in ns and memory in B: these two benchstat scales (it prints
// p50-ttft-sec with m and µ), ms and GB it would print as they come. It knows no direction but those of ns/op and its like,
// hence UnitLines.
var benchUnits = slices.Concat(
	benchTimes("ttft", func(r Row) metrics.Dist { return r.Summary.TTFT }),
	benchTimes("tpot", func(r Row) metrics.Dist { return r.Summary.TPOT }),
	benchTimes("itl", func(r Row) metrics.Dist { return r.Summary.ITL }),
	benchTimes("e2el", func(r Row) metrics.Dist { return r.Summary.E2EL }),
	benchTimes("e2el-from-schedule", func(r Row) metrics.Dist { return r.Summary.E2ELFromSchedule }),
	[]benchUnit{
		{"req/s", higher, func(r Row) metrics.Value { return r.Summary.RequestRate }},
		{"tok/s", higher, func(r Row) metrics.Value { return r.Summary.OutputTokenRate }},
		{"images/s", higher, func(r Row) metrics.Value { return r.Summary.ImageRate }},
		{"goodput-req/s", higher, goodput},
		{"err-frac", lower, func(r Row) metrics.Value {
			asked := r.Summary.OK + r.Summary.Failed
			if asked == 0 {
				return metrics.Absent("no request was made, or all were abandoned as planned")
			}
			return metrics.Of(float64(r.Summary.Failed) / float64(asked))
		}},
		{"gpu-mem-B", lower, func(r Row) metrics.Value { return r.GPUMemory }},
		{"gpu-mem-mean-B", lower, func(r Row) metrics.Value { return r.Hardware.GPU.MeanMemory }},
		{"gpu-util-frac", higher, func(r Row) metrics.Value { return r.Hardware.GPU.MeanUtil }},
		{"J/req", lower, func(r Row) metrics.Value { return r.Energy }},
		{"rss-B", lower, Row.memoryRSS},
		{"cpu-cores", lower, Row.cpuCores},
		stageCores("proxy"), stageCores("prefill"), stageCores("decode"), stageCores("dit"),
		{"client-late-p99-ns", lower, func(r Row) metrics.Value { return nanos(r.Client.Event.P99) }},
		{"client-invalid", lower, func(r Row) metrics.Value { // 1: the other figures of the line are not the server's
			switch r.client() {
			case metrics.ClientInvalid:
				return metrics.Of(1)
			case metrics.ClientValid:
				return metrics.Of(0)
			}
			return metrics.Absent(metrics.ClientUnknown)
		}},
	},
)

type benchUnit struct {
	unit, better string
	value        func(Row) metrics.Value
}

func benchTimes(name string, dist func(Row) metrics.Dist) []benchUnit {
	return []benchUnit{
		{"mean-" + name + "-ns", lower, func(r Row) metrics.Value { return nanos(dist(r).Mean) }},
		{"p50-" + name + "-ns", lower, func(r Row) metrics.Value { return nanos(dist(r).Median) }},
		{"p99-" + name + "-ns", lower, func(r Row) metrics.Value { return nanos(dist(r).P99) }},
	}
}

// stageCores is how many cores a stage's processes used, mean over the window.
func stageCores(stage string) benchUnit {
	return benchUnit{stage + "-cpu-cores", lower, func(r Row) metrics.Value {
		s, there := r.Hardware.Stages[stage]
		switch {
		case !there:
			return metrics.Absent("the stack has no such stage")
		case s.Absent != "":
			return metrics.Absent(s.Absent)
		}
		return s.MeanCores
	}}
}

// nanos is a figure of milliseconds in whole nanoseconds: that is the clock's own unit.
func nanos(ms metrics.Value) metrics.Value {
	v, ok := ms.Get()
	if !ok {
		return ms
	}
	return metrics.Of(math.Round(v * 1e6))
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

// UnitLines tell benchmark tools which direction is better, "Unit p50-ttft-ns better=lower". Print them once to standard
// output before the benchmarks run, on lines of their own.
func UnitLines() []string {
	lines := make([]string, len(benchUnits))
	for i, u := range benchUnits {
		lines[i] = fmt.Sprintf("Unit %s better=%s", u.unit, u.better)
	}
	return lines
}
