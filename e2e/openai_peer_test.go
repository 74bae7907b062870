package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
)

// A server that only our own client has ever talked to may share its mistakes. These tests hold OpenAI's own Go client
// against the same endpoints and compare the two, answer by answer.

// endpoint is a place that speaks the protocol, with both clients for it.
type endpoint struct {
	name   string
	ours   *api.Client
	theirs openai.Client
}

// endpoints are the proxy, and each AR stage asked directly.
func endpoints(t *testing.T, s *omnitest.Stack) []endpoint {
	t.Helper()
	needStages(t, s, engine.Decode)
	list := []endpoint{peer(t, "proxy", s.Client)}
	for _, stage := range []engine.Stage{engine.Prefill, engine.Decode} {
		if c := s.Stage(stage); c != nil {
			list = append(list, peer(t, string(stage), c))
		}
	}
	return list
}

func peer(t *testing.T, name string, ours *api.Client) endpoint {
	t.Helper()
	// A transport of its own: no proxy from the environment, and no kept connection that uvicorn closes after 5 s of idling.
	transport := &http.Transport{IdleConnTimeout: 3 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	theirs := openai.NewClient(
		option.WithBaseURL(ours.BaseURL+"/v1"), option.WithAPIKey("unused"),
		option.WithMaxRetries(0), // a repeated request would hide the failure of the first
		option.WithHTTPClient(&http.Client{Transport: transport}),
	)
	return endpoint{name, ours, theirs}
}

// answer is what both clients understood of one text request, in common terms.
type answer struct {
	Texts, Finish             []string // by choice
	Prompt, Completion, Total int      // tokens; -1: the server did not say
	Logprobs                  []token  // of choice 0
}

type token struct {
	Text    string
	Logprob float64
}

func newAnswer() answer { return answer{Prompt: -1, Completion: -1, Total: -1} }

// add puts text to the choice with this index.
func (a *answer) add(index int64, text, finish string) {
	for int(index) >= len(a.Texts) {
		a.Texts, a.Finish = append(a.Texts, ""), append(a.Finish, "")
	}
	a.Texts[index] += text
	if finish != "" {
		a.Finish[index] = finish
	}
}

func (a *answer) usage(u openai.CompletionUsage) {
	if u.JSON.TotalTokens.Valid() {
		a.Prompt, a.Completion, a.Total = int(u.PromptTokens), int(u.CompletionTokens), int(u.TotalTokens)
	}
}

// ours is what our own client understood.
func ours(t *api.Text) answer {
	a := newAnswer()
	for _, c := range t.Choices {
		a.add(int64(c.Index), c.Text, c.FinishReason)
	}
	if u := t.Usage; u != nil {
		a.Prompt, a.Completion, a.Total = u.PromptTokens, u.CompletionTokens, u.TotalTokens
	}
	if len(t.Choices) > 0 {
		for _, l := range t.Choices[0].Logprobs {
			a.Logprobs = append(a.Logprobs, token{l.Token, l.Logprob})
		}
	}
	return a
}

// sameAnswer checks that the two clients understood the same. Log probabilities may differ a little, because the second
// request finds the first one's blocks in the prefix cache and its sums run in another order.
func sameAnswer(ours, theirs answer) error {
	const tolerance = 0.02 // nats; float32 on one CPU agrees to 1e-5, bf16 carries 8 bits of mantissa (2^-8 of a logit near 5)
	near := cmp.Comparer(func(a, b token) bool { return a.Text == b.Text && math.Abs(a.Logprob-b.Logprob) <= tolerance })
	if diff := cmp.Diff(ours, theirs, near); diff != "" {
		return fmt.Errorf("the two clients disagree about the answer (-omnitest +openai-go):\n%s", diff)
	}
	switch {
	case theirs.Completion < 1 || theirs.Prompt < 1:
		return fmt.Errorf("no usage in the answer: %+v", theirs)
	case theirs.Total != theirs.Prompt+theirs.Completion:
		return fmt.Errorf("usage does not add up: %d prompt + %d completion tokens, total %d", theirs.Prompt, theirs.Completion, theirs.Total)
	case theirs.Texts[0] == "":
		return errors.New("the answer is empty")
	}
	for i, f := range theirs.Finish {
		if f != "stop" && f != "length" {
			return fmt.Errorf("choice %d has finish_reason %q, want stop or length", i, f)
		}
	}
	return nil
}

// completion params of theirs for a request of ours.
func completionParams(r api.CompletionRequest, model string) openai.CompletionNewParams {
	p := openai.CompletionNewParams{
		Model:       openai.CompletionNewParamsModel(model),
		Prompt:      openai.CompletionNewParamsPromptUnion{OfString: openai.String(r.Prompt)},
		Temperature: openai.Float(r.Temperature), MaxTokens: openai.Int(int64(r.MaxTokens)),
	}
	if r.PromptIDs != nil {
		p.Prompt = openai.CompletionNewParamsPromptUnion{}
		for _, id := range r.PromptIDs {
			p.Prompt.OfArrayOfTokens = append(p.Prompt.OfArrayOfTokens, int64(id))
		}
	}
	if r.N > 0 {
		p.N = openai.Int(int64(r.N))
	}
	if r.Seed != nil {
		p.Seed = openai.Int(*r.Seed)
	}
	if r.Logprobs > 0 {
		p.Logprobs = openai.Int(int64(r.Logprobs))
	}
	if r.Stop != nil {
		p.Stop = openai.CompletionNewParamsStopUnion{OfStringArray: r.Stop}
	}
	return p
}

func chatParams(r api.ChatRequest, model string) openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{Model: model, Temperature: openai.Float(r.Temperature), MaxTokens: openai.Int(int64(r.MaxTokens))}
	for _, m := range r.Messages {
		switch m.Role {
		case "system":
			p.Messages = append(p.Messages, openai.SystemMessage(m.Text))
		case "assistant":
			p.Messages = append(p.Messages, openai.AssistantMessage(m.Text))
		default:
			p.Messages = append(p.Messages, openai.UserMessage(m.Text))
		}
	}
	if r.N > 0 {
		p.N = openai.Int(int64(r.N))
	}
	if r.Seed != nil {
		p.Seed = openai.Int(*r.Seed)
	}
	if r.Logprobs > 0 {
		p.Logprobs, p.TopLogprobs = openai.Bool(true), openai.Int(int64(r.Logprobs))
	}
	return p
}

var includeUsage = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}

// completion sends r with their client, streamed or not.
func (e endpoint) completion(ctx context.Context, r api.CompletionRequest, stream bool) (answer, error) {
	a, p := newAnswer(), completionParams(r, e.ours.Model)
	if stream {
		p.StreamOptions = includeUsage
		err := drain(e.theirs.Completions.NewStreaming(ctx, p), a.addCompletion)
		return a, err
	}
	got, err := e.theirs.Completions.New(ctx, p)
	if err != nil {
		return a, err
	}
	a.addCompletion(*got)
	return a, nil
}

// addCompletion takes a whole answer or a chunk of one: for completions both have one shape.
func (a *answer) addCompletion(part openai.Completion) {
	for _, c := range part.Choices {
		a.add(c.Index, c.Text, string(c.FinishReason))
		if c.Index == 0 {
			for i, text := range c.Logprobs.Tokens {
				a.Logprobs = append(a.Logprobs, token{text, c.Logprobs.TokenLogprobs[i]})
			}
		}
	}
	a.usage(part.Usage)
}

// chat sends r with their client, streamed or not.
func (e endpoint) chat(ctx context.Context, r api.ChatRequest, stream bool) (answer, error) {
	a, p := newAnswer(), chatParams(r, e.ours.Model)
	if stream {
		p.StreamOptions = includeUsage
		err := drain(e.theirs.Chat.Completions.NewStreaming(ctx, p), func(chunk openai.ChatCompletionChunk) {
			for _, c := range chunk.Choices {
				a.add(c.Index, c.Delta.Content, c.FinishReason)
				a.chatLogprobs(c.Index, c.Logprobs.Content)
			}
			a.usage(chunk.Usage)
		})
		return a, err
	}
	got, err := e.theirs.Chat.Completions.New(ctx, p)
	if err != nil {
		return a, err
	}
	for _, c := range got.Choices {
		a.add(c.Index, c.Message.Content, c.FinishReason)
		a.chatLogprobs(c.Index, c.Logprobs.Content)
	}
	a.usage(got.Usage)
	return a, nil
}

func (a *answer) chatLogprobs(index int64, list []openai.ChatCompletionTokenLogprob) {
	if index == 0 {
		for _, l := range list {
			a.Logprobs = append(a.Logprobs, token{l.Token, l.Logprob})
		}
	}
}

// drain reads a stream of theirs to its end.
func drain[T any](stream *ssestream.Stream[T], each func(T)) error {
	defer stream.Close()
	for stream.Next() {
		each(stream.Current())
	}
	return stream.Err()
}
