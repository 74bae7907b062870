package load_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/omnitest/suite/omnitest/load"
)

// TestLoadOverARecordedStream: 20 requests over real vLLM's own stream, at a tenth of its pauses. Every call is counted, and
// every stream comes out the same.
func TestLoadOverARecordedStream(t *testing.T) {
	recordings := os.DirFS("../../testdata/recordings/vllm-0.32.0")
	good, err := replay.Load(recordings, "nixl/01-proper/d.json")
	require.NoError(t, err)
	bad, err := replay.Load(recordings, "nixl/26-wrong-engine-id/d.json") // a 200 with an error event
	require.NoError(t, err)

	run := func(mix ...replay.Exchange) ([]*api.Text, load.Result, *replay.Server) {
		s, err := replay.Serve(replay.Options{Any: true, Scale: 0.1}, mix...)
		require.NoError(t, err)
		t.Cleanup(s.Close)
		c := &api.Client{BaseURL: s.URL, Timeout: time.Minute}
		texts, result, err := load.Collect(t.Context(), load.Plan{Concurrency: 4, Requests: 20}, func(ctx context.Context, _ int) (*api.Text, error) {
			return c.StreamComplete(ctx, api.CompletionRequest{Prompt: "x"}, nil)
		})
		require.NoError(t, err)
		return texts, result, s
	}

	texts, result, s := run(good)
	assert.Equal(t, load.Counts{Sent: 20, OK: 20}, result.Counts)
	assert.Len(t, s.Requests(), 20)
	tokens := 0
	for _, text := range texts {
		require.NotNil(t, text.Usage)
		tokens += text.Usage.CompletionTokens
		assert.Equal(t, 18, len(text.Events), "16 tokens, usage, [DONE]")
		assert.Equal(t, texts[0].String(), text.String())
		assert.GreaterOrEqual(t, text.End, good.Chunks[len(good.Chunks)-1].At/10)
	}
	assert.Equal(t, 20*16, tokens)

	// Every fourth answer is an error inside a 200: five failures, none of them counted as a success.
	_, result, _ = run(good, good, good, bad)
	assert.Equal(t, load.Counts{Sent: 20, OK: 15, Failed: 5}, result.Counts)
	for _, call := range result.Calls {
		var e *api.Error
		if errors.As(call.Err, &e) {
			assert.Equal(t, api.InBand, e.Kind)
		}
	}
}
