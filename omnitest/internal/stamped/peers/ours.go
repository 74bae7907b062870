package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// oursArg makes this program the client, in a process of its own as the others are.
const oursArg = "omnitest-client"

// job is what that process is told.
type job struct {
	URL  string
	Plan plan
}

func oursArgv(b *bench, p plan) []string {
	exe, err := os.Executable()
	if err != nil {
		return []string{"false"}
	}
	text, _ := json.Marshal(job{b.server.URL, p})
	return []string{exe, oursArg, string(text)}
}

func oursRead(_ *bench, _ plan, stdout string) (r reported, err error) {
	return r, json.Unmarshal([]byte(stdout), &r)
}

// ours is omnitest's client as a user has it: load.Plan, api.Client, metrics.VLLM. Connections are opened before the clock starts.
func ours(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	ctx := context.Background()
	client := &api.Client{BaseURL: j.URL, Model: model, Lean: true}
	plan := load.Plan{Concurrency: j.Plan.Concurrency, Requests: j.Plan.Requests, Seed: 1}
	ready := j.Plan.Concurrency
	if j.Plan.Rate > 0 {
		plan.Arrivals = load.Poisson{Rate: j.Plan.Rate}
		ready = int(2 * j.Plan.Rate * (ttft + tokens*interval).Seconds()) // twice the mean in flight
	}
	if _, err := client.Connect(ctx, ready); err != nil {
		return err
	}
	release := load.HoldGC(0)
	defer release()
	answers, result, err := load.Collect(ctx, plan, func(ctx context.Context, i int) (*api.Text, error) {
		ids := make([]int, prompt)
		for k := range ids {
			ids[k] = 10 + (i*prompt+k)%400
		}
		return client.StreamComplete(ctx, api.CompletionRequest{PromptIDs: ids, Sampling: api.Sampling{MaxTokens: tokens, IgnoreEOS: true}}, nil)
	})
	if err != nil {
		return err
	}
	samples := make([]metrics.Sample, len(answers))
	late := make([]float64, len(answers))
	for i, a := range answers {
		samples[i] = metrics.FromText(a, result.Calls[i].Err)
		late[i] = float64(result.Calls[i].Late()) / 1e6
	}
	slices.Sort(late)
	s := metrics.Options{Percentiles: []float64{99}}.Summarize(metrics.VLLM, samples, result.Wall)
	if s.Failed > 0 {
		return fmt.Errorf("%d requests failed: %v", s.Failed, s.Failures)
	}
	r := reported{OK: s.OK, Peak: result.Peak, Dispatch50: metrics.Percentile(late, 50), Dispatch99: metrics.Percentile(late, 99)}
	r.TTFT50, _ = s.TTFT.Median.Get()
	r.ITL50, _ = s.ITL.Median.Get()
	r.Rate, _ = s.RequestRate.Get()
	var ok bool
	if r.TTFT99, ok = s.TTFT.P99.Get(); !ok {
		r.TTFT99, _ = s.TTFT.Max.Get() // refused for so few requests
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
