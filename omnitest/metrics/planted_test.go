package metrics_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// A server with planted latencies, the real client and the closed loop in front of it: what comes out is what was planted.
// No figure can be below what the server waited; none may be above what the caller saw at the arrival of the same event.
// Both bounds hold on a busy machine too.
func TestPlantedLatenciesComeOut(t *testing.T) {
	const (
		ttft, gap = 60 * time.Millisecond, 15 * time.Millisecond
		tokens    = 8
		n, conc   = 12, 3
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Request-Id") == "bad" {
			http.Error(w, `{"error":{"message":"KV pool is full","type":"Unavailable","code":503}}`, http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		say := func(format string, args ...any) {
			fmt.Fprintf(w, "data: "+format+"\n\n", args...)
			w.(http.Flusher).Flush()
		}
		time.Sleep(ttft)
		for i := range tokens {
			if i > 0 {
				time.Sleep(gap)
			}
			finish := "null"
			if i == tokens-1 {
				finish = `"stop"`
			}
			say(`{"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"index":0,"text":"y","finish_reason":%s}]}`, finish)
		}
		time.Sleep(100 * time.Millisecond) // the usage message must extend neither E2EL nor TPOT
		say(`{"id":"cmpl-1","object":"text_completion","model":"m","choices":[],"usage":{"prompt_tokens":64,"completion_tokens":%d,"total_tokens":%d}}`, tokens, 64+tokens)
		say(`[DONE]`)
	}))
	defer server.Close()
	client := &api.Client{BaseURL: server.URL, Model: "m"}

	var first, last [n]time.Duration // when the caller had each measured call's first and last token in hand
	samples, run, err := load.Collect(t.Context(), load.Plan{Concurrency: conc, Requests: n, Warmup: 1, Limit: time.Minute},
		func(ctx context.Context, i int) (metrics.Sample, error) {
			r := api.CompletionRequest{Prompt: "a", Sampling: api.Sampling{MaxTokens: tokens}}
			if i == n-1 {
				r.RequestID = "bad"
			}
			began := time.Now()
			text, err := client.StreamComplete(ctx, r, func(e api.Event) error {
				if e.Text != "" && i >= 0 {
					last[i] = time.Since(began)
					if first[i] == 0 {
						first[i] = last[i]
					}
				}
				return nil
			})
			return metrics.FromText(text, err), err
		})
	require.NoError(t, err)
	require.NoError(t, run.WarmupErr)
	assert.Equal(t, load.Counts{Sent: n, OK: n - 1, Failed: 1}, run.Counts)
	sum := metrics.Summarize(metrics.VLLM, samples, run.Wall)
	require.Equal(t, n-1, sum.OK, "%v", sum.Failures)
	require.Len(t, sum.Failures, 1)
	assert.Contains(t, sum.Failures[0], "KV pool is full")

	for i := range n - 1 {
		f, err := metrics.VLLM.Measure(&samples[i])
		require.NoError(t, err)
		between := func(name string, v metrics.Value, low, high time.Duration) {
			t.Helper()
			assert.GreaterOrEqual(t, get(t, v), float64(low)/1e6, name)
			assert.LessOrEqual(t, get(t, v), float64(high)/1e6, name)
		}
		between("TTFT", f.TTFT, ttft, first[i])
		between("E2EL", f.E2EL, ttft+(tokens-1)*gap, last[i])
		assert.InDelta(t, (get(t, f.E2EL)-get(t, f.TTFT))/(tokens-1), get(t, f.TPOT), 1e-9)
	}
	// The usage message came 100 ms later: the bound above is one that its time would break.
	assert.Greater(t, samples[0].Exchange.End, last[0]+50*time.Millisecond)
	assert.Equal(t, (n-1)*(tokens-1), sum.ITL.N)
	assert.Equal(t, float64((n-1)*tokens), get(t, sum.OutputTokens))
	assert.InEpsilon(t, float64((n-1)*tokens)/run.Wall.Seconds(), get(t, sum.OutputTokenRate), 1e-9)
	assert.Equal(t, conc, run.Peak)
}
