package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/omnitest/suite/omnitest/metrics"
)

// VLLMJSON is a row under the keys of `vllm bench serve --save-result`, without the lists of --save-detailed: the document keeps
// summaries. Where the samples are at hand, metrics.VLLMJSON gives those too. What was not measured is null. A row of another
// profile is an error: its figures under vLLM's keys would mean something else.
//
// Two keys are ours: "omnitest_client", the verdict on the client, and "omnitest_target", which says where figures are simulated.
func VLLMJSON(r Result, row Row) (map[string]any, error) {
	s := row.Summary
	if s.Profile != metrics.VLLM.Name {
		return nil, fmt.Errorf("report: row %q has profile %q, and vLLM's keys need %q", row.Name, s.Profile, metrics.VLLM.Name)
	}
	or := func(v metrics.Value) any {
		if x, ok := v.Get(); ok {
			return x
		}
		return nil
	}
	out := map[string]any{
		"date": r.Created.Format("20060102-150405"), "backend": "openai", "endpoint_type": "openai", "label": row.Name, "num_prompts": row.Requests,
		"model_id": r.model(), "tokenizer_id": r.model(), "request_rate": "inf", "burstiness": 1.0, "max_concurrency": nil,
		"duration": s.WallS, "completed": s.OK, "failed": s.Failed, "total_input_tokens": or(s.InputTokens), "total_output_tokens": or(s.OutputTokens),
		"request_throughput": or(s.RequestRate), "request_goodput": or(goodput(row)), "output_throughput": or(s.OutputTokenRate), "total_token_throughput": or(s.TotalTokenRate),
		"max_output_tokens_per_s": or(s.PeakOutputRate), "max_concurrent_requests": or(s.PeakConcurrency),
		"omnitest_client": row.client(), "omnitest_target": r.Heading(),
	}
	if rate := row.Load.Rate; rate > 0 && !math.IsInf(rate, 1) {
		out["request_rate"] = rate
	}
	if row.Load.Burstiness > 0 {
		out["burstiness"] = row.Load.Burstiness
	}
	if row.Concurrency > 0 {
		out["max_concurrency"] = row.Concurrency
	}
	for name, d := range map[string]metrics.Dist{"ttft": s.TTFT, "tpot": s.TPOT, "itl": s.ITL, "e2el": s.E2EL} {
		for key, v := range map[string]metrics.Value{"mean": d.Mean, "median": d.Median, "std": d.Std, "p50": d.Median, "p90": d.P90, "p95": d.P95, "p99": d.P99} {
			out[key+"_"+name+"_ms"] = or(v)
		}
	}
	return out, nil
}

// model is the name of the model that answers: decode's, else prefill's, else any.
func (r Result) model() string {
	for _, role := range append([]string{"decode", "prefill"}, stageOrder(r.Stack.Stages)...) {
		if m := r.Stack.Stages[role].Model; m != "" {
			return m
		}
	}
	return ""
}

// WriteJSON writes keys as a file that is complete or absent: those of VLLMJSON here, or of metrics.VLLMJSON.
func WriteJSON(path string, keys map[string]any) error {
	raw, err := json.Marshal(keys)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = replace(path, append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// Breakdown fills in the row's Stages from a run that was taken apart.
func (r *Row) Breakdown(b metrics.RunBreakdown) {
	r.Stages = nil
	for _, p := range append(b.Parts, b.Residual) {
		r.Stages = append(r.Stages, StageTime{Stage: p.Part, Mean: p.Mean, Share: p.Share})
	}
	for _, m := range b.Missing {
		r.Errors = append(r.Errors, "breakdown: "+m)
	}
}
