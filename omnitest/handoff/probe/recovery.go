package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const recoveryClaim = "after a restart of a stage the handoff works again"

// recoveryRounds is how many requests may fail after a restart: each side may find a connection broken, and the address that it
// remembers of its peer is stale (recorded on the reference stack: 1).
const recoveryRounds = 3

// Recovery restarts prefill, then decode (Options.Restart), each on a stack that works. Of the requests that follow the first
// Rounds (0: 3) may fail, if they do so within Limit, but none may hang or be answered wrongly; the next one, through Entry where
// it is set, must be proven in a window of its own, and both engines must be healthy. A decode that keeps its dead peer's agent
// fails every later request while /health says 200 (vLLM #49238).
//
// The last of those that may fail goes through Entry too: a proxy has connections of its own that may be broken.
//
// It sends 3 requests a round and 6 more for each of the two stages, 2 fewer with Entry: 30 or 26 with 3 rounds, fewer where legs
// fail. It leaves nothing but two engines with empty caches. Nothing else may use the stack.
func Recovery(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	switch {
	case p.Restart == nil:
		return p.done(recoveryClaim, handoff.StateInconclusive, "no-restart", "nobody can restart this stack's stages: Options.Restart is not given")
	case p.dialect().Ask == nil:
		return p.done(recoveryClaim, handoff.StateInconclusive, "no-tickets", "connector %s has no tickets", p.dialect().Name)
	}
	if p.Rounds <= 0 {
		p.Rounds = recoveryRounds
	}
	r := &recovery{probe: p}
	for _, stage := range []string{"prefill", "decode"} {
		if err := r.stage(ctx, stage); err != nil {
			return p.result, fmt.Errorf("recovery: %s: %w", stage, err)
		}
		if len(r.reasons) > 0 && r.reasons[len(r.reasons)-1].State != handoff.StateProven {
			break // what a second restart shows of a stack that is broken already is anybody's guess
		}
	}
	p.result.Verdict = verdictOf(recoveryClaim, r.reasons, r.notes, nil)
	return p.result, nil
}

type recovery struct {
	*probe
	reasons []handoff.Reason
	notes   []string
}

func (r *recovery) say(s handoff.State, rule, format string, args ...any) {
	r.reasons = append(r.reasons, handoff.Reason{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// stage restarts one stage.
func (r *recovery) stage(ctx context.Context, stage string) error {
	direct := r.Source
	direct.Entry, direct.Ledger = nil, nil
	before, err := r.windowed(ctx, direct, "before "+stage+" restarts")
	if err != nil {
		return err
	}
	if before.State != handoff.StateProven {
		r.say(handoff.StateInconclusive, "not-well-before", "the handoff was not well before %s was restarted: %s", stage, before)
		return nil
	}
	if err := r.Restart(ctx, stage); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	r.forgetConnections()
	failed, slowest, first := 0, time.Duration(0), error(nil)
	for i := range r.Rounds {
		began := time.Now()
		err := r.after(ctx, stage, i+1)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		var wrong *wrongText
		if errors.As(err, &wrong) {
			r.say(handoff.StateRefuted, "wrong-content", "%s was restarted, and request %d after it was answered wrongly: %v", stage, i+1, wrong)
			return nil
		}
		took := time.Since(began)
		if api.KindOf(err) == api.Timeout || api.KindOf(err) == api.Canceled {
			r.say(handoff.StateRefuted, "hung", "%s was restarted, and request %d after it had no answer within %v%s: %v", stage, i+1, r.Limit, r.healthy(ctx), err)
			return nil
		}
		failed, slowest = failed+1, max(slowest, took)
		if first == nil {
			first = err
		}
	}
	last := direct
	if r.Source.Entry != nil {
		last = r.Source
	}
	v, err := r.windowed(ctx, last, "last after "+stage+" restarted")
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	met := fmt.Sprintf("%d of the %d before it failed", failed, r.Rounds)
	if first != nil {
		met += fmt.Sprintf(", the first with: %v", first)
	}
	switch dead := r.unhealthy(ctx); {
	case dead != nil:
		r.say(handoff.StateRefuted, "died", "%s was restarted, and then %v", stage, dead)
	case err != nil:
		r.say(handoff.StateRefuted, "not-recovered", "%s was restarted%s, yet request %d after it fails: %v; %s", stage, r.healthy(ctx), r.Rounds+1, err, met)
	case v.State == handoff.StateRefuted:
		r.say(handoff.StateRefuted, "not-recovered", "%s was restarted%s, yet request %d after it is %s; %s", stage, r.healthy(ctx), r.Rounds+1, v, met)
	case v.State != handoff.StateProven:
		r.say(handoff.StateInconclusive, "last-not-proven", "%s was restarted, and request %d after it is %s", stage, r.Rounds+1, v)
	default:
		r.say(handoff.StateProven, "recovered", "%s was restarted: %d of the next %d requests failed, the slowest after %.1f s, and the one after them is proven", stage, failed, r.Rounds, slowest.Seconds())
		if first != nil {
			r.notes = append(r.notes, fmt.Sprintf("after the restart of %s: %v", stage, first))
		}
	}
	return nil
}

// forgetConnections drops this client's own kept connections, which broke with the stage: they would cost a request that says
// nothing about the stack.
func (p *probe) forgetConnections() {
	for _, e := range p.engines() {
		e.client.CloseIdle()
	}
}

// healthy says what /health answers, for a report about requests that fail.
func (r *recovery) healthy(ctx context.Context) string {
	if dead := r.unhealthy(ctx); dead != nil {
		return fmt.Sprintf(" (%v)", dead)
	}
	return ", prefill and decode answer 200 on /health"
}

// wrongText is an answer that is not the control's.
type wrongText struct{ text string }

func (w *wrongText) Error() string { return w.text }

// after is one request of those that may fail: a fresh prompt, leg by leg, the last through the proxy.
func (r *recovery) after(ctx context.Context, stage string, n int) error {
	x, err := r.subject(ctx, fmt.Sprintf("%d after %s restarted", n, stage))
	if err != nil {
		return err
	}
	var t *api.Text
	if r.Source.Entry != nil && n == r.Rounds {
		t, err = r.ask(ctx, "entry", r.Source.Entry, "entry "+x.name, x.request)
	} else if err = r.prefill(ctx, x); err == nil {
		t, err = r.decode(ctx, "decode "+x.name, x, x.ticket)
	}
	if err != nil {
		return err
	}
	if !r.rightText(t.String(), x) {
		return &wrongText{textcheck.Divergence(t.String(), x.control)}
	}
	return nil
}

// windowed sends one fresh prompt in a window and judges it whole: through the proxy where the source has one, else leg by leg.
func (r *recovery) windowed(ctx context.Context, s handoff.Source, name string) (handoff.Verdict, error) {
	x, err := r.subject(ctx, name) // before the window: a control is traffic on prefill as well
	if err != nil {
		return handoff.Verdict{}, err
	}
	w, err := handoff.Open(ctx, s)
	if err != nil {
		return handoff.Verdict{}, err
	}
	var t *api.Text
	if s.Entry != nil {
		t, err = r.ask(ctx, "entry", s.Entry, "entry "+name, x.request)
	} else if err = r.prefill(ctx, x); err == nil {
		t, err = r.decode(ctx, "decode "+name, x, x.ticket)
	}
	if err != nil {
		return handoff.Verdict{}, err
	}
	seen := handoff.Observed(t, nil)
	if s.Entry == nil {
		seen.RequestID = ""
	}
	seen.Prompt, seen.Want, seen.WantFrom, seen.Margins = x.request.Prompt, x.control, "control: prefill alone", x.margins
	w.Observe(seen)
	e, err := w.Close(ctx)
	if err != nil {
		return handoff.Verdict{}, err
	}
	return handoff.Proven(e), nil
}
