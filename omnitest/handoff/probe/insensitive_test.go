package probe

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
)

// A model that answers from its last token alone says the same with whatever KV it is handed: a crossed ticket cannot be seen
// there, and a decode that does use its tickets must not be accused. The same experiment on a model that reads its whole
// context, with a decode that ignores tickets, must still refute.
func TestCrossedTicketsOnAnInsensitiveModel(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(ids []int) string // by the prompt alone: this decode never uses a ticket
		state  handoff.State
		says   string
	}{
		{"insensitive", func(ids []int) string {
			return strings.Repeat(fmt.Sprint("token ", ids[len(ids)-1], " follows itself; "), 2) + "end"
		},
			handoff.StateInconclusive, "this model's answer does not tell its context"},
		{"sensitive, tickets ignored", func(ids []int) string { return fmt.Sprint("the context was ", ids[:16], " up to ", ids[len(ids)-1]) },
			handoff.StateRefuted, "was answered as if it had its own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var body struct {
					Prompt []int
					Params struct {
						Remote bool `json:"do_remote_decode"`
					} `json:"kv_transfer_params"`
				}
				assert.NoError(t, json.NewDecoder(r.Body).Decode(&body))
				out := map[string]any{
					"id": "cmpl-x", "object": "text_completion", "model": "m",
					"choices": []any{map[string]any{"index": 0, "text": c.answer(body.Prompt), "finish_reason": "length"}},
					"usage":   map[string]any{"prompt_tokens": len(body.Prompt), "completion_tokens": 8, "total_tokens": len(body.Prompt) + 8},
				}
				if body.Params.Remote {
					out["kv_transfer_params"] = json.RawMessage(`{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2]],` +
						`"remote_engine_id":"p","remote_request_id":"r","remote_host":"h","remote_port":1}`)
				}
				w.Header().Set("Content-Type", "application/json")
				assert.NoError(t, json.NewEncoder(w).Encode(out))
			}))
			defer engine.Close()
			next := 0
			client := &api.Client{BaseURL: engine.URL}
			r, err := CrossedTickets(t.Context(), handoff.Source{Prefill: handoff.Endpoint{API: client}, Decode: handoff.Endpoint{API: client}}, Options{
				Prompt: func() api.CompletionRequest {
					next += 1000
					ids := make([]int, 32)
					for i := range ids {
						ids[i] = next + i
					}
					return api.CompletionRequest{PromptIDs: ids}
				},
			})
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Contains(t, r.Verdict.String(), c.says)
		})
	}
}
