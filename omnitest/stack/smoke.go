package stack

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/flow"
)

// smokeLimit is how long the smoke request may take: the first request of an engine compiles kernels (16 s were seen on a
// CPU), and one whose transfer hangs never ends.
const smokeLimit = 3 * time.Minute

// SmokeError says that every stage answers its health check and a request that needs prefill and decode together fails.
// Wrongly paired engines (another block size, another parallel size, no connector) look like that: each is healthy alone,
// and the first handoff breaks.
type SmokeError struct {
	Stage    engine.Stage // the leg that failed; "": cannot be told
	Instance *engine.Instance
	Story    string // the request in the proxy's ledger; "": there is none
	Cause    error
}

func (e *SmokeError) Error() string {
	var b strings.Builder
	b.WriteString("health lies: all stages answer their health check, but a request through prefill and decode fails")
	if e.Stage != "" {
		fmt.Fprintf(&b, " in the %s leg", e.Stage)
	}
	fmt.Fprintf(&b, ": %v", e.Cause)
	if e.Story != "" {
		b.WriteString("\n  ledger " + e.Story)
	}
	if in := e.Instance; in != nil && in.LogPath() != "" {
		tail := in.Tail(smokeTail)
		if hint := engine.Diagnose(tail); hint != "" {
			b.WriteString("\n  " + hint)
		}
		fmt.Fprintf(&b, "\n  log %s ends with:\n    %s", in.LogPath(), strings.Join(tail[max(0, len(tail)-10):], "\n    "))
	}
	b.WriteString("\n  skip_smoke: true starts the stack all the same")
	return b.String()
}

func (e *SmokeError) Unwrap() error { return e.Cause }

const smokeTail = 200

// needsSmoke: the reference engines are made for each other; others were put together by somebody.
func (s *Stack) needsSmoke() bool {
	p, d := s.instances[engine.Prefill], s.instances[engine.Decode]
	return !s.Spec.SkipSmoke && p != nil && d != nil && !(p.Simulated && d.Simulated)
}

// smoke sends one request of a few blocks through prefill and decode, by way of the proxy where there is one.
func (s *Stack) smoke(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, smokeLimit, fmt.Errorf("no end within %s", smokeLimit))
	defer cancel()
	id := "omnitest-smoke-" + strings.ToLower(rand.Text()[:8])
	// Random words: a prefix cache could answer a prompt that it has seen. About 130 tokens for a real tokenizer, several
	// blocks of any size in use; the first block alone would not show that blocks are laid out differently.
	words := []string{"Repeat"}
	for range 24 {
		words = append(words, strings.ToLower(rand.Text()[:6]))
	}
	request := api.CompletionRequest{Prompt: strings.Join(words, " "), Sampling: api.Sampling{MaxTokens: 8, RequestID: id}}
	if proxy := s.instances[engine.Proxy]; proxy != nil {
		return s.smokeProxy(ctx, proxy, request)
	}
	return s.smokeLegs(ctx, request)
}

func (s *Stack) smokeProxy(ctx context.Context, proxy *engine.Instance, r api.CompletionRequest) error {
	r.Model = cmp.Or(s.instances[engine.Decode].Model, proxy.Model)
	client := api.Client{BaseURL: proxy.BaseURL, Timeout: smokeLimit}
	defer client.CloseIdle()
	_, err := client.Complete(ctx, r)
	if err == nil {
		return nil
	}
	fail := &SmokeError{Cause: err}
	var e *api.Error
	if errors.As(err, &e) {
		fail.Stage = engine.Stage(e.Stage)
	}
	// The ledger also knows of a leg whose error went to the client as it was: an error event inside a 200.
	if rec := ledgerOf(context.WithoutCancel(ctx), &client, r.RequestID); rec != nil {
		fail.Story = rec.String()
		for _, h := range rec.Hops {
			if fail.Stage == "" && (h.Error != "" || h.Status != 200 || h.EndMS == 0) {
				fail.Stage = engine.Stage(h.Stage)
			}
		}
	}
	fail.Instance = s.instances[fail.Stage]
	return fail
}

func ledgerOf(ctx context.Context, c *api.Client, id string) *flow.Record {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var page flow.Page
	if c.GetJSON(ctx, flow.Path, &page) != nil {
		return nil // somebody else's proxy
	}
	if i := slices.IndexFunc(page.Records, func(r flow.Record) bool { return r.RequestID == id }); i >= 0 {
		return &page.Records[i]
	}
	return nil
}

// askTicket is what a proxy of vLLM's NIXL connector sends to prefill.
var askTicket = api.Ticket(`{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}`)

// smokeLegs is what the proxy would do, for a stack without one.
func (s *Stack) smokeLegs(ctx context.Context, r api.CompletionRequest) error {
	leg := func(stage engine.Stage, r api.CompletionRequest) (*api.Text, error) {
		in := s.instances[stage]
		client := api.Client{BaseURL: in.BaseURL, Model: in.Model, Timeout: smokeLimit}
		defer client.CloseIdle()
		t, err := client.Complete(ctx, r)
		if err != nil {
			return nil, &SmokeError{Stage: stage, Instance: in, Cause: err}
		}
		return t, nil
	}
	first := r
	first.MaxTokens, first.Ticket = 1, askTicket
	p, err := leg(engine.Prefill, first)
	if err != nil {
		return err
	}
	if len(p.Ticket) == 0 {
		return &SmokeError{Stage: engine.Prefill, Instance: s.instances[engine.Prefill], Cause: errors.New("prefill gave no ticket (kv_transfer_params): is a KV connector configured there?")}
	}
	r.Ticket = p.Ticket
	_, err = leg(engine.Decode, r)
	return err
}
