package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
)

// errLeft is the cause with which a client of an experiment goes away.
var errLeft = errors.New("the client left, as planned")

// leavePrefill: the client goes while prefill works on its P leg.
func (r *release) leavePrefill(ctx context.Context) (left, seen bool, err error) {
	for range 3 {
		q := r.long()
		q.MaxTokens, q.Temperature, q.Ticket = 1, 0, r.dialect().Ask
		t, seen, err := r.leave(ctx, "prefill", "P leg left by its client", r.Source.Prefill.API, q)
		if r.tooLong(err) {
			continue
		}
		if err != nil || t == nil {
			r.unseen(seen)
			return err == nil, seen, err
		}
		r.grow()
		// Too late: somebody must pull this ticket, or its blocks would look like a leak until the lease ends.
		if err := r.pull(ctx, q, t.Ticket); err != nil {
			return false, false, err
		}
	}
	return false, false, nil
}

// leaveTicket: the P leg is answered and nothing follows.
func (r *release) leaveTicket(ctx context.Context) (left, seen bool, err error) {
	x := &subject{name: "between the legs", request: r.Prompt()}
	if err := r.prefill(ctx, x); err != nil {
		return false, false, err
	}
	for until := time.Now().Add(time.Second); ; { // the gauge may lag behind the answer
		l, err := handoff.ReadLoad(ctx, r.Source, "prefill")
		if err != nil {
			return false, false, err
		}
		if r.held = max(r.held, l.Usage); l.Usage > r.base.Prefill.Usage || time.Now().After(until) {
			return true, true, nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return false, false, err
		}
	}
}

// leaveLoading: the client goes while decode waits for the blocks.
func (r *release) leaveLoading(ctx context.Context) (left, seen bool, err error) {
	for range 3 {
		x := &subject{name: "decode waits", request: r.long()}
		if err := r.prefill(ctx, x); r.tooLong(err) {
			continue
		} else if err != nil {
			return false, false, err
		}
		q := x.request
		q.MaxTokens, q.Temperature, q.Ticket = 1, 0, x.ticket
		t, seen, err := r.leave(ctx, "decode", "D leg left by its client", r.Source.Decode.API, q)
		if err != nil || t == nil {
			r.unseen(seen)
			return err == nil, seen, err
		}
		r.grow()
	}
	return false, false, nil
}

// mostGrown is how often the prompts of a phase are doubled: 16 times 192 tokens fit every context that is worth a handoff.
const mostGrown = 4

func (r *release) grow() { r.grown, r.eager = min(r.most, r.grown+2), false }

// unseen: a client left, and nobody saw its request run: the next one gets a longer prompt.
func (r *release) unseen(seen bool) {
	if !seen {
		r.grow()
	}
}

// tooLong takes back the last growth where the engine refused its prompt: the context is shorter than that.
func (r *release) tooLong(err error) bool {
	if r.grown == 0 || api.KindOf(err) != api.Refused || r.most < r.grown {
		return false
	}
	r.most = r.grown - 2
	r.grown = r.most
	return true
}

// long is a prompt of as many tokens as the engine's speed asks for, up to what it takes.
func (r *release) long() api.CompletionRequest {
	q := r.Prompt()
	for range 1<<r.grown - 1 {
		more := r.Prompt()
		q.PromptIDs, q.Prompt = append(q.PromptIDs, more.PromptIDs...), q.Prompt+more.Prompt
	}
	return q
}

// leaveDecoding: the client of a stream goes after the first token.
func (r *release) leaveDecoding(ctx context.Context) (left, seen bool, err error) {
	x := &subject{name: "decode generates", request: r.Prompt()}
	if err := r.prefill(ctx, x); err != nil {
		return false, false, err
	}
	return r.leaveStream(ctx, "decode", r.Source.Decode.API, x.request, x.ticket)
}

// leaveEntry is the same through the proxy, which must tell decode.
func (r *release) leaveEntry(ctx context.Context) (left, seen bool, err error) {
	return r.leaveStream(ctx, "entry", r.Source.Entry, r.Prompt(), nil)
}

func (r *release) leaveStream(ctx context.Context, stage string, client *api.Client, q api.CompletionRequest, ticket api.Ticket) (left, seen bool, err error) {
	q.MaxTokens, q.Temperature, q.IgnoreEOS, q.Ticket = longAnswer, 0, true, ticket
	ctx, cancel := context.WithTimeoutCause(ctx, r.Limit, fmt.Errorf("no answer within %v", r.Limit))
	defer cancel()
	t, err := client.StreamComplete(ctx, q, func(e api.Event) error {
		if e.Text != "" {
			return errLeft
		}
		return nil
	})
	r.keep("stream left after the first token", stage, q, t, err)
	switch {
	case errors.Is(err, errLeft):
		return true, true, nil
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return false, false, err // nil: it ended without a token
}

// pull has decode take a ticket that came too late for the experiment.
func (r *release) pull(ctx context.Context, q api.CompletionRequest, ticket api.Ticket) error {
	if len(ticket) == 0 {
		return nil
	}
	_, err := r.decode(ctx, "decode takes a ticket that came too early to leave", &subject{request: q}, ticket)
	return err
}

// leave sends q and goes away once the stage is seen to have it, or, where an engine was too fast for that before, as soon as
// the request is written. t is the answer, if it was there first; seen: the stage told that it runs or waits.
func (r *release) leave(ctx context.Context, stage, role string, client *api.Client, q api.CompletionRequest) (t *api.Text, seen bool, err error) {
	idle, err := handoff.ReadLoad(ctx, r.Source, stage)
	if err != nil {
		return nil, false, err
	}
	sent, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wrote := make(chan struct{}, 8)
	sent = httptrace.WithClientTrace(sent, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		select {
		case wrote <- struct{}{}:
		default:
		}
	}})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t, err = client.Complete(sent, q)
	}()
	deadline := time.Now().Add(r.Limit)
	select {
	case <-wrote:
	case <-ended:
	case <-time.After(r.Limit):
	}
	for !seen && !r.eager && !closed(ended) {
		l, failed := handoff.ReadLoad(ctx, r.Source, stage)
		r.moved = r.moved || failed == nil && stage == "prefill" && l.Usage > idle.Usage
		seen = failed == nil && (l.Running+l.Waiting > 0 || l.Usage > idle.Usage)
		if !seen && (failed != nil || pause(ctx, 2*time.Millisecond) != nil || time.Now().After(deadline)) {
			break
		}
	}
	answered := closed(ended)
	cancel(errLeft)
	<-ended // the client gives up at once, whatever the server does
	r.keep(role, stage, q, t, err)
	switch {
	case err == nil: // answered before we left, or in the very moment
		r.eager = true
		return t, false, nil
	case errors.Is(err, errLeft) || !answered && api.KindOf(err) == api.Canceled:
		return nil, seen, nil
	}
	return nil, false, fmt.Errorf("%s (%s): %w", role, stage, err)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
