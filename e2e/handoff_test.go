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
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// observe sends one streamed completion through the proxy and tells the window what came of it.
func observe(t *testing.T, s *omnitest.Stack, w *handoff.Window, r api.CompletionRequest, want expected, foreign []string) {
	t.Helper()
	r.RequestID = "handoff-" + nonce()
	text, err := s.StreamComplete(requestContext(t, s), r, nil)
	o := handoff.Observed(text, err)
	o.RequestID, o.Prompt, o.Want, o.WantFrom, o.Margins, o.Foreign = r.RequestID, r.Prompt, want.text, want.from, want.margins, foreign
	if err != nil {
		t.Errorf("%v\n  ledger  %s", err, story(s, r.RequestID))
	}
	w.Observe(o)
}

// proven sends one request in a window of its own and demands the proof.
func proven(t *testing.T, s *omnitest.Stack, src handoff.Source, r api.CompletionRequest, foreign []string) *handoff.Evidence {
	t.Helper()
	want := right(t, s, r) // before the window: a control is traffic too
	w := open(t, s, src)
	observe(t, s, w, r, want, foreign)
	e := closed(t, s, w)
	if err := handoff.Proven(e).Err(); err != nil {
		t.Error(err)
	}
	return e
}

// TestHandoffProven is the heart of the suite: for one request after the other the flow, the counters and the content must
// agree that decode used the KV cache that prefill computed.
func TestHandoffProven(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	passages := append([]string{strings.Repeat("A long passage fills many blocks. ", 20)}, fixtures.Passages...)
	var earlier []string // what must not come back: the text of a request before
	for i, passage := range passages {
		t.Run(fmt.Sprintf("passage-%d", i), func(t *testing.T) {
			prompt := nonce() + " " + passage
			proven(t, s, s.Handoff(), api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: room(s, prompt)}}, earlier)
			earlier = append(earlier, prompt)
		})
	}
}

// TestHandoffProvenConcurrently: four in flight; nobody may get another one's text.
func TestHandoffProvenConcurrently(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	const lanes, perLane = 4, 4
	prompts, asks, wants := make([]string, lanes*perLane), make([]api.CompletionRequest, lanes*perLane), make([]expected, lanes*perLane)
	for i := range prompts {
		prompts[i] = nonce() + fmt.Sprintf(" is the password of guest %d, who sleeps in room %d.", i, 100+i)
		asks[i] = api.CompletionRequest{Prompt: prompts[i], Sampling: api.Sampling{MaxTokens: room(s, prompts[i])}}
		wants[i] = right(t, s, asks[i])
	}
	w := open(t, s, s.Handoff())
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			for i := lane; i < len(prompts); i += lanes {
				foreign := append(append([]string{}, prompts[:i]...), prompts[i+1:]...)
				observe(t, s, w, asks[i], wants[i], foreign)
			}
		})
	}
	wg.Wait()
	e := closed(t, s, w)
	if err := handoff.Proven(e).Err(); err != nil {
		t.Error(err)
	}
}

// TestHandoffProbes proves the same without any metric: with another prompt's ticket decode must be disturbed, and without a
// ticket it must compute the prompt itself.
func TestHandoffProbes(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	ids := vocabulary(t, s)
	options := probe.Options{Prompt: func() api.CompletionRequest { return api.CompletionRequest{PromptIDs: draw(ids, 192)} }}
	t.Run("crossed-tickets", func(t *testing.T) {
		var r probe.Result
		for range 3 { // a small model may answer two prompts alike, or from its last tokens; others will do
			var err error
			if r, err = probe.CrossedTickets(requestContext(t, s), s.Handoff(), options); err != nil {
				t.Fatal(err)
			}
			if r.Verdict.State != handoff.StateInconclusive {
				break
			}
			t.Log(r.Verdict)
		}
		judged(t, r)
	})
	t.Run("withheld-ticket", func(t *testing.T) {
		r, err := probe.WithheldTicket(requestContext(t, s), s.Handoff(), options)
		if err != nil {
			t.Fatal(err)
		}
		judged(t, r)
	})
}

// judged fails the test for an experiment that proved nothing, and keeps every answer of it.
func judged(t *testing.T, r probe.Result) {
	t.Helper()
	err := r.Verdict.Err()
	if err == nil {
		return
	}
	path := filepath.Join(omnitest.TestDir(t), "probe.json")
	data, _ := json.MarshalIndent(r, "", " ")
	if werr := os.WriteFile(path, data, 0o666); werr != nil {
		t.Error(werr)
	}
	t.Errorf("%v (answers %s)", err, path)
}

// TestKVBytes measures through /metrics what a token's KV costs on the wire and then demands exactly that, in whole blocks,
// for prompts of lengths around the edges of a block.
func TestKVBytes(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	ids, src := vocabulary(t, s), s.Handoff()
	ask := func(n int) api.CompletionRequest {
		return api.CompletionRequest{PromptIDs: draw(ids, n), Sampling: api.Sampling{MaxTokens: 16}}
	}
	e := proven(t, s, src, ask(512), nil)
	perToken, err := handoff.BytesPerToken(e)
	if err != nil {
		t.Fatal(err)
	}
	if echoes(s) {
		// 2 (K and V) x layers x KV heads x head dim x 2 bytes of bf16.
		if want := float64(2 * ar.Layers * ar.KVHeads * ar.HeadDim * 2); perToken != want {
			t.Errorf("%.2f bytes of KV per token moved, the model's geometry says %.0f", perToken, want)
		}
	}
	src.BytesPerToken, src.BlockSize = perToken, e.BlockSize
	block := e.BlockSize
	for _, n := range []int{8, block - 1, block, block + 1, 4 * block, 4*block + 1, 256, 1024} {
		t.Run(fmt.Sprintf("tokens=%d", n), func(t *testing.T) {
			e := proven(t, s, src, ask(n), nil)
			got, want := handoff.Proven(e).Numbers["decode.bytes"], float64((n+block-1)/block*block)*perToken
			if got != want {
				t.Errorf("%d tokens moved %.0f bytes, want whole blocks of %d tokens: %.0f", n, got, block, want)
			}
		})
	}
}
