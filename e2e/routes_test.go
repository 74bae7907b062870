package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// TestHandoffByRoute proves the handoff on every way a request can take through the proxy: a proxy that hands tickets on for
// streamed completions may forget them for a chat. (n > 1 is left out: decode pulls one ticket once for each choice, and
// prefill gives its blocks up after the first pull, so a later choice may read blocks that were reused.)
func TestHandoffByRoute(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	complete := func(ctx context.Context, prompt string, p api.Sampling) (*api.Text, error) {
		return s.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: p})
	}
	chat := func(prompt string, p api.Sampling) api.ChatRequest {
		return api.ChatRequest{Messages: []api.Message{{Role: "system", Text: "You repeat."}, {Role: "user", Text: prompt}}, Sampling: p}
	}
	for _, route := range []struct {
		name string
		send func(ctx context.Context, prompt string, p api.Sampling) (*api.Text, error)
		// control asks the prefill engine alone for the same; nil: as a completion.
		control func(ctx context.Context, c *api.Client, prompt string, p api.Sampling) (*api.Text, error)
		pad     int // tokens, roughly, that the prompt is made longer by
	}{
		{name: "whole", send: complete},
		{name: "long", send: complete, pad: 1100},
		{name: "chat", send: func(ctx context.Context, prompt string, p api.Sampling) (*api.Text, error) {
			return s.Chat(ctx, chat(prompt, p))
		}, control: func(ctx context.Context, c *api.Client, prompt string, p api.Sampling) (*api.Text, error) {
			return c.Chat(ctx, chat(prompt, p))
		}},
		{name: "chat streamed", send: func(ctx context.Context, prompt string, p api.Sampling) (*api.Text, error) {
			return s.StreamChat(ctx, chat(prompt, p), nil)
		}, control: func(ctx context.Context, c *api.Client, prompt string, p api.Sampling) (*api.Text, error) {
			return c.Chat(ctx, chat(prompt, p))
		}},
	} {
		t.Run(route.name, func(t *testing.T) {
			prompt := nonce() + " takes the route " + route.name + strings.Repeat("!", route.pad)
			p := api.Sampling{MaxTokens: room(s, prompt)}
			want := expected{text: prompt, from: "known answer: the reference model repeats its prompt"}
			if !echoes(s) {
				control := route.control
				if control == nil {
					control = func(ctx context.Context, c *api.Client, prompt string, p api.Sampling) (*api.Text, error) {
						return c.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: p})
					}
				}
				text, err := control(requestContext(t, s), s.Stage(engine.Prefill), prompt, p)
				if err != nil {
					t.Fatalf("control by the prefill engine alone: %v", err)
				}
				want = expected{text: text.String(), from: "control: the prefill engine alone"}
			}
			p.RequestID = "route-" + nonce()
			w := open(t, s, s.Handoff())
			text, err := route.send(requestContext(t, s), prompt, p)
			o := handoff.Observed(text, err)
			o.RequestID, o.Prompt, o.Want, o.WantFrom = p.RequestID, prompt, want.text, want.from
			w.Observe(o)
			if err := handoff.Proven(closed(t, s, w)).Err(); err != nil {
				t.Errorf("%v\n  ledger  %s", err, story(s, p.RequestID))
			}
		})
	}
}

// TestHandoffOfAPlan: on the way to a picture the KV is handed over as well, and nobody sees the text.
func TestHandoffOfAPlan(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode, engine.DiT)
	prompt, id := "A grey wall, "+nonce(), "plan-"+nonce()
	w := open(t, s, s.Handoff())
	_, err := s.Generate(requestContext(t, s), api.ImageRequest{
		Prompt: prompt, RequestID: id, ImageParams: api.ImageParams{Size: api.Size{W: 64, H: 64}, Steps: 1, Seed: 1},
	})
	o := handoff.Observation{RequestID: id, Prompt: prompt, Err: err}
	if echoes(s) {
		o.Want, o.WantFrom = prompt, "known answer: the reference model repeats its prompt"
	}
	w.Observe(o)
	e := closed(t, s, w)
	verdict := handoff.Moved(e)
	if echoes(s) {
		verdict = handoff.Proven(e)
	}
	if err := verdict.Err(); err != nil {
		t.Errorf("%v\n  ledger  %s", err, story(s, id))
	}
}

// TestHandoffBehindASharedPrefix: decode has the beginning of the prompt in its own cache and needs only the rest.
func TestHandoffBehindASharedPrefix(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	ids := vocabulary(t, s)
	block := blockSize(s)
	prefix := draw(ids, 3*block)
	output := 32
	if echoes(s) {
		output = 5*block + 4 // a model that repeats its prompt tells of the blocks behind the prefix only when it comes to them
	}
	var computed []float64
	for i := range 2 {
		r := api.CompletionRequest{PromptIDs: append(append([]int{}, prefix...), draw(ids, 2*block+3)...), Sampling: api.Sampling{MaxTokens: output}}
		e := proven(t, s, s.Handoff(), r, nil)
		local := handoff.Proven(e).Numbers["decode.local_hit_tokens"]
		if i == 1 && local < float64(3*block) {
			t.Logf("decode had %.0f of %d shared tokens in its cache: is prefix caching off?", local, 3*block)
		}
		computed = append(computed, handoff.Proven(e).Numbers["decode.bytes"])
	}
	if computed[1] > computed[0] {
		t.Errorf("behind a shared prefix more bytes moved (%.0f) than without (%.0f)", computed[1], computed[0])
	}
	t.Logf("bytes moved: %.0f without a shared prefix, %.0f behind one of %d tokens", computed[0], computed[1], len(prefix))
}

func blockSize(s *omnitest.Stack) int {
	if n := s.Spec().Stages[engine.Decode].BlockSize; n > 0 {
		return n
	}
	return 16
}

// TestHandoffMargins: the text of a greedy answer stays right when part of the KV is lost, as long as the best token still wins.
// By how much it wins tells: step by step the margin to the second best must be that of a control without a handoff.
func TestHandoffMargins(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	ask := api.CompletionRequest{
		PromptIDs: draw(vocabulary(t, s), 200), Sampling: api.Sampling{MaxTokens: 48, Logprobs: 5, RequestID: "margins-" + nonce()}, // five: parts of characters share one text
	}
	got, err := s.Complete(requestContext(t, s), ask)
	if err != nil {
		fail(t, s, ask.RequestID, err)
	}
	ask.RequestID = ""
	control, err := s.Stage(engine.Prefill).Complete(requestContext(t, s), ask)
	if err != nil {
		t.Fatalf("control by the prefill engine alone: %v", err)
	}
	if err := textcheck.SameMargins(control, got, 0); err != nil {
		t.Error(err)
	}
}
