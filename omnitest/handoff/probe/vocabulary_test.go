package probe

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// model is an engine whose tokens are words: it goes on counting from the seed's length, and each fifth token is part of a character.
func model(t *testing.T, words int, ids bool) *api.Client {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		choice := map[string]any{"index": 0, "text": "", "finish_reason": "length"}
		var tokens []string
		var numbers []int
		var probs []float64
		for i := range 64 {
			n := (asked*64 + i) % words
			token := fmt.Sprintf(" word%d", n)
			if n%5 == 0 {
				token = "\uFFFD"
			}
			tokens, numbers, probs = append(tokens, token), append(numbers, n), append(probs, -1)
			choice["text"] = choice["text"].(string) + token
		}
		asked++
		if ids {
			choice["token_ids"] = numbers
		}
		choice["logprobs"] = map[string]any{"tokens": tokens, "token_logprobs": probs, "top_logprobs": []any{}, "text_offset": []int{}}
		w.Header().Set("Content-Type", "application/json")
		assert.NoError(t, json.NewEncoder(w).Encode(map[string]any{"id": "c", "object": "text_completion", "model": "m", "choices": []any{choice},
			"usage": map[string]any{"prompt_tokens": 9, "completion_tokens": 64}}))
	}))
	t.Cleanup(srv.Close)
	return &api.Client{BaseURL: srv.URL}
}

func TestVocabulary(t *testing.T) {
	t.Parallel()
	ids, err := Vocabulary(t.Context(), model(t, 100, true))
	require.NoError(t, err)
	assert.Len(t, ids, 80)
	assert.NotContains(t, ids, 5, "a part of a character")
	p, q := Random(ids, 64)(), Random(ids, 64)()
	assert.Len(t, p.PromptIDs, 64)
	assert.NotEqual(t, p.PromptIDs, q.PromptIDs)

	_, err = Vocabulary(t.Context(), model(t, 10, true))
	assert.EqualError(t, err, "vocabulary: the model generated only 8 different whole tokens in 384: too few for prompts that differ")
	_, err = Vocabulary(t.Context(), model(t, 100, false))
	assert.ErrorContains(t, err, "vocabulary: the answer has no token ids")
	_, err = Vocabulary(t.Context(), &api.Client{BaseURL: "http://127.0.0.1:1"})
	assert.ErrorContains(t, err, "vocabulary: POST http://127.0.0.1:1/v1/completions: ")
}

func TestFitting(t *testing.T) {
	t.Parallel()
	prompt, err := Fitting(t.Context(), model(t, 100, true), 40)
	require.NoError(t, err)
	assert.Len(t, prompt().PromptIDs, 40)
	_, err = Fitting(t.Context(), &api.Client{BaseURL: "http://127.0.0.1:1"}, 0)
	assert.ErrorContains(t, err, "prompts: ")
}
