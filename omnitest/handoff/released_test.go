package handoff_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

func TestReadLoad(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := handoff.Source{
		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: f.Prefill.Srv.URL}},
		Decode:  handoff.Endpoint{API: &api.Client{BaseURL: f.Decode.Srv.URL}},
	}
	f.Decode.Add(map[string]float64{"vllm:num_requests_running": 2, "vllm:num_requests_waiting": 1, "vllm:kv_cache_usage_perc": 0.25, fakepd.Bytes: 4096})
	l, err := handoff.ReadLoad(t.Context(), s, "decode")
	require.NoError(t, err)
	assert.Equal(t, handoff.Load{Running: 2, Waiting: 1, Pool: handoff.Pool{Usage: 0.25}, Bytes: 4096}, l)
	l, err = handoff.ReadLoad(t.Context(), s, "prefill")
	require.NoError(t, err)
	assert.Zero(t, l.Running)

	// What is absent is not 0.
	s.Dialect = &handoff.Example
	l, err = handoff.ReadLoad(t.Context(), s, "decode")
	require.NoError(t, err)
	assert.Equal(t, -1.0, l.Bytes, "this connector counts none")
	assert.Equal(t, -1.0, l.Expired)
	f.Decode.Page = func(*fakepd.Engine) (int, string) { return 200, "vllm:num_requests_running 0\n" }
	_, err = handoff.ReadLoad(t.Context(), s, "decode")
	assert.EqualError(t, err, "read load: decode: series absent: vllm:kv_cache_usage_perc")
	f.Decode.Srv.Close()
	_, err = handoff.ReadLoad(t.Context(), s, "decode")
	assert.ErrorContains(t, err, "read load: decode: ")
}

func TestFollow(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := handoff.Source{Entry: &api.Client{BaseURL: f.Proxy.URL}}
	ask := func() {
		_, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: "hello", Sampling: api.Sampling{MaxTokens: 4, RequestID: "mine"}})
		require.NoError(t, err)
	}
	ask()
	w, err := handoff.Follow(t.Context(), s)
	require.NoError(t, err)
	ask()
	seen := w.Read(t.Context())
	require.Len(t, seen.Records, 1, "what was before is not told")
	assert.True(t, seen.Kept)
	assert.Equal(t, "mine", seen.Records[0].RequestID)

	f.NoLedger = true
	w, err = handoff.Follow(t.Context(), s)
	require.NoError(t, err)
	assert.False(t, w.Read(t.Context()).Kept)
	f.Proxy.Close()
	_, err = handoff.Follow(t.Context(), s)
	assert.ErrorContains(t, err, "follow the flow ledger: flow ledger http://")
}
