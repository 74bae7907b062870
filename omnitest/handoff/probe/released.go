package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const releasedClaim = "prefill and decode give back the KV blocks of clients that leave"

// releaseMargin is how much longer than the lease the blocks of a ticket may stay: real vLLM gave them up between 5.7 and 6.8 s
// after an answer with a lease of 6 s (recorded), and an engine on a busy machine may be slower.
const releaseMargin = 5 * time.Second

// releasedRounds is how often clients leave in each phase. A leak shows at the first lost block, as the gauge counts in blocks:
// more rounds find what happens only now and then.
const releasedRounds = 3

// longAnswer is asked for where the client leaves after the first token: decode must not have finished by then.
const longAnswer = 1024

// Released lets clients leave in four phases, Rounds times each (0: 3), and then waits until nothing runs or waits on prefill and
// decode and both KV pools are where they were before, for Source.Lease and 5 s at most:
//
//	a  while prefill works on the P leg
//	b  between the legs: prefill answered with a ticket, nobody calls decode
//	c  while decode waits for the KV
//	d  while decode generates, after the first token; with Entry set, also through the proxy
//
// In b prefill rightly holds the blocks until the lease ends, and must then count one expired ticket each; in a and c it may, as
// an engine that notices too late that its client is gone has a ticket that nobody knows (vLLM: "between P's end and D's
// scheduler"). In d nothing may expire. Both engines must stay healthy, no request may fail that nobody left, and at the end one
// handoff must give the right text.
//
// Phases a and c want an engine that is slow enough to be caught at it, so their prompts grow, to 16 times the usual length. A phase
// in which the engine had done all the same before any client was gone is named as not shown, and proves nothing; b and d must be.
//
// It sends 7 requests a round (6 without Entry) and 6 more, and up to 9 more a round where the engine was faster than the client.
// It takes one lease. It leaves nothing behind on an engine that passes.
func Released(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	if p.dialect().Ask == nil {
		return p.done(releasedClaim, handoff.StateInconclusive, "no-tickets", "connector %s has no tickets: prefill holds nothing for anybody", p.dialect().Name)
	}
	if p.Rounds <= 0 {
		p.Rounds = releasedRounds
	}
	r := &release{probe: p, lease: leaseOf(s), most: mostGrown}
	if why, err := r.handoff(ctx, "before"); err != nil {
		return p.result, fmt.Errorf("released: %w", err)
	} else if why != "" {
		return p.done(releasedClaim, handoff.StateInconclusive, "not-well-before", "the handoff was not well before any client left: %s", why)
	}
	base, err := handoff.ReadUsage(ctx, s)
	if err != nil {
		return p.result, fmt.Errorf("released: %w", err)
	}
	phases := []phase{
		{"prefill worked on the prompt", "prefill", true, r.leavePrefill},
		{"a ticket waited for decode", "prefill", false, r.leaveTicket},
		{"decode waited for the KV", "decode", true, r.leaveLoading},
		{"decode generated", "decode", false, r.leaveDecoding},
	}
	if s.Entry != nil {
		phases = append(phases, phase{"decode generated, through the proxy", "decode", false, r.leaveEntry})
	}
	for _, ph := range phases {
		if base, err = r.run(ctx, ph, base); err != nil {
			return p.result, fmt.Errorf("released: %s: %w", ph.name, err)
		}
		if r.dead {
			break
		}
	}
	if !r.dead {
		why, err := r.handoff(ctx, "after all clients left")
		switch {
		case ctx.Err() != nil:
			return p.result, fmt.Errorf("released: %w", context.Cause(ctx))
		case err != nil:
			r.say(handoff.StateRefuted, "broken-after", "the handoff after all that failed: %v", err)
		case why != "":
			r.say(handoff.StateRefuted, "wrong-after", "the handoff after all that gave the wrong text: %s", why)
		default:
			r.attest()
		}
	}
	p.result.Verdict = verdictOf(releasedClaim, r.reasons, r.notes, r.numbers)
	return p.result, nil
}

func leaseOf(s handoff.Source) time.Duration {
	if s.Lease > 0 {
		return s.Lease
	}
	return 30 * time.Second
}

// phase is one moment at which clients leave. leave is one client; it tells whether it left before the engine had done.
type phase struct {
	name, stage string
	swift       bool // an engine may be done with it before any client can leave
	leave       func(ctx context.Context) (left, seen bool, err error)
}

// release is the state of the experiment.
type release struct {
	*probe
	lease    time.Duration
	eager    bool // in this phase: leave as soon as the request is written, without looking whether it runs
	dead     bool
	reasons  []handoff.Reason
	notes    []string
	numbers  map[string]float64
	moved    bool // prefill's usage was seen to rise, so that its gauge can show a prompt's blocks
	most     int  // of that
	grown    int  // times that the prompts of a swift phase were made longer
	notShown []string
	held     float64 // in phase b: prefill's pool with all tickets out
	base     handoff.Usage
}

func (r *release) say(s handoff.State, rule, format string, args ...any) {
	r.reasons = append(r.reasons, handoff.Reason{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// run lets the clients of one phase leave and judges what is left. It gives the baseline of the next phase.
func (r *release) run(ctx context.Context, ph phase, base handoff.Usage) (handoff.Usage, error) {
	r.eager, r.grown, r.held, r.base = false, 0, 0, base
	left, seen, began := 0, 0, time.Now()
	for range r.Rounds {
		gone, caught, err := ph.leave(ctx)
		if ctx.Err() != nil {
			return base, context.Cause(ctx)
		}
		if err != nil {
			// It worked before the first client left.
			if !r.died(ctx, ph, left) {
				r.dead = true
				r.say(handoff.StateRefuted, "broken-after", "while %s, after %d client%s of this phase had left, a request failed: %v", ph.name, left, plural(left), err)
			}
			return base, nil
		}
		if gone {
			left++
		}
		if caught {
			seen++
		}
	}
	between := ph.name == "a ticket waited for decode"
	if left == 0 {
		r.missed(ph, fmt.Sprintf("the engine had answered first in all %d rounds", r.Rounds))
	}
	if r.died(ctx, ph, left) {
		return base, nil
	}
	err := handoff.BlocksReleased(ctx, r.Source, base, r.lease+releaseMargin)
	took := time.Since(began)
	if ctx.Err() != nil {
		return base, context.Cause(ctx)
	}
	var leak *handoff.Leak
	switch {
	case errors.As(err, &leak):
		// Several stages may leak: the joined error has a line for each.
		r.say(handoff.StateRefuted, "leak", "%d client%s left while %s: %s", left, plural(left), ph.name, strings.ReplaceAll(err.Error(), "\n", "; "))
	case err != nil && r.died(ctx, ph, left):
		return base, nil
	case err != nil:
		return base, err
	default:
		r.notes = append(r.notes, fmt.Sprintf("while %s: %d of %d clients left in time, %d of them with the request seen running; all blocks back after %.1f s", ph.name, left, r.Rounds, seen, took.Seconds()))
		r.expiries(ctx, ph, base, left, seen, between, took)
	}
	next, err := r.usage(ctx)
	if err != nil {
		if leak != nil { // what is still busy cannot be a baseline; this phase has said all
			r.dead = true
			return base, nil
		}
		return base, err
	}
	return next, nil
}

// expiries compares prefill's count of expired tickets with what the phase must leave.
func (r *release) expiries(ctx context.Context, ph phase, base handoff.Usage, left, seen int, between bool, took time.Duration) {
	least, most := 0, 0
	switch {
	case between:
		least, most = left, left
	case ph.name == "prefill worked on the prompt" || ph.name == "decode waited for the KV":
		most = left
	}
	switch {
	case !between:
	case r.held <= base.Prefill.Usage && !r.moved:
		r.say(handoff.StateInconclusive, "gauge-too-coarse", "prefill answered with %d ticket%s and its usage stayed at %.4f, as it did while it worked on prompts of this length: a gauge that rounds does not tell whether the blocks are held (longer prompts or more Rounds are needed)",
			left, plural(left), base.Prefill.Usage)
	case r.held <= base.Prefill.Usage:
		r.say(handoff.StateRefuted, "freed-early", "prefill answered with %d ticket%s and held no blocks (usage %.4f, baseline %.4f): whoever pulls reads what others have written",
			left, plural(left), r.held, base.Prefill.Usage)
	case r.Source.Lease > 0 && took < r.lease*4/5: // recorded: 5.7 s of 6
		r.say(handoff.StateRefuted, "freed-early", "prefill gave the blocks of %d ticket%s back after %.1f s, its lease is %v", left, plural(left), took.Seconds(), r.lease)
	}
	if base.Prefill.Expired < 0 {
		if between {
			r.notes = append(r.notes, "prefill does not count expired tickets: that the lease ended is known from the pool alone")
		}
		return
	}
	// The count may be published a moment later than the pool.
	expired := -1.0
	for wait := time.Now().Add(2 * time.Second); ; {
		l, err := handoff.ReadLoad(ctx, r.Source, "prefill")
		if err == nil {
			expired = l.Expired - base.Prefill.Expired
		}
		if err != nil || expired >= float64(least) || time.Now().After(wait) || pause(ctx, 20*time.Millisecond) != nil {
			break
		}
	}
	switch {
	case expired < 0:
		r.say(handoff.StateInconclusive, "absent-series", "prefill's count of expired tickets could not be read after clients left while %s", ph.name)
	case expired < float64(least):
		r.say(handoff.StateRefuted, "expired-count", "prefill counted %.0f of %d tickets that nobody pulled as expired, though it gave their blocks back after %.1f s", expired, least, took.Seconds())
	case expired > float64(most):
		r.say(handoff.StateRefuted, "expired-count", "%d client%s left while %s and %.0f tickets expired on prefill, at most %d may: decode did not tell prefill", left, plural(left), ph.name, expired, most)
	case most == left && !between && left > 0 && seen == 0 && expired == float64(left):
		r.missed(ph, fmt.Sprintf("the engine had done each of %d prompts before it noticed that the client was gone", left))
	case expired > 0 && !between:
		r.notes = append(r.notes, fmt.Sprintf("while %s: %.0f of %d left blocks that waited for the lease to end", ph.name, expired, left))
	}
	r.number("expired", expired)
}

// missed is a phase that the engine was too fast for.
func (r *release) missed(ph phase, why string) {
	r.notShown = append(r.notShown, ph.name)
	text := fmt.Sprintf("not shown: that clients left while %s: %s (set Options.Tokens higher)", ph.name, why)
	if r.notes = append(r.notes, text); !ph.swift {
		r.say(handoff.StateInconclusive, "not-reached", "%s", text)
	}
}

// attest is said where nothing objects.
func (r *release) attest() {
	but := ""
	if len(r.notShown) > 0 {
		but = "; the engine was too fast to show it while " + strings.Join(r.notShown, ", and while ")
	}
	r.say(handoff.StateProven, "released", "after clients left both KV pools came back to their baseline, both engines live and the next handoff is right%s", but)
}

func (r *release) number(name string, v float64) {
	if r.numbers == nil {
		r.numbers = map[string]float64{}
	}
	r.numbers[name] += v
}

// usage is ReadUsage for the next phase.
func (r *release) usage(ctx context.Context) (handoff.Usage, error) {
	s := r.Source
	if s.IdleWithin <= 0 || s.IdleWithin > releaseMargin {
		s.IdleWithin = releaseMargin // it was idle just now
	}
	return handoff.ReadUsage(ctx, s)
}

// died asks both engines for their health. An engine that does not outlive its clients has no blocks to give back.
func (r *release) died(ctx context.Context, ph phase, left int) bool {
	for _, e := range r.engines() {
		if err := e.health(ctx); err != nil && ctx.Err() == nil {
			r.dead = true
			r.say(handoff.StateRefuted, "died", "%s died after %d client%s left while %s: %v", e.name, left, plural(left), ph.name, err)
		}
	}
	return r.dead
}

// handoff sends one prompt through both legs; why is what is wrong with the answer.
func (r *release) handoff(ctx context.Context, name string) (why string, err error) {
	x, err := r.subject(ctx, name)
	if err == nil {
		err = r.prefill(ctx, x)
	}
	if err != nil {
		return "", err
	}
	got, err := r.decode(ctx, "decode "+name, x, x.ticket)
	if err == nil && !r.rightText(got.String(), x) {
		why = textcheck.Divergence(got.String(), x.control)
	}
	return why, err
}
