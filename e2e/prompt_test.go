package e2e

import (
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// echoes is true on a stack whose AR model repeats its prompt, as the reference model does. Only there the right answer is
// known beforehand, and only there a picture that is asked for at the proxy is painted from the client's own words.
func echoes(s *omnitest.Stack) bool {
	in := s.Instance(engine.Decode)
	return in == nil || in.Simulated
}

// painter is who pictures are asked from when it matters what they show: the proxy, or the DiT alone where the AR model in front
// of it writes something else than the client's words. The way through all stages is TestFlowOfPicture's there.
func painter(t *testing.T, s *omnitest.Stack) *api.Client {
	t.Helper()
	if echoes(s) {
		return s.Client
	}
	t.Log("the decode model does not repeat prompts: the picture is asked from the dit stage itself")
	return s.Stage(engine.DiT)
}

// expected is what a right decode of a prompt gives.
type expected struct {
	text, from string
	margins    []textcheck.Margin // of a control: where it was undecided itself
	used       bool
}

// right says what a right answer is and how that is known: the reference model repeats its prompt; for any other the prefill
// engine, asked alone and without a handoff, is the control.
func right(t *testing.T, s *omnitest.Stack, r api.CompletionRequest) expected {
	t.Helper()
	if echoes(s) {
		text := r.Prompt
		for _, id := range r.PromptIDs {
			text += string(rune(id)) // a token is a byte, and our ids are ASCII letters
		}
		if r.MaxTokens > 0 {
			text = text[:min(len(text), r.MaxTokens)]
		}
		return expected{text: text, from: "known answer: the reference model repeats its prompt"}
	}
	r.RequestID, r.Logprobs = "", 2
	control, err := s.Stage(engine.Prefill).Complete(requestContext(t, s), r)
	if err != nil {
		t.Fatalf("control by the prefill engine alone: %v", err)
	}
	return expected{text: control.String(), from: "control: the prefill engine alone", margins: textcheck.MarginsOf(control)}
}

// room is a max_tokens that lets the reference model repeat the whole prompt (a token is a byte) and keeps real models short.
func room(s *omnitest.Stack, prompt string) int {
	if echoes(s) {
		return len(prompt) + 1
	}
	return 32
}

// vocabulary gives token ids that the model takes: ASCII letters for the reference model, for another one some that it
// generated itself, so that nothing need be known of its tokenizer.
func vocabulary(t *testing.T, s *omnitest.Stack) []int {
	t.Helper()
	if echoes(s) {
		var ids []int
		for id := 'a'; id <= 'z'; id++ {
			ids = append(ids, int(id))
		}
		return ids
	}
	ids, err := probe.Vocabulary(requestContext(t, s), s.Stage(engine.Decode))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// draw makes a prompt of exactly n tokens that no engine has seen: 16 different tokens give 2^64 beginnings of 16.
func draw(ids []int, n int) []int { return probe.Random(ids, n)().PromptIDs }
