package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// hold fails the test for every result that does not keep its bound, and keeps all of them with what they were made of.
func hold(t *testing.T, evidence any, results ...textcheck.Result) {
	t.Helper()
	path := filepath.Join(omnitest.TestDir(t), "textquality.json")
	data, err := json.MarshalIndent(struct {
		Results  []textcheck.Result `json:"results"`
		Evidence any                `json:"evidence"`
	}{results, evidence}, "", " ")
	if err == nil {
		err = os.WriteFile(path, data, 0o666)
	}
	if err != nil {
		t.Error(err)
	}
	for _, r := range results {
		if err := r.Err(); err != nil {
			t.Errorf("%v\n  evidence  %s", err, path)
		}
	}
}

// compared asks the stack and prefill alone for the same long answer.
func compared(t *testing.T, s *omnitest.Stack, ids []int, tokens int) (textcheck.Parting, error) {
	ask := api.CompletionRequest{PromptIDs: draw(ids, tokens+8), Sampling: api.Sampling{
		MaxTokens: tokens, IgnoreEOS: true, Logprobs: 2, TokenIDs: true, RequestID: "long-" + nonce()}}
	got, err := s.Complete(requestContext(t, s), ask)
	if err != nil {
		return textcheck.Parting{}, fmt.Errorf("%w\n  ledger  %s", err, story(s, ask.RequestID))
	}
	ask.RequestID = "" // the control's way is its own
	control, err := s.Stage(engine.Prefill).Complete(requestContext(t, s), ask)
	if err != nil {
		return textcheck.Parting{}, fmt.Errorf("control by the prefill engine alone: %w", err)
	}
	return textcheck.Part(control, got)
}

// TestLongAnswersDoNotDrift: error accumulation shows late. Over many prompts the stack's answers must go along with those of the
// prefill engine alone to their ends, and not part from them from some token on. While these requests load the stack, sentinels
// are asked again: what changes with load alone changes them.
//
// Where a fault lies the two say different things. Drift is the same every time, so that a sentinel's second answer equals its
// first, and the curve says from which token on; corruption that comes with load changes sentinels and may spare all else.
func TestLongAnswersDoNotDrift(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	ids := vocabulary(t, s)
	prompts, tokens := 24, 160 // 24: see textcheck.PartedShare
	if !echoes(s) {
		tokens = 64
	}
	sentinels, err := probe.NewSentinels(requestContext(t, s), s.Handoff(), probe.Options{Rounds: 2,
		Prompt: func() api.CompletionRequest { return api.CompletionRequest{PromptIDs: draw(ids, 96)} }})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		r, err := sentinels.Check(requestContext(t, s))
		switch {
		case err != nil:
			t.Errorf("%s: %v", when, err)
		case r.Verdict.State == handoff.StateRefuted:
			judged(t, r)
		default: // a small model may be undecided everywhere, or say the same to everything
			t.Logf("sentinels %s: %v", when, r.Verdict)
		}
	}
	check("before")

	all, failed := make([]textcheck.Parting, prompts), make([]error, prompts)
	next := make(chan int)
	var lanes sync.WaitGroup
	for range 4 {
		lanes.Go(func() {
			for i := range next {
				all[i], failed[i] = compared(t, s, ids, tokens)
			}
		})
	}
	for i := range prompts {
		if i == prompts/2 {
			check("during")
		}
		next <- i
	}
	close(next)
	lanes.Wait()
	check("after")

	var partings []textcheck.Parting
	for i, err := range failed {
		if err != nil {
			t.Error(err)
			continue
		}
		partings = append(partings, all[i])
	}
	c := textcheck.NewCurve(partings, s.Spec().Stages[engine.Decode].BlockSize)
	t.Log(c)
	hold(t, struct {
		Curve    textcheck.Curve
		Partings []textcheck.Parting
	}{c, partings}, textcheck.PartingRate(c, textcheck.Bounds{}), textcheck.NoOnset(c, textcheck.Bounds{}))
}

// needLanguage skips or fails a test about language on a model that has none: those with random weights loop, and write bytes
// that are no characters, on healthy engines too.
func needLanguage(t *testing.T, s *omnitest.Stack) {
	t.Helper()
	if echoes(s) {
		return // the words are the client's own
	}
	ask := api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "What is the capital of France? Answer in one word."}}, Sampling: api.Sampling{MaxTokens: 64}}
	answer, err := s.Chat(requestContext(t, s), ask)
	if err != nil {
		t.Fatal(err)
	}
	omnitest.Require(t, "language", strings.Contains(strings.ToLower(answer.String()), "paris"),
		fmt.Sprintf("the model does not answer a plain question (%s); serve one that was trained", textcheck.Quote(answer.String())))
}

// tasks are prompts whose answers are long enough to go wrong. A model that repeats its prompt gives them back.
var tasks = []string{
	"Write a short story about a lighthouse keeper who counts ships, with a beginning, a middle and an end.",
	"写一篇关于灯塔看守人的短文，他每天傍晚在本子上写一行字，没有两行是相同的。",
	"Explain in ten numbered steps how to make filter coffee, in German, with all umlauts: Öffnen, prüfen, mahlen.",
	"Write a Go function that reverses a slice, then one that sorts it, with comments. Use emoji 🍎🚆☕ in the comments.",
}

// TestAnswersAreLanguage: whole characters, no loop, no collapse into certainty.
func TestAnswersAreLanguage(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	needLanguage(t, s)
	for i, task := range append(append([]string{}, fixtures.Passages...), tasks...) {
		t.Run(fmt.Sprintf("task-%d", i), func(t *testing.T) {
			ask := api.ChatRequest{Messages: []api.Message{{Role: "user", Text: task}},
				Sampling: api.Sampling{MaxTokens: max(256, len(task)+1), Logprobs: 2, RequestID: "language-" + nonce()}}
			answer, err := s.StreamChat(requestContext(t, s), ask, nil)
			if err != nil {
				fail(t, s, ask.RequestID, err)
			}
			results := []textcheck.Result{textcheck.Repetition(answer.String(), textcheck.Bounds{}), textcheck.Characters(answer, textcheck.Bounds{})}
			// An answer that is short, or sure from its beginning as a repetition of the prompt is, has no entropy to lose.
			if windows, err := textcheck.EntropyWindows(answer); err == nil && len(windows) >= 3 && !echoes(s) {
				results = append(results, textcheck.EntropyCollapse(answer, textcheck.Bounds{}))
			}
			hold(t, answer.String(), results...)
		})
	}
}

// TestNeedlesAreFound: what stands anywhere in a long prompt comes back, so no part of the KV that was handed over is missing. A
// model that repeats its prompt is given all needles in one, any other is asked for one at a time.
func TestNeedlesAreFound(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Decode)
	needLanguage(t, s)
	depths := []float64{0, .25, .5, .75, 1}
	var filler []string
	for i := range 40 {
		filler = append(filler, fmt.Sprintf("Ship number %d passed %s the lighthouse at %d minutes past the hour.", 100+i*7, []string{"north of", "south of", "close to"}[i%3], i*13%60))
	}
	needle := func(depth float64) textcheck.Needle {
		secret := nonce()
		return textcheck.Needle{Depth: depth, Text: fmt.Sprintf("The password of day %.0f is %s.", 100*depth, secret), Want: secret}
	}
	var hay []textcheck.Haystack
	if echoes(s) {
		h := textcheck.Haystack{Filler: filler, Bytes: 1500}
		for _, d := range depths {
			h.Needles = append(h.Needles, needle(d))
		}
		hay = append(hay, h)
	} else {
		for _, d := range depths {
			hay = append(hay, textcheck.Haystack{Filler: filler, Bytes: 3000, Needles: []textcheck.Needle{needle(d)},
				Question: fmt.Sprintf("\n\nWhat is the password of day %.0f? Answer with the password alone.", 100*d)})
		}
	}
	var asked []textcheck.Asked
	for _, h := range hay {
		prompt := h.Prompt()
		ask := api.ChatRequest{Messages: []api.Message{{Role: "user", Text: prompt}}, Sampling: api.Sampling{MaxTokens: 64, RequestID: "needle-" + nonce()}}
		if echoes(s) {
			ask.MaxTokens = len(prompt) + 1
		}
		answer, err := s.Chat(requestContext(t, s), ask)
		if err != nil {
			fail(t, s, ask.RequestID, err)
		}
		asked = append(asked, h.Found(answer.String())...)
	}
	r := textcheck.NewRecall(asked)
	t.Log("\n" + r.String())
	hold(t, r, textcheck.Needles(r, textcheck.Bounds{}))
}
