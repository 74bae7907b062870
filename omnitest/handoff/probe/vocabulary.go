package probe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/api"
)

// leastVocabulary is how many tokens are enough for prompts that differ: 16 give 2^64 beginnings of 16 tokens.
const leastVocabulary = 16

// seeds are what Vocabulary lets a model go on from.
var seeds = []string{"The lighthouse", "Where is the train", "一张海报", "Nine ships and", "def main(", "1, 2, 3,"}

// Vocabulary finds token ids that a model takes, without knowing its tokenizer: those that it generates itself. Tokens that are parts
// of characters are left out, because vLLM 0.32 puts text of the prompt into the answer when a prompt ends inside a character.
// It sends 6 requests of 64 tokens; the engine must understand return_token_ids.
func Vocabulary(ctx context.Context, c *api.Client) ([]int, error) {
	var ids []int
	for _, seed := range seeds {
		text, err := c.Complete(ctx, api.CompletionRequest{
			Prompt: seed, Sampling: api.Sampling{MaxTokens: 64, IgnoreEOS: true, TokenIDs: true, Logprobs: 1},
		})
		if err != nil {
			return nil, fmt.Errorf("vocabulary: %w", err)
		}
		if len(text.Choices) == 0 || len(text.Choices[0].TokenIDs) == 0 {
			return nil, errors.New("vocabulary: the answer has no token ids: an engine that does not know return_token_ids? Give prompts of your own")
		}
		choice := text.Choices[0]
		if len(choice.Logprobs) != len(choice.TokenIDs) {
			return nil, fmt.Errorf("vocabulary: %d token ids and %d log probabilities in one answer", len(choice.TokenIDs), len(choice.Logprobs))
		}
		for i, id := range choice.TokenIDs {
			if token := choice.Logprobs[i].Token; token != "" && utf8.ValidString(token) && !strings.ContainsRune(token, utf8.RuneError) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) < leastVocabulary {
		return nil, fmt.Errorf("vocabulary: the model generated only %d different whole tokens in %d: too few for prompts that differ", len(ids), 64*len(seeds))
	}
	return ids, nil
}

// Random makes prompts of n tokens at random, for Options.Prompt.
func Random(ids []int, n int) func() api.CompletionRequest {
	return func() api.CompletionRequest {
		prompt := make([]int, n)
		for i := range prompt {
			prompt[i] = ids[rand.IntN(len(ids))]
		}
		return api.CompletionRequest{PromptIDs: prompt}
	}
}

// Fitting chooses Options.Prompt for an engine: letters where a letter is a token, as the reference stack has it, else tokens of
// the model's own Vocabulary. n is the length in tokens; 0: 192. It sends 1 request, or 7.
func Fitting(ctx context.Context, c *api.Client, n int) (func() api.CompletionRequest, error) {
	if n <= 0 {
		n = 192
	}
	letters := nonce(32)
	t, err := c.Complete(ctx, api.CompletionRequest{Prompt: letters, Sampling: api.Sampling{MaxTokens: 1}})
	if err != nil {
		return nil, fmt.Errorf("prompts: %w", err)
	}
	if t.Usage != nil && t.Usage.PromptTokens == len(letters) {
		return func() api.CompletionRequest { return api.CompletionRequest{Prompt: nonce(n)} }, nil
	}
	ids, err := Vocabulary(ctx, c)
	if err != nil {
		return nil, err
	}
	return Random(ids, n), nil
}
