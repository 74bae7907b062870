// Package probe holds the experiments: they send requests of their own to a stack and say what follows from the answers.
// Each tells beforehand how many requests it sends and what it leaves behind. None of them is for an engine in production.
package probe

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// Options tune the probes. The zero value suits the reference stack.
type Options struct {
	// Prompt makes one-shot prompts that the stack has never seen, all of the same token count. nil: Tokens letters at
	// random, which is Tokens tokens for a byte tokenizer. For a real engine give token ids:
	//	func() api.CompletionRequest { return api.CompletionRequest{PromptIDs: randomIDs(512)} }
	// of tokens that are whole characters: a prompt that ends inside one comes back as part of vLLM's answer.
	Prompt func() api.CompletionRequest
	Tokens int // length of the default prompts; 0: 192
	// Output is how many tokens of each answer are read. 0: 32, and in CrossedTickets as many as the prompt has, 256 at most: a
	// model that repeats its prompt tells of each part of its KV only when it comes to it.
	Output int
	Limit  time.Duration // one request; 0: 60 s. vLLM 0.32 hangs on some tickets instead of refusing them
	Rounds int           // how often an experiment is repeated; 0: what it says itself
	// Concurrency are the numbers of requests at once, for the experiments that load a stack; nil: what they say themselves.
	Concurrency []int

	Destructive bool // Tampering: also tickets that can kill decode; they need Restart
	Strict      bool // Tampering: what real vLLM is known to do wrong refutes too

	// What only the owner of a stack can do. A probe that needs one which is nil is inconclusive and says so.
	Restart func(ctx context.Context, stage string) error                          // "prefill" or "decode": ends it, starts it anew at the same URL, waits until it is ready
	Break   func(ctx context.Context, stage string) (mend func() error, err error) // the stage does not answer, or only with errors, until mended
}

// Result is what a probe did and what follows. Every answer is kept, so that the verdict can be checked by hand.
type Result struct {
	Verdict  handoff.Verdict `json:"verdict"`
	Requests int             `json:"requests"` // sent by the probe, all legs
	Answers  []Answer        `json:"answers"`
	Tampered []Tampered      `json:"tampered,omitempty"` // of Tampering
	Began    time.Time       `json:"began"`
}

// Answer is one request of a probe.
type Answer struct {
	Role   string `json:"role"` // "control a", "decode b with ticket a"
	Stage  string `json:"stage"`
	Prompt string `json:"prompt,omitempty"` // "" for token ids
	Tokens int    `json:"prompt_tokens,omitempty"`
	Text   string `json:"text"`
	Error  string `json:"error,omitempty"`
}

// mostOutput bounds what a probe reads by default.
const mostOutput = 256

// output is how many tokens to ask for. The tokens of a text are not known before it was sent: there are at most as many as bytes.
func (p *probe) output(r api.CompletionRequest) int {
	switch n := max(len(r.PromptIDs), len(r.Prompt)); {
	case p.Output > 0:
		return p.Output
	case !p.whole:
		return 32
	default:
		return min(mostOutput, max(32, n))
	}
}

// probe sends the requests of one experiment and keeps count.
type probe struct {
	handoff.Source
	Options
	whole  bool       // answers are read to the end of the prompt, see Output
	mu     sync.Mutex // of result, where requests are sent at once
	result Result
}

func newProbe(s handoff.Source, o Options) (*probe, error) {
	if s.Prefill.API == nil || s.Decode.API == nil {
		return nil, errors.New("probe: it talks to prefill and decode directly, and one of them has no API client")
	}
	if o.Tokens <= 0 {
		o.Tokens = 192
	}
	if o.Output < 0 {
		o.Output = 0
	}
	if o.Limit <= 0 {
		o.Limit = time.Minute
	}
	if o.Prompt == nil {
		o.Prompt = func() api.CompletionRequest { return api.CompletionRequest{Prompt: nonce(o.Tokens)} }
	}
	return &probe{Source: s, Options: o, result: Result{Began: time.Now()}}, nil
}

// nonce is n random lower-case letters: nothing that any prefix cache has seen, and no two alike.
func nonce(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	for i := range b {
		b[i] = 'a' + b[i]%26
	}
	return string(b)
}

// subject is one prompt with what prefill alone makes of it.
type subject struct {
	name    string
	request api.CompletionRequest
	tokens  int
	control string
	margins []textcheck.Margin // of the control; nil: not told
	ticket  api.Ticket
	first   string // the one token of the prefill leg
}

// ask sends r to a stage.
func (p *probe) ask(ctx context.Context, stage string, client *api.Client, role string, r api.CompletionRequest) (*api.Text, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Limit, fmt.Errorf("no answer within %v", p.Limit))
	defer cancel()
	t, err := client.Complete(ctx, r)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	p.keep(role, stage, r, t, err)
	if err != nil {
		err = fmt.Errorf("%s (%s): %w", role, stage, err)
	}
	return t, err
}

// keep puts one request on the probe's account.
func (p *probe) keep(role, stage string, r api.CompletionRequest, t *api.Text, err error) {
	a := Answer{Role: role, Stage: stage, Prompt: r.Prompt}
	if err != nil {
		a.Error = err.Error()
	} else {
		a.Text = t.String()
		if t.Usage != nil {
			a.Tokens = t.Usage.PromptTokens
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Requests++
	p.result.Answers = append(p.result.Answers, a)
}

// subject prepares a prompt: its control answer from prefill alone, with no transfer involved.
func (p *probe) subject(ctx context.Context, name string) (*subject, error) {
	s := &subject{name: name, request: p.Prompt()}
	s.request.MaxTokens, s.request.Temperature = p.output(s.request), 0
	r := s.request
	r.Logprobs = 2 // of the control alone: they tell where it was undecided
	t, err := p.ask(ctx, "prefill", p.Source.Prefill.API, "control "+name, r)
	if err != nil {
		return nil, err
	}
	if t.Usage != nil {
		s.tokens = t.Usage.PromptTokens
	}
	s.control, s.margins = t.String(), textcheck.MarginsOf(t)
	return s, nil
}

// prefill runs the prefill leg and keeps the ticket.
func (p *probe) prefill(ctx context.Context, s *subject) error {
	r := s.request
	r.MaxTokens, r.Ticket = 1, p.dialect().Ask
	t, err := p.ask(ctx, "prefill", p.Source.Prefill.API, "prefill "+s.name, r)
	if err != nil {
		return err
	}
	if err := handoff.CheckTicket(p.dialect(), t.Ticket); err != nil {
		return fmt.Errorf("prefill %s: %w", s.name, err)
	}
	s.ticket, s.first = t.Ticket, t.String()
	return nil
}

// decode runs the decode leg with a ticket, or none.
func (p *probe) decode(ctx context.Context, role string, s *subject, ticket json.RawMessage) (*api.Text, error) {
	r := s.request
	r.Ticket = ticket
	return p.ask(ctx, "decode", p.Source.Decode.API, role, r)
}

// dialect is the connector's; nil in a Source means NIXL.
func (p *probe) dialect() *handoff.Dialect {
	if p.Source.Dialect == nil {
		return &handoff.NIXL
	}
	return p.Source.Dialect
}

// done closes the probe with a verdict.
func (p *probe) done(claim string, s handoff.State, rule, format string, args ...any) (Result, error) {
	p.result.Verdict = handoff.Verdict{State: s, Claim: claim, Reasons: []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}}
	return p.result, nil
}
