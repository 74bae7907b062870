package metrics

import (
	"context"
	"fmt"
)

// Tokenizer counts the tokens of a text as the model does, without special tokens: a server's /tokenize, mostly.
type Tokenizer interface {
	CountTokens(ctx context.Context, text string) (int, error)
}

// Retokenize has the texts of successes counted for which the server told no tokens: no usage at all, or none above 0, or
// usage only on a chunk with choices, where vLLM passes it over. What is told already is not asked for. The first error ends it, with
// the samples before it counted. Ask after the run: a request for each answer beside the load would be part of the load.
func Retokenize(ctx context.Context, t Tokenizer, samples []Sample) error {
	for i := range samples {
		s := &samples[i]
		if s.Retokenized.OK() || s.refused() != nil || len(s.Exchange.Events) == 0 || isSound(s.Exchange.Events) {
			continue
		}
		f, err := VLLM.measure(s)
		if err != nil {
			continue
		}
		if n, ok := f.OutputTokens.Get(); ok && n > 0 {
			continue
		}
		n, err := t.CountTokens(ctx, s.Text())
		if err != nil {
			return fmt.Errorf("metrics: tokens of answer %d of %d: %w", i+1, len(samples), err)
		}
		s.Retokenized = Of(float64(n))
	}
	return nil
}

// TokensAgree is nil if the client and the server counted the same tokens over the same time, exactly: client is a
// summary's total, server the change of vllm:generation_tokens_total (or vllm:prompt_tokens_total). They part when answers were
// lost, cancelled requests went on generating, or somebody else used the server.
func TokensAgree(what string, client Value, server float64) error {
	c, ok := client.Get()
	switch {
	case !ok:
		return fmt.Errorf("metrics: %s tokens: the client has no count: %s", what, client.Reason())
	case c < server:
		return fmt.Errorf("metrics: %s tokens: the client counted %.0f, the server %.0f: %.0f more, for answers that the client did not get or somebody else's", what, c, server, server-c)
	case c > server:
		return fmt.Errorf("metrics: %s tokens: the client counted %.0f, the server %.0f: %.0f fewer", what, c, server, c-server)
	}
	return nil
}
