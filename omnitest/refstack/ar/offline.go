package ar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Prompt is one in-process request (no HTTP): the offline entry.
type Prompt struct {
	Text      string
	MaxTokens int // 0: 16, as over HTTP
}

// Output is what a Prompt gave.
type Output struct {
	Text                           string
	FinishReason                   string
	PromptTokens, CompletionTokens int
	FirstToken, End                time.Duration // since the batch was submitted
}

// Generate runs a batch in process, continuous batching and KV cache included. Run must be going. Outputs are in the
// order of the batch. It is greedy and has no tickets.
func (s *Server) Generate(ctx context.Context, batch []Prompt) ([]Output, error) {
	var rs []*request
	out := newOutbox()
	for i, p := range batch {
		if p.Text == "" {
			return nil, fmt.Errorf("ar: prompt %d of the batch is empty", i)
		}
		left := s.config.MaxModelLen - len(p.Text)
		if left < 1 {
			return nil, fmt.Errorf("ar: prompt %d of the batch has %d tokens, max model len is %d", i, len(p.Text), s.config.MaxModelLen)
		}
		limit := p.MaxTokens
		if limit == 0 {
			limit = 16
		}
		rs = append(rs, &request{id: fmt.Sprintf("%d-%s", i, randomHex(8)), index: i, prompt: len(p.Text), tokens: encode(p.Text), out: out,
			sampling: sampling{maxTokens: min(limit, left), logprobs: -1, n: 1}})
	}
	began := time.Now()
	if !s.enqueue(rs) {
		return nil, errors.New("ar: the engine has ended")
	}
	defer s.abandon(rs)
	outputs, texts := make([]Output, len(rs)), make([]strings.Builder, len(rs))
	err := gather(ctx, out, len(rs), func(e event) error {
		o := &outputs[e.index]
		o.End = time.Since(began)
		if o.CompletionTokens++; o.CompletionTokens == 1 {
			o.PromptTokens, o.FirstToken = rs[e.index].prompt, o.End
		}
		texts[e.index].WriteString(e.text)
		o.FinishReason = e.finish
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ar: batch of %d: %w", len(batch), err)
	}
	for i := range outputs {
		outputs[i].Text = texts[i].String()
	}
	return outputs, nil
}
