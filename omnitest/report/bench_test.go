package report_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
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
		"mean-ttft-sec": 0.2, "p50-ttft-sec": 0.2, "mean-tpot-sec": 0.02, "p50-tpot-sec": 0.02, "mean-itl-sec": 0.02, "p50-itl-sec": 0.02,
		"mean-e2el-sec": 0.4, "p50-e2el-sec": 0.4, "req/s": 0.25, "tok/s": 2.75, "err-frac": 0, "gpu-mem-B": 71.25e9, "rss-B": 123_456_789, "cpu-cores": 0.3125,
	}, got, cmpopts.EquateApprox(1e-9, 0)), "no p99 of one request, no images/s of text, no latency from a schedule that there was not")

	units := r.Units()
	for unit := range got {
		want := -1
		if unit == "req/s" || unit == "tok/s" {
			want = +1
		}
		assert.Equal(t, want, units.GetBetter(unit), unit)
	}
	assert.Equal(t, +1, units.GetBetter("images/s"))
	assert.Equal(t, +1, units.GetBetter("goodput-req/s"))
	assert.Equal(t, -1, units.GetBetter("client-late-p99-sec"))
	for _, m := range all {
		assert.NotContains(t, m.Unit, " ")
		assert.Contains(t, report.UnitLines(), "Unit "+m.Unit+" better="+m.Better)
	}
}

// Every unit that a row can have is a figure of the line, in a unit that benchstat scales (sec, B) or one that it shows as it is,
// and has a direction.
func TestEveryUnitIsReadWithItsDirection(t *testing.T) {
	one := metrics.Describe([]float64{1}, 1, "ms", "")
	one.P99 = metrics.Of(1)
	row := example().Rows[0]
	s := &row.Summary
	s.TTFT, s.TPOT, s.ITL, s.E2EL, s.E2ELFromSchedule = one, one, one, one, one
	s.ImageRate = metrics.Of(1)
	s.Goodput = &metrics.Goodput{Rate: metrics.Of(1)}
	row.Energy, row.Hardware.GPU.MeanMemory, row.Hardware.GPU.MeanUtil = metrics.Of(12), metrics.Of(70e9), metrics.Of(0.8)
	for _, stage := range []string{"proxy", "prefill", "decode", "dit"} {
		row.Hardware.Stages[stage] = hw.Series{Samples: 1, MeanCores: metrics.Of(0.5)}
	}
	row.Client.Verdict, row.Client.Event.P99 = metrics.ClientValid, metrics.Of(0.7)
	all := report.Metrics(row)
	require.Len(t, all, len(report.UnitLines()), "this row has every figure")

	var b strings.Builder
	fmt.Fprintln(&b, strings.Join(report.UnitLines(), "\n"))
	fmt.Fprint(&b, "BenchmarkOnline/conc=1-2 1")
	for _, m := range all {
		fmt.Fprintf(&b, " %v %s", m.Value, m.Unit)
	}
	fmt.Fprintln(&b)
	r := benchfmt.NewReader(strings.NewReader(b.String()), "test")
	read := 0
	for r.Scan() {
		rec, ok := r.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		for i, v := range rec.Values {
			read++
			want := strings.TrimSuffix(all[i].Unit, "-ns")
			if want != all[i].Unit {
				want += "-sec"
				assert.Equal(t, all[i].Unit, v.OrigUnit)
			}
			assert.Equal(t, want, v.Unit)
			direction := map[string]int{"lower": -1, "higher": +1}[all[i].Better]
			assert.Equal(t, direction, r.Units().GetBetter(v.Unit), v.Unit)
		}
	}
	require.NoError(t, r.Err())
	assert.Equal(t, len(all), read)
}

func TestAbsentMetricsAreLeftOut(t *testing.T) {
	for _, m := range report.Metrics(example().Rows[2]) { // pictures, not streamed, no GPU figure
		assert.NotContains(t, m.Unit, "ttft")
		assert.NotContains(t, m.Unit, "tok/s")
		assert.NotContains(t, m.Unit, "gpu")
		assert.NotContains(t, m.Unit, "J/")
	}
	assert.Empty(t, report.Metrics(report.Row{}), "nothing was measured: no 0 that would win a comparison")
}
