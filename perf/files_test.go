package perf

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/eventlog"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// TestFiles: what one run leaves behind, read back. The figures of the row can be computed again from the event log, and benchstat shows
// every metric of two runs with its unit.
func TestFiles(t *testing.T) {
	benchable(t)
	spec := filepath.Join(t.TempDir(), "stack.yaml")
	require.NoError(t, os.WriteFile(spec, []byte("name: quick\ntiming: {decode: {decode_per_step: 8ms}}\n"), 0o600))
	t.Setenv(omnitest.EnvStack, spec)
	run := func(out, seed, prompts string) string {
		text, err := bench(t, out, "", "Online/.*/task=(text|t2i)|Rate/.*/.*/task=text", "-seed="+seed, "-max-concurrency=2", "-request-rate=inf,20", "-random-input-len=64",
			"-random-output-len=8", "-output-size=256x256", "-num-prompts="+prompts, "-num-inference-steps=4", "-goodput=e2el:60000", "-metric-percentiles=90", "-save-detailed", "-label=here")
		require.NoError(t, err, text)
		return text
	}
	out := t.TempDir()
	first, second := run(out, "3", "40"), run(t.TempDir(), "4", "8")
	dir := folder(t, out, "online")
	r, err := report.Read(filepath.Join(dir, "result.json"))
	require.NoError(t, err)
	assert.Contains(t, r.Provenance.Flags, "-max-concurrency=2")
	assert.Equal(t, "bfloat16", r.Stack.Stages["decode"].DType)
	names := map[string]report.Row{}
	for _, row := range r.Rows {
		names[row.Name] = row
	}
	require.Len(t, names, 3)
	row := names["rate=20/conc=2/task=text/in=64/out=8"]
	assert.Equal(t, "poisson 20 2", row.Load.Arrivals+sprint(" ", row.Load.Rate, row.Concurrency))
	assert.Equal(t, 40, row.Summary.Goodput.Requests)
	gap, ok := row.Client.LittleGap.Get()
	assert.True(t, ok)
	assert.Less(t, gap, 0.02, "Little's law")
	require.NotEmpty(t, row.Stages)
	require.NotEmpty(t, row.Curves)
	assert.Equal(t, "proven", row.Verdicts[0].Verdict)

	logged, err := eventlog.ReadFile(filepath.Join(dir, r.EventLog))
	require.NoError(t, err)
	for name, row := range names {
		require.Len(t, logged[name], 40, name)
		again := metrics.Options{SLOs: metrics.SLOs{{Name: "e2el", Limit: 60000}}, Percentiles: []float64{90}}.Summarize(metrics.VLLM, logged[name], 0)
		assert.Equal(t, row.Summary.E2EL, again.E2EL, name)
		assert.Equal(t, row.Summary.TTFTFromSchedule, again.TTFTFromSchedule, name)
		assert.Equal(t, row.Summary.ClientQueue, again.ClientQueue, name)
	}
	for _, file := range []string{"report.html", "table.md", "table.csv", "charts/latency-concurrency.png", "charts/latency-rate.svg"} {
		assert.FileExists(t, filepath.Join(dir, file))
	}
	raw, err := os.ReadFile(filepath.Join(dir, "vllm", "rate-20_conc-2_task-text_in-64_out-8-1.json"))
	require.NoError(t, err)
	var keys map[string]any
	require.NoError(t, json.Unmarshal(raw, &keys))
	assert.Equal(t, 20.0, keys["request_rate"])
	assert.Equal(t, 2.0, keys["max_concurrency"])
	assert.Equal(t, "here", keys["label"])
	assert.Len(t, keys["ttfts"], 40)
	assert.Contains(t, keys, "p90_e2el_ms")

	units := map[string]bool{}
	benchmarks := benchfmt.NewReader(strings.NewReader(first), "first")
	for benchmarks.Scan() {
		if rec, ok := benchmarks.Result().(*benchfmt.Result); ok {
			for _, v := range rec.Values {
				units[v.Unit] = true
			}
		}
	}
	for _, unit := range []string{"req/s", "tok/s", "images/s", "mean-ttft-sec", "p90-e2el-sec", "p50-e2el-from-schedule-sec", "goodput-req/s", "err-frac", "rss-B", "cpu-cores"} {
		assert.True(t, units[unit], unit)
	}
	shown := benchstat(t, first, second)
	for unit := range units {
		assert.Contains(t, shown, unit, "benchstat")
	}
	assert.NotContains(t, shown, "missing")
}

// folder of one set of rows: OMNITEST_OUT has one for each test binary.
func folder(t *testing.T, out, set string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(out, "*", set))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// benchstat shows two results side by side.
func benchstat(t *testing.T, results ...string) string {
	t.Helper()
	args := []string{"run", "golang.org/x/perf/cmd/benchstat"}
	for i, text := range results {
		file := filepath.Join(t.TempDir(), []string{"old.txt", "new.txt"}[i])
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		args = append(args, file)
	}
	shown, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	require.NoError(t, err, string(shown))
	return string(shown)
}
