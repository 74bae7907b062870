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
	assert.Contains(t, out, "a file of vllm bench serve\n\n| in the file")
	assert.Contains(t, out, "| request_goodput ")

	bad := filepath.Join(dir, "bad.json")
	require.NoError(t, os.WriteFile(bad, []byte(`{"a":1}`), 0o600))
	status, _, errs = command(t, nil, "report", bad)
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, `schema "", want "omnitest.result/v1"`)
	assert.Contains(t, errs, "no file of vllm bench serve (completed, mean_ttft_ms), aiperf (aiperf_version, request_latency) or guidellm (metadata, benchmarks)")
	status, _, errs = command(t, nil, "report", filepath.Join(dir, "none.json"))
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, "no such file")
}
