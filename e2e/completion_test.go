package e2e

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
)

// TestStreamEqualsWhole: streamed and not, the same request gives the same text, the same usage and whole characters, although
// a Chinese character or an emoji spans several tokens.
func TestStreamEqualsWhole(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	for _, prompt := range fixtures.Passages {
		ask := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: room(s, prompt), RequestID: "whole-" + nonce()}}
		whole, err := s.Complete(requestContext(t, s), ask)
		if err != nil {
			fail(t, s, ask.RequestID, err)
		}
		ask.RequestID = "stream-" + nonce()
		streamed, err := s.StreamComplete(requestContext(t, s), ask, func(e api.Event) error {
			// A model may write bytes that are no character; then the whole answer shows U+FFFD as well.
			if !utf8.ValidString(e.Text) || strings.ContainsRune(e.Text, utf8.RuneError) && !strings.ContainsRune(whole.String(), utf8.RuneError) {
				t.Errorf("an event holds part of a character: %q", e.Data)
			}
			return nil
		})
		if err != nil {
			fail(t, s, ask.RequestID, err)
		}
		if diff := cmp.Diff(whole.String(), streamed.String()); diff != "" {
			t.Errorf("streamed text differs (-whole +streamed):\n%s", diff)
		}
		if want := right(t, s, ask); whole.String() != want.text {
			t.Errorf("text is %q, want %q (%s)", whole, want.text, want.from)
		}
		if whole.Usage == nil || streamed.Usage == nil {
			t.Fatalf("usage missing: whole %v, streamed %v", whole.Usage, streamed.Usage)
		}
		if whole.Usage.PromptTokens != streamed.Usage.PromptTokens || whole.Usage.CompletionTokens != streamed.Usage.CompletionTokens {
			t.Errorf("usage differs: whole %+v, streamed %+v", *whole.Usage, *streamed.Usage)
		}
	}
}

// TestChat: a conversation is answered, streamed and not, with logprobs where asked for.
func TestChat(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	last := "Please repeat: 你好, world. " + nonce()
	ask := api.ChatRequest{
		Messages: []api.Message{
			{Role: "system", Text: "You repeat."}, {Role: "user", Text: "One."}, {Role: "assistant", Text: "One."}, {Role: "user", Text: last},
		},
		Sampling: api.Sampling{MaxTokens: room(s, last), Logprobs: 2, RequestID: "chat-" + nonce()},
	}
	whole, err := s.Chat(requestContext(t, s), ask)
	if err != nil {
		fail(t, s, ask.RequestID, err)
	}
	ask.RequestID = "chat-" + nonce()
	streamed, err := s.StreamChat(requestContext(t, s), ask, nil)
	if err != nil {
		fail(t, s, ask.RequestID, err)
	}
	if whole.String() != streamed.String() {
		t.Errorf("streamed answer %q, whole answer %q", streamed, whole)
	}
	if echoes(s) && whole.String() != last {
		t.Errorf("answer %q, want the last user message %q", whole, last)
	}
	for _, answer := range []*api.Text{whole, streamed} {
		if answer.Usage == nil {
			t.Fatal("the answer tells no usage")
		}
		if got, want := len(answer.Choices[0].Logprobs), answer.Usage.CompletionTokens; got != want && got != want-1 {
			t.Errorf("%d logprobs for %d tokens", got, want) // one less: the end token has none
		}
	}
}

// TestSeveralChoices: n answers come back as n choices, of a completion and of a chat.
func TestSeveralChoices(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	prompt := "Twice the same, " + nonce()
	p := api.Sampling{MaxTokens: 12, N: 2, Temperature: 1, RequestID: "n-" + nonce()} // vLLM refuses several greedy answers
	completion, err := s.Complete(requestContext(t, s), api.CompletionRequest{Prompt: prompt, Sampling: p})
	if err != nil {
		fail(t, s, p.RequestID, err)
	}
	p.RequestID = "n-" + nonce()
	chat, err := s.Chat(requestContext(t, s), api.ChatRequest{Messages: []api.Message{{Role: "user", Text: prompt}}, Sampling: p})
	if err != nil {
		fail(t, s, p.RequestID, err)
	}
	for _, answer := range []*api.Text{completion, chat} {
		if len(answer.Choices) != 2 || answer.Choices[0].Text == "" || answer.Choices[1].Text == "" {
			t.Errorf("n=2 gave %d choices: %+v", len(answer.Choices), answer.Choices)
		}
		for _, c := range answer.Choices {
			if echoes(s) && !strings.HasPrefix(prompt, c.Text) {
				t.Errorf("choice %d is %q, not the prompt's beginning", c.Index, c.Text)
			}
		}
	}
}

// TestUsageAndFinish: how many tokens, and why it ended, is what users are billed by and what every rate is computed from.
func TestUsageAndFinish(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	ids := vocabulary(t, s)
	prompt := draw(ids, 40)
	for _, c := range []struct {
		name   string
		p      api.Sampling
		tokens int    // generated; 0: whatever the model needs
		finish string // "": whatever
	}{
		{name: "cut", p: api.Sampling{MaxTokens: 7, IgnoreEOS: true}, tokens: 7, finish: "length"},
		{name: "one token", p: api.Sampling{MaxTokens: 1, IgnoreEOS: true}, tokens: 1, finish: "length"},
		{name: "past the end", p: api.Sampling{MaxTokens: 60, IgnoreEOS: true}, tokens: 60, finish: "length"},
		{name: "to the end", p: api.Sampling{MaxTokens: 60}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.RequestID, c.p.TokenIDs = "usage-"+nonce(), true
			answer, err := s.Complete(requestContext(t, s), api.CompletionRequest{PromptIDs: prompt, Sampling: c.p})
			if err != nil {
				fail(t, s, c.p.RequestID, err)
			}
			u, choice := answer.Usage, answer.Choices[0]
			if u == nil {
				t.Fatal("the answer tells no usage")
			}
			if c.name == "to the end" && echoes(s) {
				c.tokens, c.finish = len(prompt)+1, "stop" // the prompt repeated, and the end token
			}
			if u.PromptTokens != len(prompt) || u.TotalTokens != u.PromptTokens+u.CompletionTokens || u.CompletionTokens != len(choice.TokenIDs) {
				t.Errorf("usage %+v for %d prompt tokens and %d token ids", *u, len(prompt), len(choice.TokenIDs))
			}
			if c.tokens > 0 && u.CompletionTokens != c.tokens {
				t.Errorf("%d tokens generated, want %d", u.CompletionTokens, c.tokens)
			}
			if c.finish != "" && choice.FinishReason != c.finish {
				t.Errorf("finish_reason %q, want %q", choice.FinishReason, c.finish)
			}
		})
	}
}

// TestStopString: the answer ends before the stop string and says so.
func TestStopString(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	prompt := "Count: one two three four five six, " + nonce()
	ask := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: room(s, prompt), RequestID: "stop-" + nonce()}}
	free, err := s.Complete(requestContext(t, s), ask)
	if err != nil {
		fail(t, s, ask.RequestID, err)
	}
	text := free.String()
	omnitest.Require(t, "legible-text", len(text) >= 12 && !strings.ContainsRune(text, utf8.RuneError),
		"the model's free answer is no text to look for a stop string in; use a model that writes whole characters")
	stop := text[len(text)/2 : len(text)/2+3]
	ask.Stop, ask.RequestID = []string{stop}, "stop-"+nonce()
	stopped, err := s.Complete(requestContext(t, s), ask)
	if err != nil {
		fail(t, s, ask.RequestID, err)
	}
	if want, _, _ := strings.Cut(text, stop); stopped.String() != want || stopped.Choices[0].FinishReason != "stop" {
		t.Errorf("with stop %q: %q (%s), want %q (stop)", stop, stopped, stopped.Choices[0].FinishReason, want)
	}
}

// TestTokensArriveOneByOne: a stream that comes in one piece is no stream.
func TestTokensArriveOneByOne(t *testing.T) {
	spec := private(t)
	omnitest.Require(t, "reference-stack", spec.Stages == nil, "plants slow decode steps in the reference stack; unset OMNITEST_STACK")
	const step, tokens = 5 * time.Millisecond, 40
	spec.Timing.Decode.DecodePerStep = step
	s := omnitest.Shared(t, spec)
	answer, err := s.StreamComplete(requestContext(t, s), api.CompletionRequest{
		Prompt: strings.Repeat("slowly ", 10), Sampling: api.Sampling{MaxTokens: tokens, RequestID: "pace-" + nonce()},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var texts []time.Duration
	for _, e := range answer.Events {
		if e.Text != "" {
			texts = append(texts, e.At)
		}
	}
	if len(texts) < tokens/2 {
		t.Fatalf("%d tokens came in %d events", tokens, len(texts))
	}
	// From the first to the last token pass tokens-1 planted steps. The first must not have waited for them.
	if spread := texts[len(texts)-1] - texts[0]; spread < (tokens-1)*step/2 {
		t.Errorf("%d events within %v, although each step takes %v: something on the way holds them back", len(texts), spread, step)
	}
}
