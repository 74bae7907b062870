package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
)

// TestBadInput: what is wrong with a request must be said with a 4xx that names it, and must not harm the next request. The
// statuses are those that vLLM 0.32 and vLLM-Omni 0.26 were recorded with.
func TestBadInput(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode, engine.DiT)
	text := func(r api.CompletionRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.Complete(ctx, r); return err }
	}
	picture := func(r api.ImageRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.Generate(ctx, r); return err }
	}
	extra := func(key string, value any) map[string]any { return map[string]any{key: value} }
	small := api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 1, Seed: 1}
	for _, c := range []struct {
		name   string
		send   func(context.Context) error
		status int
		says   string // part of the message, in lower case
	}{
		{"empty prompt", text(api.CompletionRequest{Prompt: ""}), 400, "prompt"},
		{"max_tokens 0", text(api.CompletionRequest{Prompt: "x", Sampling: api.Sampling{Extra: extra("max_tokens", 0)}}), 400, "max_tokens"},
		{"max_tokens a word", text(api.CompletionRequest{Prompt: "x", Sampling: api.Sampling{Extra: extra("max_tokens", "many")}}), 400, "max_tokens"},
		{"temperature negative", text(api.CompletionRequest{Prompt: "x", Sampling: api.Sampling{Temperature: -1}}), 400, "temperature"},
		{"unknown model", text(api.CompletionRequest{Model: "no-such-model", Prompt: "x"}), 404, "no-such-model"},
		{"prompt too long", text(api.CompletionRequest{Prompt: strings.Repeat("too long ", 40_000)}), 400, "context length"},
		{"chat without messages", func(ctx context.Context) error { _, err := s.Chat(ctx, api.ChatRequest{}); return err }, 400, "conversation"},
		{"picture without prompt", picture(api.ImageRequest{ImageParams: small, Extra: extra("prompt", nil)}), 400, "prompt"},
		{"picture prompt a number", picture(api.ImageRequest{ImageParams: small, Extra: extra("prompt", 5)}), 400, "prompt"},
		{"size a word", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("size", "huge")}), 400, "size"},
		{"size 0x512", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("size", "0x512")}), 400, "size"},
		{"size 9000x9000", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("size", "9000x9000")}), 400, "size"},
		{"n 0", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("n", 0)}), 400, "'n'"},
		{"n 11", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("n", 11)}), 400, "'n'"},
		{"steps 0", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("num_inference_steps", 0)}), 400, "num_inference_steps"},
		{"steps 201", picture(api.ImageRequest{Prompt: "x", ImageParams: small, Extra: extra("num_inference_steps", 201)}), 400, "num_inference_steps"},
		{"edit without picture", func(ctx context.Context) error {
			_, err := s.Edit(ctx, api.EditRequest{Prompt: "make it red", ImageParams: small})
			return err
		}, 422, "image"},
		{"edit of what is no picture", func(ctx context.Context) error {
			_, err := s.Edit(ctx, api.EditRequest{Prompt: "make it red", ImageParams: small, Images: []api.Input{{Data: []byte("no picture at all")}}})
			return err
		}, 400, "image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.send(requestContext(t, s))
			var e *api.Error
			if !errors.As(err, &e) || e.Status != c.status {
				t.Fatalf("got %v, want an answer with status %d", err, c.status)
			}
			if !strings.Contains(strings.ToLower(e.Message), c.says) {
				t.Errorf("the %d does not name %q: %s", c.status, c.says, e.Message)
			}
		})
	}
	t.Run("and then a good request", func(t *testing.T) {
		prompt := "still alive, " + nonce()
		answer, err := s.Complete(requestContext(t, s), api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: 8}})
		if err != nil || answer.String() == "" {
			t.Errorf("after the bad requests a good one failed: %q, %v", answer, err)
		}
		if _, err := s.Generate(requestContext(t, s), api.ImageRequest{Prompt: fixtures.Scenes[0].Prompt, ImageParams: small}); err != nil {
			t.Errorf("after the bad requests a good picture failed: %v", err)
		}
	})
}
