package report_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"

	"github.com/omnitest/suite/omnitest/report"
)

// A benchmark line made of a row's metrics, after the unit lines, is read by golang.org/x/perf (and so by benchstat) as
// what it means, with a direction for each unit.
func TestBenchmarkLinesAreReadByBenchfmt(t *testing.T) {
	var b strings.Builder
	for _, line := range report.UnitLines() {
		fmt.Fprintln(&b, line)
	}
	row := example().Rows[0]
	all := report.Metrics(row)
	fmt.Fprintf(&b, "BenchmarkOffline/batch=1/prompt=512-2 \t 1")
	for _, m := range all {
		fmt.Fprintf(&b, "\t%v %s", m.Value, m.Unit)
	}
	fmt.Fprintln(&b)

	r := benchfmt.NewReader(strings.NewReader(b.String()), "test")
	got := map[string]float64{}
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.SyntaxError:
			t.Error(rec)
		case *benchfmt.Result:
			assert.Equal(t, "Offline/batch=1/prompt=512-2", string(rec.Name))
			for _, v := range rec.Values {
				got[v.Unit] = v.Value
			}
		}
	}
	require.NoError(t, r.Err())
	assert.Empty(t, cmp.Diff(map[string]float64{
		"ttft-mean-ms": 200, "ttft-p50-ms": 200, "tpot-mean-ms": 20, "tpot-p50-ms": 20, "itl-mean-ms": 20, "e2el-mean-ms": 400, "e2el-p50-ms": 400,
		"req/s": 0.25, "tok/s": 2.75, "failed-req": 0, "gpu-peak-B": 71.25e9, "rss-peak-B": 123_456_789, "cpu-s": 1.25,
	}, got), "no p99 of one request, and no images/s of text")

	units := r.Units()
	for unit := range got {
		want := -1
		if unit == "req/s" || unit == "tok/s" {
			want = +1
		}
		assert.Equal(t, want, units.GetBetter(unit), unit)
	}
	assert.Equal(t, +1, units.GetBetter("images/s"))
	for _, m := range all {
		assert.NotContains(t, m.Unit, " ")
		assert.Contains(t, report.UnitLines(), "Unit "+m.Unit+" better="+m.Better)
	}
}

func TestAbsentMetricsAreLeftOut(t *testing.T) {
	for _, m := range report.Metrics(example().Rows[2]) { // pictures, not streamed, no GPU figure
		assert.NotContains(t, m.Unit, "ttft")
		assert.NotContains(t, m.Unit, "tok/s")
		assert.NotContains(t, m.Unit, "gpu")
	}
	assert.Equal(t, []report.Metric{{Unit: "failed-req", Value: 0, Better: "lower"}}, report.Metrics(report.Row{}), "a count of failures is always known")
}
