package metrics_test

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
)

// A file of `vllm bench serve`, read as samples and written again: the same keys, and the same numbers to 1e-9.
func TestVLLMJSONIsTheFileThatVLLMWrites(t *testing.T) {
	for _, file := range []string{"a-in64-out16-rate4.json", "c-in64-out16-inf-conc2.json", "d-in128-out32-inf.json", "g-chat-in64-out16-conc4.json"} {
		raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "recordings", "vllm-0.32.0", "bench", file))
		require.NoError(t, err)
		var want map[string]any
		require.NoError(t, json.Unmarshal(raw, &want))
		b := readBench(t, file)
		samples := b.samples(file[0] == 'g')
		for i := range samples {
			samples[i].Start = time.Unix(0, 0).Add(seconds(b.StartTimes[i]))
			samples[i].Queue = seconds(b.QueueTimes[i])
		}
		run := metrics.VLLMRun{Backend: want["backend"].(string), EndpointType: want["endpoint_type"].(string), Model: "tiny", Tokenizer: want["tokenizer_id"].(string), Percentiles: []float64{50, 95, 99}}
		run.Date, err = time.Parse("20060102-150405", want["date"].(string))
		require.NoError(t, err)
		run.RequestRate, _ = want["request_rate"].(float64)
		if conc, ok := want["max_concurrency"].(float64); ok {
			run.MaxConcurrency = int(conc)
		}
		out, err := json.Marshal(metrics.VLLMJSON(metrics.VLLM, samples, seconds(b.Duration), run))
		require.NoError(t, err)
		var got map[string]any
		require.NoError(t, json.Unmarshal(out, &got))
		assert.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)), file)

		// vLLM's clock began somewhere else, its texts were not played, and 0.32 counted concurrency by seconds.
		for _, key := range []string{"start_times", "generated_texts", "max_concurrent_requests"} {
			delete(want, key)
		}
		for key, w := range want {
			assert.True(t, near(w, got[key]), "%s: %s is %v, want %v", file, key, got[key], w)
		}
		first := slices.Min(b.StartTimes)
		for i, s := range got["start_times"].([]any) {
			assert.InDelta(t, b.StartTimes[i]-first, s, 1e-9)
		}
	}
}

func near(want, got any) bool {
	switch w := want.(type) {
	case float64:
		g, ok := got.(float64)
		return ok && math.Abs(w-g) <= 1e-9*max(1, math.Abs(w))
	case []any:
		g, ok := got.([]any)
		return ok && len(w) == len(g) && !slices.ContainsFunc(seq(len(w)), func(i int) bool { return !near(w[i], g[i]) })
	}
	return want == got
}

func seq(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestVLLMJSONOfFailures(t *testing.T) {
	failed := stream(1, 2, 5, 6)
	failed.Err, failed.PromptTokens = errors.New("reset"), 64
	slos, err := metrics.ParseSLOs("ttft:1")
	require.NoError(t, err)
	run := metrics.VLLMRun{Label: "x", SLOs: slos, RequestRate: math.Inf(1), Metadata: map[string]string{"gpu": "none"}}
	got := metrics.VLLMJSON(metrics.VLLM, []metrics.Sample{failed}, time.Second, run)
	raw, err := json.Marshal(got)
	require.NoError(t, err)
	for _, want := range []string{`"mean_ttft_ms":null`, `"p99_itl_ms":null`, `"completed":0`, `"failed":1`, `"errors":["reset"]`, `"input_lens":[64]`,
		`"output_lens":[0]`, `"ttfts":[0]`, `"itls":[[]]`, `"request_goodput":0`, `"label":"x"`, `"request_rate":"inf"`, `"gpu":"none"`, `"max_concurrency":null`} {
		assert.Contains(t, string(raw), want)
	}
	raw, err = json.Marshal(metrics.VLLMJSON(asTool(metrics.VLLM), nil, time.Second, metrics.VLLMRun{}))
	require.NoError(t, err)
	assert.Contains(t, string(raw), `"mean_ttft_ms":0`, "what vLLM writes of nothing")
	assert.Contains(t, string(raw), `"p99_tpot_ms":0`)
	assert.Contains(t, string(raw), `"request_goodput":null`)
}
