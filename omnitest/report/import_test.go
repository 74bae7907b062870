package report_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

func recording(name string) string {
	return filepath.Join("..", "..", "testdata", "recordings", "vllm-0.32.0", "bench", name)
}

func number(t *testing.T, v metrics.Value) float64 {
	t.Helper()
	f, ok := v.Get()
	require.True(t, ok, v.Reason())
	return f
}

// Files of real runs of `vllm bench serve` 0.32: what they say comes back, computed again from their details, and is written
// again under the same keys.
func TestImportVLLM(t *testing.T) {
	for _, name := range []string{"a-in64-out16-rate4.json", "c-in64-out16-inf-conc2.json", "d-in128-out32-inf.json", "g-chat-in64-out16-conc4.json"} {
		raw, err := os.ReadFile(recording(name))
		require.NoError(t, err)
		var file map[string]any
		require.NoError(t, json.Unmarshal(raw, &file))
		r, mapping, err := report.Import(recording(name))
		require.NoError(t, err)
		require.Len(t, r.Rows, 1)
		row := r.Rows[0]
		assert.Equal(t, 30, row.Summary.OK)
		assert.Len(t, row.Curves, 4)
		assert.Equal(t, "30 requests, p99 needs 368; see max", row.Summary.TTFT.P99.Reason())
		assert.Equal(t, metrics.ClientUnknown, row.Client.Verdict)
		_, err = report.Write(t.TempDir(), r)
		require.NoError(t, err)

		keys, err := report.VLLMJSON(r, row)
		require.NoError(t, err)
		same := 0
		for key, want := range file {
			got, there := keys[key]
			if w, isNumber := want.(float64); isNumber && there && got != nil && key != "max_concurrent_requests" { // 0.32 counted it by seconds
				assert.InDelta(t, w, toFloat(got), 1e-9*w, "%s: %s", name, key)
				same++
			}
		}
		assert.GreaterOrEqual(t, same, 27, name)
		for _, m := range mapping {
			assert.NotEmpty(t, m.Theirs)
		}
	}
	r, _, err := report.Import(recording("a-in64-out16-rate4.json"))
	require.NoError(t, err)
	assert.Equal(t, report.Load{Arrivals: "vllm", Rate: 4, Burstiness: 1}, r.Rows[0].Load)
	assert.Equal(t, "20261124-075810", r.Created.Format("20060102-150405"))
	r, _, err = report.Import(recording("c-in64-out16-inf-conc2.json"))
	require.NoError(t, err)
	assert.Equal(t, 2, r.Rows[0].Concurrency)
	assert.True(t, r.Rows[0].Summary.ClientQueue.Mean.OK(), "queue_times")
}

func toFloat(v any) float64 {
	switch x := v.(type) {
	case int:
		return float64(x)
	case float64:
		return x
	}
	return -1
}

// Without --save-detailed the file's own figures are taken, and percentiles that 30 requests cannot support are refused.
func TestImportVLLMWithoutDetails(t *testing.T) {
	raw, err := os.ReadFile(recording("d-in128-out32-inf.json"))
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal(raw, &file))
	for _, key := range []string{"input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times", "generated_texts", "errors", "failed"} {
		delete(file, key)
	}
	file["num_prompts"] = 32
	path := filepath.Join(t.TempDir(), "short.json")
	require.NoError(t, report.WriteJSON(path, file))
	r, _, err := report.Import(path)
	require.NoError(t, err)
	s := r.Rows[0].Summary
	assert.Equal(t, []int{32, 30, 2}, []int{s.Requests, s.OK, s.Failed}, "an older file does not count the failures")
	assert.Equal(t, file["mean_ttft_ms"], number(t, s.TTFT.Mean))
	assert.Equal(t, "30 requests, p99 needs 368; the file says 351.1", s.TTFT.P99.Reason())
	assert.Equal(t, "the file has no p90", s.TTFT.P90.Reason())
	assert.Equal(t, "short", r.Rows[0].Name)
	assert.Equal(t, file["output_throughput"], number(t, s.OutputTokenRate))
}

// Fields as aiperf 0.13 writes them (JsonExportData, schema 1.4): nanoseconds or milliseconds, its ITL is our TPOT.
func TestImportAIPerf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profile_export_aiperf.json")
	require.NoError(t, os.WriteFile(path, []byte(`{"schema_version":"1.4","aiperf_version":"0.13.0","start_time":"2026-11-29T10:00:00.5",
		"request_count":{"unit":"requests","avg":100},"error_request_count":{"unit":"requests","avg":3},
		"time_to_first_token":{"unit":"ms","avg":52.5,"p50":51,"p90":60,"p95":70,"p99":80,"min":50,"max":99,"std":4,"count":100},
		"inter_token_latency":{"unit":"ns","avg":20000000,"p50":19000000,"min":1,"max":2,"std":3,"count":98},
		"inter_chunk_latency":{"unit":"ms","avg":21,"p50":20,"min":1,"max":40,"std":3,"count":6300},
		"request_latency":{"unit":"ms","avg":1300,"p50":1290,"min":1200,"max":1500,"std":30,"count":100},
		"request_throughput":{"unit":"requests/sec","avg":8},"output_token_throughput":{"unit":"tokens/sec","avg":512},
		"total_isl":{"unit":"tokens","avg":6400},"total_osl":{"unit":"tokens","avg":6300},"benchmark_duration":{"unit":"sec","avg":12.5},
		"run_info":{"random_seed":42},"is_complete":false,"incomplete_reason":"stalled",
		"error_summary":[{"error_details":{"type":"HTTPError","message":"503"},"count":3}]}`), 0o600))
	r, mapping, err := report.Import(path)
	require.NoError(t, err)
	row := r.Rows[0]
	s := row.Summary
	assert.Equal(t, "aiperf", s.Profile)
	assert.Equal(t, []int{103, 100, 3}, []int{s.Requests, s.OK, s.Failed})
	assert.Equal(t, 52.5, number(t, s.TTFT.Mean))
	assert.Equal(t, 20.0, number(t, s.TPOT.Mean), "aiperf's inter_token_latency")
	assert.Equal(t, 98, s.TPOT.N)
	assert.Equal(t, 21.0, number(t, s.ITL.Mean), "aiperf's inter_chunk_latency")
	assert.Equal(t, 60.0, number(t, s.TTFT.P90))
	assert.Equal(t, 70.0, number(t, s.TTFT.P95))
	assert.Equal(t, "100 requests, p99 needs 368; the file says 80", s.TTFT.P99.Reason())
	assert.Equal(t, []float64{8, 512, 12.5}, []float64{number(t, s.RequestRate), number(t, s.OutputTokenRate), s.WallS})
	assert.Equal(t, "not in the file", s.TotalTokenRate.Reason())
	assert.Equal(t, int64(42), row.Load.Seed)
	assert.Equal(t, []string{"3x HTTPError, 503"}, s.Failures)
	assert.Equal(t, []string{"aiperf marks its run as incomplete: stalled"}, row.Errors)
	assert.Equal(t, report.Provenance{Tool: "aiperf", Version: "0.13.0"}, r.Provenance)
	text := report.MappingText(mapping)
	assert.Contains(t, text, "| inter_token_latency ")
	assert.Regexp(t, `\| goodput +\| no counterpart +\|`, text)
	_, err = report.VLLMJSON(r, row)
	require.EqualError(t, err, `report: row "profile_export_aiperf" has profile "aiperf", and vLLM's keys need "vllm"`)
	_, err = report.Write(t.TempDir(), r)
	require.NoError(t, err)
}

// Fields as guidellm 0.8 writes them: its ITL is our TPOT, its TPOT has no counterpart.
func TestImportGuideLLM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.json")
	dist := func(v string) string {
		return `{"successful":{"mean":` + v + `,"median":` + v + `,"std_dev":0,"min":` + v + `,"max":` + v + `,"count":40,"total_sum":1280,"percentiles":{"p90":` + v + `,"p95":` + v + `,"p99":` + v + `}}}`
	}
	require.NoError(t, os.WriteFile(path, []byte(`{"metadata":{"version":2,"guidellm_version":"0.8.1"},"benchmarks":[{"config":{"strategy":{"type_":"concurrent","streams":4}},
		"scheduler_metrics":{"measure_start_time":1790000000,"measure_end_time":1790000010,"strategy_type":"concurrent"},
		"metrics":{"request_totals":{"successful":40,"errored":2,"incomplete":1,"total":43},"requests_per_second":`+dist("4")+`,"request_concurrency":`+dist("3.9")+`,"request_latency":`+dist("0.98")+`,
			"time_to_first_token_ms":`+dist("55")+`,"time_per_output_token_ms":`+dist("30")+`,"inter_token_latency_ms":`+dist("20")+`,"prompt_token_count":`+dist("32")+`,"output_token_count":`+dist("32")+`,
			"output_tokens_per_second":`+dist("128")+`,"tokens_per_second":`+dist("256")+`}},
		{"config":{"strategy":{"type_":"poisson","rate":2.5,"random_seed":7}},"scheduler_metrics":{"measure_start_time":1,"measure_end_time":2,"strategy_type":"poisson"},"metrics":{"request_totals":{"successful":0,"errored":3}}}]}`), 0o600))
	r, _, err := report.Import(path)
	require.NoError(t, err)
	require.Len(t, r.Rows, 2)
	row := r.Rows[0]
	s := row.Summary
	assert.Equal(t, "concurrent 4", row.Name)
	assert.Equal(t, 4, row.Concurrency)
	assert.Equal(t, []int{42, 40, 2}, []int{s.Requests, s.OK, s.Failed})
	assert.Equal(t, []float64{55, 20, 980}, []float64{number(t, s.TTFT.Mean), number(t, s.TPOT.Mean), number(t, s.E2EL.Mean)})
	assert.Equal(t, "guidellm keeps no gaps between single chunks", s.ITL.Mean.Reason())
	assert.Equal(t, "40 requests, p95 needs 72; the file says 55", s.TTFT.P95.Reason())
	assert.Equal(t, 1280.0, number(t, s.OutputTokens))
	assert.Equal(t, []string{"1 request cut off by the end of the run, in no figure"}, row.Errors)
	assert.Equal(t, report.Load{Arrivals: "poisson", Rate: 2.5, Seed: 7}, r.Rows[1].Load)
	assert.Equal(t, "no request succeeded", r.Rows[1].Summary.TTFT.Mean.Reason())
	_, err = report.Write(t.TempDir(), r)
	require.NoError(t, err)
}

// Files that the tools themselves wrote beside a server whose truth is known (make peers): each is read, and what it says of
// itself comes back under the name that the mapping gives it.
func TestImportFilesOfOtherTools(t *testing.T) {
	read := 0
	for name, check := range map[string]func(t *testing.T, file map[string]any, row report.Row){
		"vllm/result.json": func(t *testing.T, file map[string]any, row report.Row) {
			assert.InEpsilon(t, file["mean_ttft_ms"], number(t, row.Summary.TTFT.Mean), 1e-9)
			assert.InEpsilon(t, file["mean_e2el_ms"], number(t, row.Summary.E2EL.Mean), 1e-9)
		},
		"aiperf/profile_export_aiperf.json": func(t *testing.T, file map[string]any, row report.Row) {
			avg := func(key string) any { return file[key].(map[string]any)["avg"] }
			assert.Equal(t, avg("time_to_first_token"), number(t, row.Summary.TTFT.Mean))
			assert.Equal(t, avg("inter_token_latency"), number(t, row.Summary.TPOT.Mean))
			assert.Equal(t, avg("inter_chunk_latency"), number(t, row.Summary.ITL.Mean))
			assert.Equal(t, avg("request_throughput"), number(t, row.Summary.RequestRate))
			assert.Equal(t, avg("request_count"), float64(row.Summary.OK))
		},
		"guidellm/result.json": func(t *testing.T, file map[string]any, row report.Row) {
			m := file["benchmarks"].([]any)[0].(map[string]any)["metrics"].(map[string]any)
			mean := func(key string) any { return m[key].(map[string]any)["successful"].(map[string]any)["mean"] }
			assert.Equal(t, mean("time_to_first_token_ms"), number(t, row.Summary.TTFT.Mean))
			assert.Equal(t, mean("inter_token_latency_ms"), number(t, row.Summary.TPOT.Mean))
			assert.Equal(t, mean("requests_per_second"), number(t, row.Summary.RequestRate))
		},
	} {
		path := filepath.Join("..", "..", "testdata", "peers", filepath.FromSlash(name))
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			t.Logf("%s is not stored; make peers writes it", name)
			continue
		}
		require.NoError(t, err)
		var file map[string]any
		require.NoError(t, json.Unmarshal(raw, &file))
		r, _, err := report.Import(path)
		require.NoError(t, err)
		check(t, file, r.Rows[0])
		assert.Less(t, number(t, r.Rows[0].Summary.TTFT.Mean), number(t, r.Rows[0].Summary.E2EL.Mean), name)
		_, err = report.Write(t.TempDir(), r)
		require.NoError(t, err)
		read++
	}
	if read == 0 {
		t.Skip("no file of another tool is stored: make peers")
	}
}

func TestImportRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                               "is no result file: json: cannot unmarshal array",
		`{"schema":"x"}`:                   "is a document of omnitest, if any: read it with Read",
		`{"completed":1}`:                  "no document of omnitest (schema) and no file of vllm bench serve (completed, mean_ttft_ms), aiperf (aiperf_version, request_latency) or guidellm (metadata, benchmarks)",
		`{"completed":1,"mean_ttft_ms":1}`: "no duration: rates cannot be checked",
		`{"completed":2,"mean_ttft_ms":1,"duration":1,"num_prompts":1}`:                                            "2 of 1 prompts completed",
		`{"completed":2,"mean_ttft_ms":1,"duration":1,"ttfts":[1,2],"itls":[[]]}`:                                  "details of different lengths: 2 ttfts, 1 itls, 0 output_lens, 0 input_lens",
		`{"completed":2,"mean_ttft_ms":1,"duration":1,"ttfts":[1],"itls":[[]],"input_lens":[1],"output_lens":[1]}`: "2 requests completed, the details have 1",
		`{"request_latency":{},"request_throughput":{},"aiperf_version":"0.13.0"}`:                                 "no benchmark_duration: rates cannot be checked",
		`{"metadata":{},"benchmarks":[]}`:                                                                          "no benchmark in the file",
		`{"metadata":{},"benchmarks":[{}]}`:                                                                        "benchmark 1: no measuring window: rates cannot be checked",
	} {
		path := filepath.Join(t.TempDir(), "x.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, _, err := report.Import(path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
	_, _, err := report.Import(filepath.Join(t.TempDir(), "none.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
