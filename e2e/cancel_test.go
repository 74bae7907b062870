package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/stack"
)

// lease is how long prefill holds the blocks of a ticket that nobody pulls. vLLM's default is 30 s; a launched reference
// stack gets a short one, so that the test need not wait for it.
const lease = time.Second

// askForTicket makes prefill keep the blocks of a prompt and answer with a ticket.
var askForTicket = handoff.NIXL.Ask

// leased is the stack of the cancellation tests.
func leased(t *testing.T) (*omnitest.Stack, time.Duration) {
	t.Helper()
	spec, err := omnitest.Spec()
	if err != nil {
		t.Fatal(err)
	}
	if spec.Stages != nil {
		hold := spec.Stages[engine.Prefill].Lease
		if hold == 0 {
			hold = 30 * time.Second
		}
		return omnitest.Shared(t), hold
	}
	spec.Stages = map[engine.Stage]stack.Stage{engine.Proxy: {}, engine.Prefill: {Lease: lease}, engine.Decode: {}, engine.DiT: {}}
	return omnitest.Shared(t, spec), lease
}

// released checks that prefill and decode gave back every block and every slot they held for the cancelled requests.
func released(t *testing.T, s *omnitest.Stack, before handoff.Usage, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within+10*time.Second)
	defer cancel()
	if err := handoff.BlocksReleased(ctx, s.Handoff(), before, within); err != nil {
		t.Error(err)
	}
}

func usage(t *testing.T, s *omnitest.Stack) handoff.Usage {
	t.Helper()
	u, err := handoff.ReadUsage(requestContext(t, s), s.Handoff())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestClientLeaves: the client goes away in the middle of each kind of request; both engines must let go of what they held.
func TestClientLeaves(t *testing.T) {
	s, hold := leased(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	long := func() string { return nonce() + strings.Repeat(" a long answer is cut off by the client", 30) }
	for _, c := range []struct {
		name string
		send func(ctx context.Context, id string) error
	}{
		{"stream", func(ctx context.Context, id string) error {
			prompt := long()
			_, err := s.StreamComplete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: room(s, prompt), IgnoreEOS: true, RequestID: id}}, nil)
			return err
		}},
		{"whole", func(ctx context.Context, id string) error {
			_, err := s.Complete(ctx, api.CompletionRequest{Prompt: long(), Sampling: api.Sampling{MaxTokens: 800, IgnoreEOS: true, RequestID: id}})
			return err
		}},
		{"chat", func(ctx context.Context, id string) error {
			_, err := s.Chat(ctx, api.ChatRequest{
				Messages: []api.Message{{Role: "user", Text: long()}}, Sampling: api.Sampling{MaxTokens: 800, IgnoreEOS: true, RequestID: id},
			})
			return err
		}},
		{"picture", func(ctx context.Context, id string) error {
			_, err := s.Generate(ctx, api.ImageRequest{Prompt: long(), RequestID: id, ImageParams: api.ImageParams{Size: api.Size{W: 64, H: 64}, Steps: 1, Seed: 1}})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "picture" {
				needStages(t, s, engine.DiT)
			}
			before := usage(t, s)
			const times = 3
			for range times {
				id := "leave-" + nonce()
				ctx, cancel := context.WithCancel(requestContext(t, s))
				done := make(chan error, 1)
				go func() { done <- c.send(ctx, id) }()
				reached := reaches(s, id, engine.Decode, done)
				cancel()
				omnitest.Require(t, "time-to-cancel", reached, "the request was over before the ledger showed it at decode: use a slower engine, or omnitest's proxy")
				if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
					t.Fatalf("leaving while decode worked gave %v", err)
				}
			}
			released(t, s, before, hold+5*time.Second)
		})
	}
}

// reaches waits until the proxy has asked a stage on behalf of a request. It is false when the request was over before that
// was seen.
func reaches(s *omnitest.Stack, id string, stage engine.Stage, done chan error) bool {
	for {
		if strings.Contains(s.Explain(id), string(stage)+" ") {
			return true
		}
		select {
		case err := <-done:
			done <- err
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// TestTicketNobodyPulls: prefill finished, then the client or the proxy died. Its blocks must be free after the lease.
func TestTicketNobodyPulls(t *testing.T) {
	s, hold := leased(t)
	needStages(t, s, engine.Prefill)
	before := usage(t, s)
	answer, err := s.Stage(engine.Prefill).Complete(requestContext(t, s), api.CompletionRequest{
		Prompt: nonce() + strings.Repeat(" nobody will pull this", 30), Sampling: api.Sampling{MaxTokens: 1, Ticket: askForTicket},
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Ticket == nil {
		t.Fatal("prefill gave no ticket for do_remote_decode")
	}
	released(t, s, before, hold+5*time.Second)
}

// TestTicketIsHeld: until its lease ends, the blocks of a ticket belong to it, whatever else prefill is asked in the meantime.
// Blocks that are given up early still move, with somebody else's content in them.
func TestTicketIsHeld(t *testing.T) {
	needFreeHand(t) // tickets that a planted fault leaves unpulled would fill the small pool
	spec := private(t)
	omnitest.Require(t, "reference-stack", spec.Stages == nil, "needs a small KV pool on prefill to force its reuse; unset OMNITEST_STACK")
	const blocks = 64 // of 16 tokens: one request of the traffic below takes half of them
	spec.Stages = map[engine.Stage]stack.Stage{engine.Proxy: {}, engine.Prefill: {Blocks: blocks}, engine.Decode: {}}
	s := omnitest.Start(t, spec)
	prompt := nonce() + " is kept in the cloakroom until somebody comes with the ticket."
	held, err := s.Stage(engine.Prefill).Complete(requestContext(t, s), api.CompletionRequest{
		Prompt: prompt, Sampling: api.Sampling{MaxTokens: 1, Ticket: askForTicket},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		_, err := s.Complete(requestContext(t, s), api.CompletionRequest{
			Prompt: nonce() + strings.Repeat(" other traffic", 34), Sampling: api.Sampling{MaxTokens: 4},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Stage(engine.Decode).Complete(requestContext(t, s), api.CompletionRequest{
		Prompt: prompt, Sampling: api.Sampling{MaxTokens: len(prompt) + 1, Ticket: held.Ticket},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != prompt {
		t.Errorf("with a ticket within its lease decode answered %q, want %q: prefill gave the blocks up early", got, prompt)
	}
}

// TestClientLeavesPicture: a picture that is cancelled while the DiT works must not stop the next one.
func TestClientLeavesPicture(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	ctx, cancel := context.WithCancel(requestContext(t, s))
	defer cancel()
	params, id := api.ImageParams{Size: api.Size{W: 1024, H: 1024}, Steps: 50, Seed: 1}, "leave-"+nonce()
	done := make(chan error, 1)
	go func() {
		_, err := s.Generate(ctx, api.ImageRequest{Prompt: "a red cube", RequestID: id, ImageParams: params})
		done <- err
	}()
	reached := reaches(s, id, engine.DiT, done)
	cancel()
	if err := <-done; reached && err != nil && !errors.Is(err, context.Canceled) {
		t.Fatalf("leaving while the DiT worked gave %v", err)
	}
	params.Size, params.Steps, id = api.Size{W: 256, H: 256}, 2, "after-"+nonce()
	if _, err := s.Generate(requestContext(t, s), api.ImageRequest{Prompt: "a red cube", RequestID: id, ImageParams: params}); err != nil {
		fail(t, s, id, err)
	}
}
