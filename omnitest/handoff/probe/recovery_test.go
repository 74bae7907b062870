package probe_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// running starts a reference stack whose stages the test can restart and break.
func running(t *testing.T, s refpd.Stack) (handoff.Source, *refpd.Running) {
	t.Helper()
	u := s.Start(t)
	return handoff.Source{
		Entry:         &api.Client{BaseURL: u.Entry},
		Prefill:       handoff.Endpoint{API: &api.Client{BaseURL: u.Prefill}},
		Decode:        handoff.Endpoint{API: &api.Client{BaseURL: u.Decode}},
		BytesPerToken: ar.BytesPerToken,
		Settle:        10 * time.Millisecond, IdleWithin: refpd.Limit,
	}, u
}

// bounded is a deadline for a whole probe; generous, as the machine may be busy.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 9*refpd.Limit)
	t.Cleanup(cancel)
	return ctx
}

func TestRecovery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		stack refpd.Stack
		entry bool
		state handoff.State
		says  string
		most  int // requests
	}{
		{"healthy", refpd.Stack{}, true, handoff.StateProven,
			`^proven: prefill was restarted: [0-3] of the next 3 requests failed, the slowest after \d+\.\d s, and the one after them is proven; decode was restarted: [0-2] of the next 3 requests failed, .* is proven$`, 26},
		{"healthy, past the proxy", refpd.Stack{}, false, handoff.StateProven, `^proven: prefill was restarted: [0-3] of .*; decode was restarted: `, 30},
		// F9: every pull from the new prefill fails, and /health says 200.
		{"decode.stale-peer", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{StalePeer: true}}}, false, handoff.StateRefuted,
			`^refuted: prefill was restarted, prefill and decode answer 200 on /health, yet request 4 after it fails: decode last after prefill restarted \(decode\): .* 500 .*; 3 of the 3 before it failed, the first with: `, 15},
		{"decode.stale-peer, through the proxy", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{StalePeer: true}}}, true, handoff.StateRefuted,
			`^refuted: prefill was restarted, prefill and decode answer 200 on /health, yet request 4 after it fails: entry last after prefill restarted \(entry\): `, 13},
		{"decode.stale-peer, recomputing", refpd.Stack{Decode: ar.Config{LoadFailure: "recompute", Faults: ar.Faults{StalePeer: true}}}, false, handoff.StateRefuted,
			`^refuted: prefill was restarted, prefill and decode answer 200 on /health, yet request 4 after it is refuted: .*decode computed 192 of 192 prompt tokens itself`, 15},
		{"decode waits for a peer that is gone", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{WaitForever: true}}}, false, handoff.StateRefuted,
			`^refuted: prefill was restarted, and request [1-3] after it had no answer within 6s, prefill and decode answer 200 on /health: `, 12},
		{"not well before", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{SilentRecompute: true}}}, false, handoff.StateInconclusive,
			`^inconclusive: the handoff was not well before prefill was restarted: refuted: decode computed 192 of 192`, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, u := running(t, c.stack)
			if !c.entry {
				s.Entry = nil
			}
			limit := time.Minute
			if c.stack.Decode.Faults.WaitForever {
				limit = 6 * time.Second
			}
			r, err := probe.Recovery(bounded(t), s, probe.Options{Restart: u.Restart, Limit: limit})
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.LessOrEqual(t, r.Requests, c.most)
			assert.GreaterOrEqual(t, r.Requests, c.most-8, "legs after one that failed are not sent")
		})
	}
}

func TestRecoveryNeedsAnOwner(t *testing.T) {
	t.Parallel()
	s, u := running(t, refpd.Stack{})
	r, err := probe.Recovery(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: nobody can restart this stack's stages: Options.Restart is not given", r.Verdict.String())
	assert.Zero(t, r.Requests)

	_, err = probe.Recovery(bounded(t), s, probe.Options{Restart: func(context.Context, string) error { return errors.New("no such unit") }})
	assert.EqualError(t, err, "recovery: prefill: restart: no such unit")

	// An owner who says that the stage is back, and it is not.
	r, err = probe.Recovery(bounded(t), s, probe.Options{Restart: func(_ context.Context, stage string) error { return u.Kill(stage) }})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: prefill was restarted, and then prefill is not healthy: .*refused`, r.Verdict.String())
}
