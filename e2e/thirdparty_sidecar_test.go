package e2e

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// nobody is an address at which nothing listens.
const nobody = "http://127.0.0.1:1"

// judgeable are the assertions that look at one window, and need not more of a stack than its traffic.
var judgeable = []string{"handoff-proven", "no-silent-fallback", "bounded-termination", "proxy-conformance", "ticket-well-formed"}

// TestThirdPartySidecarSimulators is the whole of llm-d, with taps in between: its sidecar and two of its simulators, in good
// health. Each leg is asked for, each answer is right, and no KV is moved.
func TestThirdPartySidecarSimulators(t *testing.T) {
	paths := thirdParty(t)
	p, d := simulatorPair(t, paths)
	c := sidecarChain(t, paths, p, d, p.BaseURL)
	neverProven(t, judgedBy(t, gate.Target{Source: c.Source}, map[string]told{
		"handoff-proven":      {handoff.StateRefuted, []string{noSeries}},
		"no-silent-fallback":  {handoff.StateInconclusive, []string{"decode does not tell what it computed itself"}},
		"bounded-termination": {handoff.StateProven, []string{"8 requests ended"}},
		"ticket-well-formed":  {handoff.StateRefuted, []string{noRequestID}},
		"engine-alive":        {handoff.StateRefuted, []string{noRequestID}},
		"no-foreign-content":  {handoff.StateInconclusive, []string{noRequestID}},
	}))
}

// TestThirdPartySidecarFallback: prefill is dead, or answers 500, and the sidecar answers 200 from decode alone. With simulators
// behind it only the taps can tell; engines with vLLM's counters give it away alone.
func TestThirdPartySidecarFallback(t *testing.T) {
	paths := thirdParty(t)
	silent := func(cause string) map[string]told {
		return map[string]told{
			"handoff-proven":     {handoff.StateRefuted, []string{"prefill failed (" + cause, "yet decode answered without a declared fallback (and 7 more like it)"}},
			"no-silent-fallback": {handoff.StateRefuted, []string{"prefill failed (" + cause, "yet decode answered and no fallback was declared (and 39 more like it)"}},
			"proxy-conformance":  {handoff.StateRefuted, []string{"prefill failed at +", cause, "decode was called all the same at +"}},
			"ticket-well-formed": {handoff.StateRefuted, []string{"prefill failed (" + cause}},
		}
	}
	t.Run("dead, simulators", func(t *testing.T) {
		p, d := simulatorPair(t, paths)
		c := sidecarChain(t, paths, p, d, nobody)
		neverProven(t, judgedBy(t, gate.Target{Source: c.Source, Only: judgeable}, silent("dial tcp 127.0.0.1:1: connect: connection refused")))
		// The same without taps. The sidecar keeps no ledger, the simulators count nothing: not seen, and not passed.
		c.Ledger = nil
		neverProven(t, judgedBy(t, gate.Target{Source: c.Source, Only: judgeable}, map[string]told{
			"handoff-proven":     {handoff.StateInconclusive, []string{noSeries}},
			"no-silent-fallback": {handoff.StateInconclusive, []string{"decode does not tell what it computed itself"}},
			"proxy-conformance":  {handoff.StateInconclusive, []string{"needs a flow ledger, omnitest's own proxy or a wiretap"}},
		}))
	})
	t.Run("500, simulators", func(t *testing.T) {
		p, d := simulatorPair(t, paths)
		c := sidecarChain(t, paths, p, d, p.BaseURL)
		if err := c.taps.Refuse("prefill", http.StatusInternalServerError); err != nil {
			t.Fatal(err)
		}
		neverProven(t, judgedBy(t, gate.Target{Source: c.Source, Only: judgeable}, silent("500 Internal Server Error")))
	})
	t.Run("dead, engines that count", func(t *testing.T) {
		p, d := referencePair(t)
		c := sidecarChain(t, paths, p, d, nobody)
		want := silent("dial tcp 127.0.0.1:1: connect: connection refused")
		const computed = " prompt tokens itself (iteration_tokens +"
		for _, name := range []string{"handoff-proven", "no-silent-fallback"} {
			want[name] = told{handoff.StateRefuted, append(slices.Clone(want[name].says), "decode computed ", computed)}
		}
		neverProven(t, judgedBy(t, gate.Target{Source: c.Source, Only: judgeable}, want))
		c.Ledger = nil
		neverProven(t, judgedBy(t, gate.Target{Source: c.Source, Only: judgeable}, map[string]told{
			"handoff-proven":     {handoff.StateRefuted, []string{"decode computed ", computed}},
			"no-silent-fallback": {handoff.StateRefuted, []string{"decode computed ", computed, "for 8 answered requests"}},
		}))
	})
	// The experiment breaks prefill itself, through its tap.
	t.Run("broken on purpose", func(t *testing.T) {
		p, d := referencePair(t)
		c := sidecarChain(t, paths, p, d, p.BaseURL)
		c.Prefill.API = c.tapped
		judgedBy(t, gate.Target{Source: c.Source, Options: probe.Options{Break: c.taps.Break}, Only: []string{"dead-prefill"}}, map[string]told{
			"dead-prefill": {handoff.StateRefuted, []string{"prefill is broken (", "503 Service Unavailable", "yet the entry answered 200 with ", "declared no fallback: decode answered alone"}},
		})
	})
}

// TestThirdPartySidecarHandsOver: the same sidecar in front of engines that do hand KV over. A suite that refutes this one too has
// caught nothing above.
func TestThirdPartySidecarHandsOver(t *testing.T) {
	paths := thirdParty(t)
	p, d := referencePair(t)
	c := sidecarChain(t, paths, p, d, p.BaseURL)
	r := judgedBy(t, gate.Target{Source: c.Source, Only: append([]string{"bytes-conserved", "metric-sanity", "engine-alive", "content-parity", "no-foreign-content"}, judgeable...)}, map[string]told{
		"no-silent-fallback":  {handoff.StateProven, []string{"8 answered, of whose prompts decode computed 0 tokens itself"}},
		"bounded-termination": {handoff.StateProven, nil},
		"bytes-conserved":     {handoff.StateProven, nil},
		"metric-sanity":       {handoff.StateProven, nil},
		"engine-alive":        {handoff.StateProven, nil},
		"content-parity":      {handoff.StateProven, nil},
		"no-foreign-content":  {handoff.StateProven, nil},
	})
	for _, name := range []string{"handoff-proven", "proxy-conformance", "ticket-well-formed"} {
		provenOf(t, name, r.Outcome(name).Verdict)
	}
	// Without taps nobody sees the tickets, and counters and answers prove it.
	c.Ledger = nil
	judgedBy(t, gate.Target{Source: c.Source, Only: []string{"handoff-proven"}}, map[string]told{"handoff-proven": {handoff.StateProven, nil}})
}

// provenOf demands proof. The sidecar decodes a ticket and encodes it again, by which the order of its keys changes and nothing else:
// that is a note.
func provenOf(t *testing.T, name string, v handoff.Verdict) {
	t.Helper()
	if err := v.Err(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// TestThirdPartySidecarConformance lists what this sidecar makes of requests, one in a window of its own each.
func TestThirdPartySidecarConformance(t *testing.T) {
	paths := thirdParty(t)
	p, d := referencePair(t)
	c := sidecarChain(t, paths, p, d, p.BaseURL)
	direct := *c.Entry
	direct.HTTP = nil // no header: nobody has picked a prefiller
	complete := func(c *api.Client, extra map[string]any) func(context.Context, string) (*api.Text, error) {
		return func(ctx context.Context, id string) (*api.Text, error) {
			return c.Complete(ctx, api.CompletionRequest{Prompt: strings.Repeat(nonce(), 4), Sampling: api.Sampling{MaxTokens: 8, RequestID: id, Extra: extra}})
		}
	}
	for _, x := range []struct {
		name string
		send func(ctx context.Context, id string) (*api.Text, error)
		err  string // what the client is told; "": an answer
		says string // of Conformant; "": no more than that tickets are rewritten
		fall string // of NoSilentFallback; "": it is proven
	}{
		{name: "whole", send: complete(c.Entry, nil)},
		{name: "both limits", send: complete(c.Entry, map[string]any{"max_completion_tokens": 5})},
		{name: "streamed", send: func(ctx context.Context, id string) (*api.Text, error) {
			return c.Entry.StreamComplete(ctx, api.CompletionRequest{Prompt: strings.Repeat(nonce(), 4), Sampling: api.Sampling{MaxTokens: 8, RequestID: id}}, nil)
		}},
		{name: "chat", send: func(ctx context.Context, id string) (*api.Text, error) {
			return c.Entry.Chat(ctx, api.ChatRequest{Messages: []api.Message{{Role: "user", Text: strings.Repeat(nonce(), 4)}}, Sampling: api.Sampling{MaxTokens: 8, RequestID: id}})
		}},
		{name: "min_tokens", send: complete(c.Entry, map[string]any{"min_tokens": 4}),
			err: "400 Bad Request: min_tokens must be between 0 and max_tokens=1", says: "prefill leg has min_tokens 4 with one token to make"},
		// It reads numbers as floats: a whole number above 2^53 is another one behind it.
		{name: "a seed of 64 bits", send: complete(c.Entry, map[string]any{"seed": int64(1)<<53 + 1}),
			says: "decode leg is not the client's own request: seed 9007199254740993 became 9007199254740992"},
		{name: "no prefiller named", send: complete(&direct, nil),
			says: "sent to decode at +", fall: "answered by decode alone, prefill was never called, and no fallback was declared"},
	} {
		t.Run(x.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			w, err := handoff.Open(ctx, c.Source)
			if err != nil {
				t.Fatal(err)
			}
			id := "conform-" + nonce()
			answer, err := x.send(ctx, id)
			if (err == nil) != (x.err == "") || err != nil && !strings.Contains(err.Error(), x.err) {
				t.Errorf("the client was told %v, want %q", err, x.err)
			}
			o := handoff.Observed(answer, err)
			o.RequestID = id
			w.Observe(o)
			e, err := w.Close(ctx)
			if err != nil {
				t.Fatal(err)
			}
			switch v := handoff.Conformant(e); {
			case x.says == "":
				provenOf(t, "proxy-conformance", v)
			case v.State != handoff.StateRefuted || !strings.Contains(v.String(), x.says):
				t.Errorf("conformance: want %q: %s", x.says, v)
			}
			switch v := handoff.NoSilentFallback(e); {
			case x.fall == "" && v.State != handoff.StateProven:
				t.Errorf("no silent fallback: %s", v)
			case x.fall != "" && (v.State != handoff.StateRefuted || !strings.Contains(v.String(), x.fall)):
				t.Errorf("no silent fallback: want %q: %s", x.fall, v)
			}
		})
	}
}

// TestThirdPartySidecarFaults plants faults in the engines behind the sidecar: what goes wrong there is found through a proxy of
// others as through our own.
func TestThirdPartySidecarFaults(t *testing.T) {
	paths := thirdParty(t)
	for name, x := range map[string]struct {
		prefill, decode ar.Faults
		want            map[string]told
	}{
		"decode computes": {decode: ar.Faults{SilentRecompute: true}, want: map[string]told{
			"handoff-proven":     {handoff.StateRefuted, []string{"decode computed ", "bytes 0"}},
			"no-silent-fallback": {handoff.StateRefuted, []string{"decode computed "}},
			"no-foreign-content": {handoff.StateRefuted, []string{"was answered as if it had its own", "decode does not use what the ticket names"}},
		}},
		"no ticket": {prefill: ar.Faults{NoTicketOnStop: true}, want: map[string]told{
			"no-silent-fallback": {handoff.StateRefuted, []string{"without a ticket, yet decode answered and no fallback was declared"}},
			"proxy-conformance":  {handoff.StateRefuted, []string{"without a ticket, decode was called all the same"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := launchForeign(t, "prefill", engine.Reference{Role: "prefill", Config: ar.Config{Faults: x.prefill}})
			d := launchForeign(t, "decode", engine.Reference{Role: "decode", Config: ar.Config{Faults: x.decode}})
			c := sidecarChain(t, paths, p, d, p.BaseURL)
			only := slices.Collect(maps.Keys(x.want))
			judgedBy(t, gate.Target{Source: c.Source, Only: only, Options: probe.Options{Prompt: threefold}}, x.want)
		})
	}
}

// threefold makes prompts whose bytes, which are the reference engine's tokens, sum to a multiple of 3: those that get no ticket
// with NoTicketOnStop.
func threefold() api.CompletionRequest {
	text, sum := []byte(strings.Repeat(nonce(), 19)), 0
	for _, b := range text {
		sum += int(b)
	}
	return api.CompletionRequest{Prompt: string(append(text, 'c'+byte(2-(sum+2)%3)))} // 'c' is 99
}
