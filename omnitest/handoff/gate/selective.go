package gate

import (
	"context"
	"errors"
	"fmt"
	"image"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// Experiments for failures that hit one request in many, or one kind of request, and pass a window of a few alike ones.

// Repeat sends one prompt four times through the entry, whole and streamed, each under an id of its own, and asks that decode
// finished as many requests as were answered: an answer that a proxy keeps and gives again never reached the stages. It sends 4
// requests.
func Repeat(ctx context.Context, s handoff.Source, o probe.Options) (r probe.Result, err error) {
	t, err := newTraffic(s, o)
	if err != nil {
		return r, err
	}
	const claim = "identical requests are answered by the stages, each anew"
	r.Began = time.Now()
	before, err := finished(ctx, s)
	if err != nil {
		return r, err
	}
	q := drawn(o)()
	q.MaxTokens = 16
	answered, ids := 0, map[string]int{}
	var failed error
	for i := range 4 {
		q.RequestID = fmt.Sprintf("gate-repeat-%d-%s", i, letters(8))
		a, err := t.complete(ctx, q, i >= 2)
		if err != nil {
			failed = err
			continue
		}
		answered++
		if a.ID != "" {
			ids[a.ID]++
		}
	}
	r.Requests = t.sent
	after, err := finished(ctx, s)
	if err != nil {
		return r, err
	}
	say := func(state handoff.State, rule, format string, args ...any) {
		r.Verdict.State = state
		r.Verdict.Reasons = append(r.Verdict.Reasons, handoff.Reason{State: state, Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	r.Verdict = handoff.Verdict{Claim: claim, State: handoff.StateProven}
	for id, n := range ids {
		if n > 1 {
			say(handoff.StateRefuted, "answered-from-cache", "%d answers to requests with ids of their own have the same id %s: they are one answer", n, id)
		}
	}
	switch n := after - before; {
	case len(r.Verdict.Reasons) > 0:
	case before >= 0 && n < float64(answered):
		say(handoff.StateRefuted, "answered-from-cache", "%d identical requests were answered, and decode finished %.0f: the others were answered from a cache in front of it", answered, n)
	case failed != nil:
		say(handoff.StateInconclusive, "request-failed", "one of four identical requests failed: %v", failed)
	case before < 0 && len(ids) < answered:
		say(handoff.StateInconclusive, "not-told", "neither decode's count of finished requests nor ids of answers tell who answered")
	default:
		say(handoff.StateProven, "answered-anew", "decode finished %.0f requests for %d identical ones", n, answered)
	}
	return r, nil
}

// finished waits until the stack is idle and reads how many requests decode has ended; -1: not told.
func finished(ctx context.Context, s handoff.Source) (float64, error) {
	if _, err := handoff.ReadUsage(ctx, s); err != nil {
		return 0, err
	}
	l, err := handoff.ReadLoad(ctx, s, "decode")
	return l.Finished, err
}

// keptRequests are enough for a leak of one block in 50 requests to show twice.
const keptRequests = 120

// Kept gives the experiment that sends 120 short requests through the entry, four at a time, and then asks that both KV pools are
// where they were at began: a leak of one block in 50 requests is 12 blocks after a gate, and an engine without room after a week.
// Cached blocks do not count as used. nil: the pools are read before the first of its own requests.
func Kept(began *handoff.Usage) Experiment {
	return func(ctx context.Context, s handoff.Source, o probe.Options) (r probe.Result, err error) {
		t, err := newTraffic(s, o)
		if err != nil {
			return r, err
		}
		r.Began = time.Now()
		base := began
		if base == nil {
			now, err := handoff.ReadUsage(ctx, s)
			if err != nil {
				return r, err
			}
			base = &now
		}
		next, lanes := drawn(o), make(chan api.CompletionRequest)
		var wg sync.WaitGroup
		var mu sync.Mutex
		failed, why := 0, error(nil)
		for range 4 {
			wg.Go(func() {
				for q := range lanes {
					if _, err := t.complete(ctx, q, false); err != nil {
						mu.Lock()
						failed, why = failed+1, err
						mu.Unlock()
					}
				}
			})
		}
		for range keptRequests {
			q := next()
			q.MaxTokens, q.RequestID = 4, "gate-kept-"+letters(8)
			lanes <- q
		}
		close(lanes)
		wg.Wait()
		r.Requests = t.sent
		lease := s.Lease
		if lease <= 0 {
			lease = 30 * time.Second
		}
		var leak *handoff.Leak
		const soon = 5 * time.Second
		err = handoff.BlocksReleased(ctx, s, *base, soon)
		if errors.As(err, &leak) && leak.Stage == "prefill" { // it may hold a ticket that nobody pulled, until the lease ends; decode may not
			err = handoff.BlocksReleased(ctx, s, *base, lease+soon)
		}
		say := func(state handoff.State, rule, format string, args ...any) {
			r.Verdict = handoff.Verdict{Claim: "no request leaves a KV block behind", State: state,
				Reasons: []handoff.Reason{{State: state, Rule: rule, Text: fmt.Sprintf(format, args...)}}}
		}
		switch {
		case errors.As(err, &leak):
			say(handoff.StateRefuted, "slow-leak", "blocks stayed behind since the beginning, %d requests of this experiment among what was sent: %s", t.sent, strings.ReplaceAll(err.Error(), "\n", "; "))
		case err != nil:
			return r, err
		case failed > 0:
			say(handoff.StateInconclusive, "request-failed", "%d of %d requests failed, the last one: %v", failed, t.sent, why)
		default:
			say(handoff.StateProven, "nothing-kept", "after %d requests both KV pools are where they were at the beginning", t.sent)
		}
		return r, nil
	}
}

// planEndParams are those of two small pictures that are compared with each other only.
var planEndParams = api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 8, Seed: 20260823}

// PlanEnd asks the DiT for two pictures whose plans are 600 characters long and differ in their last words alone, a text and a
// coloured thing. Two pictures that are the very same refute: the end of a plan does not reach the picture (an encoder that cuts,
// a field that is too short). It sends 2 requests to the DiT.
func PlanEnd(ctx context.Context, s handoff.Source, o probe.Options) (r probe.Result, err error) {
	limit := o.Limit
	if limit <= 0 {
		limit = time.Minute
	}
	if s.DiT == nil {
		return r, errors.New("there is no DiT to ask: Source.DiT is not given")
	}
	r.Began = time.Now()
	story := "A quiet street in the early morning, " + strings.Repeat("with another house and its garden behind the one before, ", 9)
	var pictures [2]*image.RGBA
	for i, end := range []string{`and at its end a large red circle with the words "` + letters(6) + `"`, `and at its end a huge blue square with the words "` + letters(6) + `"`} {
		end = end + strings.Repeat(".", 64-len(end)) // one length: what is cut by a share of it is cut alike
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no picture within %v", limit))
		a, err := s.DiT.Generate(ctx, api.ImageRequest{Prompt: story + end, RequestID: "gate-plan-end-" + letters(8), ImageParams: planEndParams})
		cancel()
		r.Requests++
		if err == nil && len(a.Items) != 1 {
			err = fmt.Errorf("%d pictures for one", len(a.Items))
		}
		if err == nil {
			pictures[i], err = a.Items[0].Decode()
		}
		if err != nil {
			return r, fmt.Errorf("plan's end: %w", err)
		}
	}
	tiles, err := imagecheck.TileMAD(imagecheck.Luma(pictures[0]), imagecheck.Luma(pictures[1]))
	if err != nil {
		return r, fmt.Errorf("plan's end: %w", err)
	}
	worst := 0.0
	for _, v := range tiles.MAD {
		worst = max(worst, v)
	}
	const changed = 8.0 // imagecheck's bound of a tile that has changed, 0-255
	reason := handoff.Reason{State: handoff.StateProven, Rule: "plan-end-read", Text: fmt.Sprintf("two plans that differ in their last words give pictures whose worst tile differs by %.1f", worst)}
	switch {
	case imagecheck.PixelSHA256(pictures[0]) == imagecheck.PixelSHA256(pictures[1]):
		reason = handoff.Reason{State: handoff.StateRefuted, Rule: "plan-end-lost", Text: fmt.Sprintf("two plans of %d characters that differ in their last words give the very same picture: the end of a plan is not read", len(story)+64)}
	case worst < changed:
		reason = handoff.Reason{State: handoff.StateInconclusive, Rule: "plan-end-faint", Text: fmt.Sprintf("two plans that differ in their last words give pictures whose worst tile differs by %.1f, at least %.0f is needed", worst, changed)}
	}
	r.Verdict = handoff.Verdict{Claim: "a picture shows the end of its plan", State: reason.State, Reasons: []handoff.Reason{reason}, Numbers: map[string]float64{"dit.plan_end_apart": worst}}
	return r, nil
}

// drawn gives fresh prompts: the owner's, or letters.
func drawn(o probe.Options) func() api.CompletionRequest {
	if o.Prompt != nil {
		return o.Prompt
	}
	n := o.Tokens
	if n <= 0 {
		n = 192
	}
	return func() api.CompletionRequest { return api.CompletionRequest{Prompt: letters(n)} }
}

// complete sends one request within its limit and counts it.
func (t *traffic) complete(ctx context.Context, q api.CompletionRequest, stream bool) (*api.Text, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.limit, fmt.Errorf("no answer within %v", t.limit))
	defer cancel()
	t.count()
	if stream {
		return t.source.Entry.StreamComplete(ctx, q, nil)
	}
	return t.source.Entry.Complete(ctx, q)
}
