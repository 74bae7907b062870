package report_test

import (
	"context"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// One point of a benchmark: send the load, sum it up, keep it as a row. A real operation calls api.Client.StreamComplete
// instead of answer, and a hw.Meter started before and stopped after gives Row.Hardware.
func Example() {
	answer := func(context.Context) (*api.Text, error) {
		return &api.Text{
			Usage: &api.Usage{PromptTokens: 512, CompletionTokens: 3},
			Exchange: api.Exchange{Status: 200, Events: []api.Event{
				{At: 120 * time.Millisecond, Text: "a"}, {At: 140 * time.Millisecond, Text: "b"}, {At: 160 * time.Millisecond, Text: "c"},
			}},
		}, nil
	}

	plan := load.Plan{Concurrency: 2, Requests: 8, Warmup: 2}
	samples, run, err := load.Collect(context.Background(), plan, func(ctx context.Context, i int) (metrics.Sample, error) {
		text, err := answer(ctx)
		return metrics.FromText(text, err), err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	row := report.Row{
		Name: "conc=2", Mode: report.Online, Concurrency: 2, Requests: 8, PeakInFlight: run.Peak, MeanInFlight: run.MeanInFlight,
		Summary: metrics.Summarize(metrics.VLLM, samples, 4*time.Second), // run.Wall; fixed here for the sake of the output
	}
	fmt.Println(row.Summary.TTFT)
	for _, m := range report.Metrics(row) { // b.ReportMetric(m.Value, m.Unit)
		fmt.Printf("%.4g %s\n", m.Value, m.Unit)
	}
	// Output:
	// mean 120 ms, median 120, max 120 (n 8)
	// 1.2e+08 mean-ttft-ns
	// 1.2e+08 p50-ttft-ns
	// 2e+07 mean-tpot-ns
	// 2e+07 p50-tpot-ns
	// 2e+07 mean-itl-ns
	// 2e+07 p50-itl-ns
	// 1.6e+08 mean-e2el-ns
	// 1.6e+08 p50-e2el-ns
	// 2 req/s
	// 6 tok/s
	// 0 err-frac
}
