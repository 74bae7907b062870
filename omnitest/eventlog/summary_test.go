package eventlog_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/eventlog"
	"github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Real streams, read by the client and logged: every profile gives the same summary from the log as from memory.
func TestSameSummaryFromTheLog(t *testing.T) {
	list, _, err := replay.LoadAll(os.DirFS("../../testdata/recordings"), "vllm-0.32.0/single")
	require.NoError(t, err)
	var samples []metrics.Sample
	for _, e := range list {
		if !e.Streamed() {
			continue
		}
		s, err := replay.Serve(replay.Options{Any: true}, e)
		require.NoError(t, err)
		c := &api.Client{BaseURL: s.URL, Timeout: time.Minute, Lean: len(samples)%2 == 0}
		if e.Path == "/v1/chat/completions" {
			samples = append(samples, metrics.FromText(c.StreamChat(t.Context(), api.ChatRequest{}, nil)))
		} else {
			samples = append(samples, metrics.FromText(c.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "x"}, nil)))
		}
		s.Close()
	}
	require.Greater(t, len(samples), 8)
	for i := range samples {
		samples[i].Due = samples[i].Start.Add(-time.Duration(i) * time.Millisecond)
	}
	rows, err := eventlog.ReadAll(bytes.NewReader(write(t, "conc=1", samples...)))
	require.NoError(t, err)
	for _, p := range []metrics.Profile{metrics.VLLM, metrics.VLLMOmni} {
		want := metrics.Summarize(p, samples, time.Minute)
		got := metrics.Summarize(p, rows["conc=1"], time.Minute)
		assert.Empty(t, cmp.Diff(want, got), p.Name)
		changed := rows["conc=1"][0]
		changed.Exchange.Events = changed.Exchange.Events[:1]
		assert.NotEmpty(t, cmp.Diff(want, metrics.Summarize(p, append([]metrics.Sample{changed}, rows["conc=1"][1:]...), time.Minute)), "%s: a log that lost events is seen", p.Name)
	}
}
