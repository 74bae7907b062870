package e2e

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
)

// ask sends a text request, or a picture request when the DiT is the stage in question.
func ask(ctx context.Context, s *omnitest.Stack, stage engine.Stage, id string) error {
	if stage == engine.DiT {
		_, err := s.Generate(ctx, api.ImageRequest{
			Prompt: "a red cube, " + nonce(), RequestID: id, ImageParams: api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 2, Seed: 1},
		})
		return err
	}
	_, err := s.Complete(ctx, api.CompletionRequest{Prompt: "is anybody there? " + nonce(), Sampling: api.Sampling{MaxTokens: 8, RequestID: id}})
	return err
}

// TestBrokenStages freezes and then kills the stages of one private stack: a real engine takes a minute to start.
func TestBrokenStages(t *testing.T) {
	spec := private(t)
	s := omnitest.Start(t, spec)
	speaks := false
	t.Run("speaks", func(t *testing.T) {
		speaker(t, s)
		needSpeechRoute(t, s)
		speaks = true
	})
	for _, stage := range []engine.Stage{engine.Prefill, engine.Decode, engine.DiT} {
		t.Run("frozen/"+string(stage), func(t *testing.T) { frozen(t, s, stage) })
	}
	// From the end of the flow to its beginning, so that each death is met before the one that came earlier.
	for _, stage := range []engine.Stage{engine.DiT, engine.Decode, engine.Prefill} {
		t.Run("dead/"+string(stage), func(t *testing.T) { dead(t, s, stage) })
		if stage == engine.DiT && speaks {
			t.Run("dead/speech", func(t *testing.T) { deadSpeech(t, s) })
		}
	}
}

// frozen stops a stage without closing its sockets. The ledger must tell where the request got stuck, the client must be
// able to leave, and when the stage thaws, the stack must serve again.
func frozen(t *testing.T, s *omnitest.Stack, stage engine.Stage) {
	needStages(t, s, stage)
	in := s.Instance(stage)
	if err := in.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	id := "frozen-" + nonce()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- ask(ctx, s, stage, id) }()
	var text string
	for deadline := time.Now().Add(limit(s)); !strings.Contains(text, string(stage)+" no answer"); time.Sleep(20 * time.Millisecond) {
		if text = s.Explain(id); time.Now().After(deadline) {
			t.Fatalf("the ledger does not say that the request is stuck at %s: %s", stage, text)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("with a frozen %s the request gave %v, want our cancellation", stage, err)
	}
	if err := in.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := ask(requestContext(t, s), s, stage, "thawed-"+nonce()); err != nil {
		t.Errorf("after %s went on: %v", stage, err)
	}
}

// dead kills a stage. The next request must fail, soon, and say which stage is dead: a 200 would mean that some other stage
// silently did its work.
func dead(t *testing.T, s *omnitest.Stack, stage engine.Stage) {
	needStages(t, s, stage)
	omnitest.Require(t, "no-fallback", stage != engine.Prefill || !s.Spec().AllowFallback,
		"the stack was told to go on without prefill; take allow_fallback out of the stack file")
	if err := s.Instance(stage).Kill(); err != nil {
		t.Fatal(err)
	}
	id, began := "dead-"+nonce(), time.Now()
	err := ask(requestContext(t, s), s, stage, id)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("with a dead %s the request took %v to fail", stage, took)
	}
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("with a dead %s the request gave %v, want an error from the proxy", stage, err)
	}
	if e.Status < 500 || e.Stage != string(stage) || !strings.Contains(e.Message, string(stage)) {
		t.Errorf("with a dead %s the answer is status %d, stage %q, message %q", stage, e.Status, e.Stage, e.Message)
	}
}
