package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/stack"
)

// The software of others that is known to hand no KV over, or to hide that none was: llm-d's simulator of vLLM v0.10.2 answers
// with a ticket for show and takes any, and llm-d's sidecar v0.7.1 answers 200 from decode alone when prefill is dead. Both are
// tested as they are. A suite that calls one of them proven is no good on any real stack.

// evidenceOfHandoff are the assertions that speak of KV that moved. None of them may hold where none did.
var evidenceOfHandoff = []string{"handoff-proven", "no-silent-fallback", "bytes-conserved", "metric-sanity", "engine-alive",
	"content-parity", "no-foreign-content", "blocks-released", "ticket-tampering", "handoff-timing"}

// told is what a gate must say of an assertion.
type told struct {
	state handoff.State
	says  []string
}

// judgedBy runs the gate, all of it or the assertions that are expected, and holds it against what it must say.
func judgedBy(t *testing.T, target gate.Target, want map[string]told) *gate.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if target.Limit == 0 {
		target.Limit = 20 * time.Second
	}
	r, err := gate.Run(ctx, target)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(omnitest.TestDir(t), "gate.json")
	if err := r.WriteFile(path); err != nil {
		t.Error(err)
	}
	for name, w := range want {
		o := r.Outcome(name)
		if o == nil {
			t.Errorf("%s was not run", name)
			continue
		}
		if o.Verdict.State != w.state {
			t.Errorf("%s is %s, want %s: %s", name, o.Verdict.State, w.state, o.Verdict)
		}
		for _, text := range w.says {
			if !strings.Contains(o.Verdict.String(), text) {
				t.Errorf("%s does not say %q: %s", name, text, o.Verdict)
			}
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\ngate report: %s", r, path)
		}
	})
	return r
}

// neverProven: whatever else is said of such a stack.
func neverProven(t *testing.T, r *gate.Report) {
	t.Helper()
	for _, o := range r.Outcomes {
		if slices.Contains(evidenceOfHandoff, o.Name) && o.Verdict.State == handoff.StateProven {
			t.Errorf("%s is proven, and no KV was ever moved: %s", o.Name, o.Verdict)
		}
	}
	if r.State == handoff.StateProven || r.Err() == nil {
		t.Errorf("the gate lets it pass: %s", r)
	}
}

const (
	noRequestID = "ticket lacks remote_request_id"
	noSeries    = "series absent: vllm:iteration_tokens_total_sum of decode and "
)

// TestThirdPartySimulators: omnitest's own proxy before two simulators. All is green that a client sees: the stack starts, its
// smoke request passes, every answer is 200 and right.
func TestThirdPartySimulators(t *testing.T) {
	p, d := simulatorPair(t, thirdParty(t))
	s := omnitest.Start(t, stack.Spec{Stages: map[engine.Stage]stack.Stage{
		engine.Proxy: {}, engine.Prefill: {Engine: stack.EngineRemote, URL: p.BaseURL}, engine.Decode: {Engine: stack.EngineRemote, URL: d.BaseURL},
	}})
	src := s.Handoff()

	t.Run("gate", func(t *testing.T) {
		neverProven(t, judgedBy(t, gate.Target{Source: src}, map[string]told{
			"handoff-proven":     {handoff.StateRefuted, []string{"prefill's " + noRequestID + " (and 7 more like it)", noSeries}},
			"no-silent-fallback": {handoff.StateInconclusive, []string{"decode does not tell what it computed itself"}},
			"proxy-conformance":  {handoff.StateProven, []string{"8 requests: prefill asked once for one token"}}, // the proxy is ours and does its part
			"ticket-well-formed": {handoff.StateRefuted, []string{noRequestID}},
			"bytes-conserved":    {handoff.StateInconclusive, []string{"vllm:nixl_bytes_transferred_sum of decode: absent"}},
			"metric-sanity":      {handoff.StateInconclusive, []string{noSeries}},
			"engine-alive":       {handoff.StateRefuted, []string{"prefill and decode answer 200 on /health, yet a P/D request fails", noRequestID}},
			"no-foreign-content": {handoff.StateInconclusive, []string{"crossed tickets: prefill own: " + noRequestID, "withheld ticket: prefill with: " + noRequestID}},
			"ticket-tampering":   {handoff.StateInconclusive, []string{noRequestID}},
		}))
	})

	// A dialect that takes any ticket leaves the experiments nothing but what decode does. Crossing then shows the fiction without a
	// single metric; withholding finds its instrument blind.
	t.Run("any ticket will do", func(t *testing.T) {
		lax := handoff.NIXL
		lax.Name, lax.Ticket, lax.Check = "nixl, any ticket", nil, nil
		src := src
		src.Dialect = &lax
		ctx := requestContext(t, s)
		// Its tokenizer takes a word for a token.
		words := probe.Options{Prompt: func() api.CompletionRequest {
			list := make([]string, 48)
			for i := range list {
				list[i] = nonce()[:4]
			}
			return api.CompletionRequest{Prompt: strings.Join(list, " ")}
		}}
		crossed, err := probe.CrossedTickets(ctx, src, words)
		if err != nil {
			t.Fatal(err)
		}
		if v := crossed.Verdict; v.State != handoff.StateRefuted || !v.Has("ticket-ignored") || !strings.Contains(v.String(), "was answered as if it had its own") {
			t.Errorf("crossed tickets: %s", v)
		}
		withheld, err := probe.WithheldTicket(ctx, src, words)
		if err != nil {
			t.Fatal(err)
		}
		if v := withheld.Verdict; v.State != handoff.StateInconclusive || !strings.Contains(v.String(), "instrument blind: decode does not tell what it computed (vllm:iteration_tokens_total_sum absent)") {
			t.Errorf("withheld ticket: %s", v)
		}
		neverProven(t, judgedBy(t, gate.Target{Source: src, Options: words, Only: []string{"handoff-proven", "no-foreign-content", "engine-alive", "bytes-conserved", "metric-sanity"}}, map[string]told{
			"handoff-proven":     {handoff.StateRefuted, []string{"prefill generated ", noSeries}}, // it repeats the prompt whatever max_tokens says
			"no-foreign-content": {handoff.StateRefuted, []string{"decode does not use what the ticket names"}},
		}))
	})

	t.Run("deviations", func(t *testing.T) { simulatorDeviations(t, s) })
}

// simulatorDeviations lists where the simulator is not what vLLM 0.32 was recorded to be. Each line is a fact of v0.10.2; one that
// no longer holds says that the pinned version was changed.
func simulatorDeviations(t *testing.T, s *omnitest.Stack) {
	ctx := requestContext(t, s)
	prefill, decode := s.Stage(engine.Prefill), s.Stage(engine.Decode)
	r := api.CompletionRequest{Prompt: "one two three four five six seven eight"}
	ask := r
	ask.MaxTokens, ask.Ticket = 1, askForTicket
	leg, err := prefill.Complete(ctx, ask)
	if err != nil {
		t.Fatal(err)
	}
	if err := handoff.CheckTicket(&handoff.NIXL, leg.Ticket); err == nil || err.Error() != noRequestID {
		t.Errorf("the ticket for show: %v, want %s", err, noRequestID)
	}
	named := map[string]any{}
	if err := json.Unmarshal(leg.Ticket, &named); err != nil {
		t.Fatal(err)
	}
	named["remote_request_id"] = "cmpl-x" // and with that key: the next thing that is wrong
	whole, err := json.Marshal(named)
	if err != nil {
		t.Fatal(err)
	}
	if err := handoff.CheckTicket(&handoff.NIXL, whole); err == nil || err.Error() != `remote_block_ids are not numbers: ["DUMMY_ID"]` {
		t.Errorf("the ticket for show, with a request id: %v", err)
	}
	again, err := prefill.Complete(ctx, api.CompletionRequest{Prompt: "another prompt", Sampling: ask.Sampling})
	if err != nil {
		t.Fatal(err)
	}
	if string(again.Ticket) != string(leg.Ticket) {
		t.Errorf("two prompts have different tickets, %s and %s: it was one for all", leg.Ticket, again.Ticket)
	}
	if got := leg.Choices[0].FinishReason; got != "remote_decode" {
		t.Errorf("prefill's finish_reason is %q; it was remote_decode, vLLM says length", got)
	}
	streamed := ask
	if _, err := prefill.StreamComplete(ctx, streamed, nil); err == nil || !strings.Contains(err.Error(), "400 Bad Request: Prefill does not support streaming") {
		t.Errorf("a streamed prefill leg: %v; it was refused, vLLM streams and gives no ticket", err)
	}
	r.Ticket = recordedTicket(t)
	if _, err := decode.Complete(ctx, r); err == nil || !strings.Contains(err.Error(), "400 Bad Request") {
		t.Errorf("a ticket of real vLLM: %v; decode refused it, because its block ids are texts", err)
	}
	r.Ticket = api.Ticket(`{"do_remote_prefill":true,"do_remote_decode":false,"remote_engine_id":"nobody","remote_block_ids":[],"remote_host":"nowhere","remote_port":1}`)
	if _, err := decode.Complete(ctx, r); err != nil {
		t.Errorf("a ticket of nobody: %v; decode took it, vLLM refuses or computes", err)
	}
	r.Ticket, r.MaxTokens = nil, 2
	long, err := decode.Complete(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if long.Usage == nil || long.Usage.CompletionTokens <= r.MaxTokens {
		t.Errorf("max_tokens 2: %+v; in echo mode it was ignored", long.Usage)
	}
}
