package probe

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const aliveClaim = "prefill and decode are healthy and hand over"

// Alive is readiness that does not believe /health, which stays green while every request fails (vLLM #23086, #42895, #50765: a
// refused handshake): both engines must say that they are healthy, one fresh prompt must go from prefill to decode in a window
// of its own, by the rules of handoff.Moved, and both must be healthy afterwards. What decode answers is not compared.
//
// It sends 2 requests, the legs themselves, past the proxy. No answer within Limit is a failure here.
func Alive(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	if dead := p.unhealthy(ctx); dead != nil {
		if ctx.Err() != nil {
			return p.result, fmt.Errorf("alive: %w", context.Cause(ctx))
		}
		return p.done(aliveClaim, handoff.StateRefuted, "not-healthy", "%v", dead)
	}
	s.Entry, s.Ledger = nil, nil // the probe goes round the proxy: its ledger has nothing to say
	w, err := handoff.Open(ctx, s)
	if err != nil {
		return p.result, fmt.Errorf("alive: %w", err)
	}
	x := &subject{name: "smoke", request: p.Prompt()}
	x.request.MaxTokens, x.request.Temperature = p.output(x.request), 0
	if p.dialect().Ask != nil {
		err = p.prefill(ctx, x)
	} else { // decode finds prefill's blocks by content
		r := x.request
		r.MaxTokens = 1
		_, err = p.ask(ctx, "prefill", p.Source.Prefill.API, "prefill smoke", r)
	}
	var t *api.Text
	if err == nil {
		t, err = p.decode(ctx, "decode smoke", x, x.ticket)
	}
	if ctx.Err() != nil {
		return p.result, fmt.Errorf("alive: %w", context.Cause(ctx))
	}
	if err != nil {
		after := "prefill and decode answer 200 on /health"
		if dead := p.unhealthy(ctx); dead != nil {
			after = fmt.Sprintf("prefill and decode answered 200 on /health before, and now %v", dead)
		}
		return p.done(aliveClaim, handoff.StateRefuted, "healthy-and-failing", "%s, yet a P/D request fails: %v", after, err)
	}
	observed := handoff.Observed(t, nil)
	observed.RequestID = ""
	w.Observe(observed)
	e, err := w.Close(ctx)
	if err != nil {
		return p.result, fmt.Errorf("alive: %w", err)
	}
	v := handoff.Moved(e)
	if dead := p.unhealthy(ctx); dead != nil {
		return p.done(aliveClaim, handoff.StateRefuted, "died", "the first P/D request was answered, and then %v", dead)
	}
	v.Claim = aliveClaim
	for i := range v.Reasons {
		if v.Reasons[i].State == handoff.StateRefuted {
			v.Reasons[i].Text = "prefill and decode answer 200 on /health, yet " + v.Reasons[i].Text
			break
		}
	}
	p.result.Verdict = v
	return p.result, nil
}

// aliveEngine is one engine and its name.
type aliveEngine struct {
	name   string
	client *api.Client
}

func (p *probe) engines() []aliveEngine {
	return []aliveEngine{{"prefill", p.Source.Prefill.API}, {"decode", p.Source.Decode.API}}
}

// healthLimit bounds one /health: an engine that hangs still accepts connections.
const healthLimit = 10 * time.Second

func (e aliveEngine) health(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healthLimit, fmt.Errorf("/health gave no answer within %v", healthLimit))
	defer cancel()
	err := e.client.Health(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// unhealthy is nil where both engines are healthy.
func (p *probe) unhealthy(ctx context.Context) error {
	var all error
	for _, e := range p.engines() {
		switch err := e.health(ctx); {
		case err == nil:
		case all == nil:
			all = fmt.Errorf("%s is not healthy: %w", e.name, err)
		default:
			all = fmt.Errorf("%w, and %s is not healthy: %w", all, e.name, err)
		}
	}
	return all
}

// verdictOf makes a verdict of several findings: refutation outranks doubt, and only what was attested is proven.
func verdictOf(claim string, reasons []handoff.Reason, notes []string, numbers map[string]float64) handoff.Verdict {
	rank := map[handoff.State]int{handoff.StateRefuted: 0, handoff.StateInconclusive: 1, handoff.StateProven: 2}
	slices.SortStableFunc(reasons, func(a, b handoff.Reason) int { return rank[a.State] - rank[b.State] })
	v := handoff.Verdict{Claim: claim, Reasons: reasons, Notes: notes, Numbers: numbers}
	if len(reasons) > 0 {
		v.State = reasons[0].State
	}
	if v.State != handoff.StateProven {
		v.Reasons = slices.DeleteFunc(v.Reasons, func(r handoff.Reason) bool { return r.State == handoff.StateProven })
	}
	return v
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// rightText tells whether an answer is the control's, up to a near tie of the control itself. Where the control does not tell its
// margins, 32 bytes in common will do, as in valid.
func (p *probe) rightText(got string, x *subject) bool {
	if _, same := p.valid(got, x); same {
		return true
	}
	_, tie := textcheck.Undecided(x.margins, got, x.control)
	return tie
}
