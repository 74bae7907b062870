package probe

import (
	"context"
	"fmt"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
)

// Sentinels are fixed prompts whose answers must not change while a stack ages and is loaded: corruption that is gradual or
// comes with load alone (one bad NIC path, a batch that overwrites a neighbour) shows in nothing else. Make them while the
// stack is fresh, Check them as often as you like while you load it, and one more time after. Drift does all of it.
//
// Each sentinel is asked twice by a Check: as it is, which decode mostly answers from its own cache, against the stack's own
// first answer; and with a fresh first block, so that its KV is handed over anew, against prefill alone.
type Sentinels struct {
	source  handoff.Source
	options Options
	block   int
	kept    []sentinel
	checks  int
}

// sentinel is one fixed prompt and what the stack first made of it.
type sentinel struct {
	request api.CompletionRequest
	first   *api.Text
}

const sentinelClaim = "answers do not change with time and load"

// NewSentinels chooses Rounds (0: 4) fresh prompts of Tokens tokens and keeps the stack's answers to them. It sends one request
// for each through the entry, two by direct legs.
func NewSentinels(ctx context.Context, s handoff.Source, o Options) (*Sentinels, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return nil, err
	}
	x := &Sentinels{source: s, options: o}
	if err := x.ask(ctx, p); err != nil {
		return nil, fmt.Errorf("sentinels: %w", err)
	}
	return x, nil
}

// ask takes the first answers.
func (x *Sentinels) ask(ctx context.Context, p *probe) error {
	p.whole = true
	x.block, _ = p.blockTokens(ctx)
	for i := range p.times(4) {
		r := p.fresh(p.Tokens)
		t, err := p.through(ctx, x.source.Entry != nil, fmt.Sprintf("sentinel %d at first", i+1), r)
		if err != nil {
			return err
		}
		x.kept = append(x.kept, sentinel{r, t})
	}
	return nil
}

// Check asks all sentinels, one after the other, and judges what changed.
//
//   - refuted: an answer parts where the control was sure, or is reached with another certainty (see Parity)
//   - inconclusive: a change at a token of which nobody knows how sure it was; near ties in more than half of the answers; a
//     model that gave all sentinels the same answer
//
// It sends 3 requests per sentinel with an Entry, 5 by direct legs. It may be called while the stack is loaded, but not twice
// at once. An error means that a request failed.
func (x *Sentinels) Check(ctx context.Context) (Result, error) {
	p, err := newProbe(x.source, x.options)
	if err != nil {
		return Result{}, err
	}
	p.whole = true
	x.checks++
	phase, err := x.check(ctx, p, fmt.Sprintf("check %d", x.checks))
	if err != nil {
		return p.result, fmt.Errorf("sentinels: %w", err)
	}
	p.result.Verdict = x.judge([]sentinelPhase{phase})
	return p.result, nil
}

// sentinelPhase is what came of the sentinels at one time.
type sentinelPhase struct {
	name   string
	checks []sentinelCheck
}

type sentinelCheck struct {
	name string
	parting
}

func (x *Sentinels) check(ctx context.Context, p *probe, name string) (sentinelPhase, error) {
	phase := sentinelPhase{name: name}
	for i, s := range x.kept {
		again := fmt.Sprintf("sentinel %d", i+1)
		t, err := p.through(ctx, x.source.Entry != nil, again+", "+name, s.request)
		if err != nil {
			return phase, err
		}
		phase.checks = append(phase.checks, sentinelCheck{again, part(s.first, t)})

		anew := again + " handed over anew"
		c, err := p.handedAnew(ctx, anew+", "+name, p.renewed(s.request, x.block))
		if err != nil {
			return phase, err
		}
		phase.checks = append(phase.checks, sentinelCheck{anew, c})
	}
	return phase, nil
}

// handedAnew compares the stack's answer to a prompt that it has not seen with that of prefill alone.
func (p *probe) handedAnew(ctx context.Context, name string, r api.CompletionRequest) (c parting, err error) {
	got, err := p.through(ctx, p.Entry != nil, name, r)
	if err != nil {
		return c, err
	}
	control, err := p.alone(ctx, "control of "+name, r)
	if err != nil {
		return c, err
	}
	return part(control, got), nil
}

// renewed replaces the first block of a prompt: all blocks behind it are then unknown to every prefix cache.
func (p *probe) renewed(r api.CompletionRequest, block int) api.CompletionRequest {
	if head := p.fresh(block); r.PromptIDs != nil {
		r.PromptIDs = append(append([]int{}, head.PromptIDs...), r.PromptIDs[min(block, len(r.PromptIDs)):]...)
		return r
	}
	old := firstBytes(r.Prompt, block)
	r.Prompt = nonce(len(old)) + r.Prompt[len(old):]
	return r
}

// fresh makes a new prompt. A caller's Prompt need not bear to be called at once.
func (p *probe) fresh(tokens int) api.CompletionRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.sized(tokens, nil)
	r.Logprobs = logprobsAsked
	return r
}
