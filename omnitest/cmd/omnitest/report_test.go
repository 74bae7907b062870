package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	testdata := filepath.Join("..", "..", "..", "testdata")
	dir := t.TempDir()
	page := filepath.Join(dir, "page.html")
	status, out, errs := command(t, nil, "report", filepath.Join(testdata, "report", "sweep.json"), "-o", page, "--png", filepath.Join(dir, "png"), "--vllm", filepath.Join(dir, "vllm"), "--table")
	require.Zero(t, status, errs)
	assert.FileExists(t, page)
	assert.FileExists(t, filepath.Join(dir, "png", "throughput-concurrency.png"))
	assert.FileExists(t, filepath.Join(dir, "png", "memory-batch.svg"))
	assert.Contains(t, out, "no chart rss-batch: in 512; in 2560: not measured at batch 1, 2, 4: dit attached by URL\n")
	assert.Contains(t, out, "## online: reference stack (simulated)\n")
	raw, err := os.ReadFile(filepath.Join(dir, "vllm", "07-conc=1-task=text.json"))
	require.NoError(t, err)
	var keys map[string]any
	require.NoError(t, json.Unmarshal(raw, &keys))
	assert.Equal(t, 24.0, keys["completed"])

	foreign := filepath.Join(testdata, "recordings", "vllm-0.32.0", "bench", "c-in64-out16-inf-conc2.json")
	status, out, errs = command(t, nil, "report", foreign, "-o", page)
	require.Zero(t, status, errs)
	assert.Empty(t, errs)
	assert.Contains(t, out, "a file of vllm bench serve\n\n| in the file")
	assert.Contains(t, out, "| request_goodput ")
}

// What cannot be read is said once.
func TestReportRefuses(t *testing.T) {
	dir := t.TempDir()
	bad, newer, none := filepath.Join(dir, "bad.json"), filepath.Join(dir, "newer.json"), filepath.Join(dir, "none.json")
	require.NoError(t, os.WriteFile(bad, []byte(`{"a":1}`), 0o600))
	require.NoError(t, os.WriteFile(newer, []byte(`{"schema":"omnitest.result/v9"}`), 0o600))
	for file, want := range map[string]string{
		bad:   bad + ": no document of omnitest (schema) and no file of vllm bench serve (completed, mean_ttft_ms), aiperf (aiperf_version, request_latency) or guidellm (metadata, benchmarks)",
		newer: newer + `: schema "omnitest.result/v9" was written by a newer version, this one reads up to "omnitest.result/v1"`,
		none:  "open " + none + ": no such file or directory",
		dir:   "open " + filepath.Join(dir, "result.json") + ": no such file or directory",
	} {
		status, _, errs := command(t, nil, "report", file)
		assert.Equal(t, 1, status)
		assert.Equal(t, "omnitest: report: "+want+"\n", errs)
	}
}

// A folder stands for its result.json. A document that was edited into one that report.Write refuses is shown, with a warning.
func TestReportOfAFolder(t *testing.T) {
	dir := t.TempDir()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "testdata", "report", "sweep.json"))
	require.NoError(t, err)
	file, page := filepath.Join(dir, "result.json"), filepath.Join(dir, "report.html")
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	status, out, errs := command(t, nil, "report", dir)
	require.Zero(t, status, errs)
	assert.Equal(t, "page     "+page+"\n", out)
	assert.Empty(t, errs, "nothing is wrong with it")
	require.NoError(t, os.Remove(page))

	var doc map[string]any
	require.NoError(t, json.Unmarshal(raw, &doc))
	doc["target"] = ""
	doc["rows"].([]any)[0].(map[string]any)["requests"] = 1000
	raw, err = json.Marshal(doc)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	status, out, errs = command(t, nil, "report", dir)
	require.Zero(t, status, errs)
	assert.Equal(t, "page     "+page+"\n", out)
	assert.FileExists(t, page)
	assert.Equal(t, "omnitest: warning: "+file+": no target: figures must say what they were measured on\n"+
		"omnitest: warning: "+file+`: row 0 "batch=1/prompt=512": 1000 requests planned, 1 in the summary: some are unaccounted for`+"\n", errs)
}
