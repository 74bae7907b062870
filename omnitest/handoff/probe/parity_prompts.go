package probe

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
)

// logprobsAsked is how many candidates a step is asked for: of two, one may be missing, as vLLM keys them by their text and
// tokens that are parts of characters share one.
const logprobsAsked = 5

// times is how often an experiment repeats itself.
func (p *probe) times(usual int) int {
	if p.Rounds > 0 {
		return p.Rounds
	}
	return usual
}

// sized makes a fresh prompt of n tokens that begins with behind, if that is not nil. Token ids and the default letters are
// cut to measure. A text of the caller's is cut to n bytes, which are n tokens at most: what it really has, usage tells.
func (p *probe) sized(n int, behind *api.CompletionRequest) api.CompletionRequest {
	r := p.Prompt()
	if r.PromptIDs != nil {
		ids := r.PromptIDs
		if behind != nil {
			ids = append(append([]int{}, behind.PromptIDs...), ids...)
		}
		for len(ids) < n {
			more := p.Prompt().PromptIDs
			if len(more) == 0 {
				break
			}
			ids = append(append([]int{}, ids...), more...)
		}
		r.PromptIDs = ids[:min(n, len(ids))]
	} else {
		if behind != nil {
			r.Prompt = behind.Prompt + r.Prompt
		}
		for len(r.Prompt) < n {
			more := p.Prompt().Prompt
			if more == "" {
				break
			}
			r.Prompt += more
		}
		r.Prompt = firstBytes(r.Prompt, n)
	}
	r.MaxTokens, r.Temperature = p.output(r), 0
	return r
}

// firstTokens is the beginning of a prompt, as sized counts.
func firstTokens(r api.CompletionRequest, n int) api.CompletionRequest {
	r.PromptIDs = r.PromptIDs[:min(n, len(r.PromptIDs))]
	r.Prompt = firstBytes(r.Prompt, n)
	return r
}

// firstBytes cuts a text at a character.
func firstBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// blockTokens is the number of tokens in a KV block, and who says so. It sends nothing: an empty window tells it.
func (p *probe) blockTokens(ctx context.Context) (n int, from string) {
	if p.BlockSize > 0 {
		return p.BlockSize, "given"
	}
	ctx, cancel := context.WithTimeout(ctx, p.Limit)
	defer cancel()
	if w, err := handoff.Open(ctx, p.Source); err == nil {
		if e, err := w.Close(ctx); err == nil {
			return e.BlockSize, e.BlockSizeFrom
		}
	}
	return 16, "assumed"
}

// through sends a request the way a client's goes: at the entry, or on the two legs, prefill's ticket in decode's hand.
func (p *probe) through(ctx context.Context, entry bool, name string, r api.CompletionRequest) (*api.Text, error) {
	if entry {
		return p.ask(ctx, "entry", p.Entry, "through "+name, r)
	}
	x := &subject{name: name, request: r}
	if p.dialect().Ask != nil {
		if err := p.prefill(ctx, x); err != nil {
			return nil, err
		}
	} else { // the connector finds blocks by content: prefill must have seen the prompt, and gives nothing to hand on
		first := r
		first.MaxTokens = 1
		if _, err := p.ask(ctx, "prefill", p.Source.Prefill.API, "prefill "+name, first); err != nil {
			return nil, err
		}
	}
	return p.decode(ctx, "decode "+name, x, x.ticket)
}

// alone asks prefill alone, with no transfer involved.
func (p *probe) alone(ctx context.Context, role string, r api.CompletionRequest) (*api.Text, error) {
	t, err := p.ask(ctx, "prefill", p.Source.Prefill.API, role, r)
	if err == nil && len(t.Choices) == 0 {
		err = fmt.Errorf("%s (prefill): an answer without choices", role)
	}
	return t, err
}

// promptTokens is the length that the engine counted; what was aimed at where it does not tell.
func promptTokens(t *api.Text, aimed int) int {
	if t.Usage != nil && t.Usage.PromptTokens > 0 {
		return t.Usage.PromptTokens
	}
	return aimed
}
