package probe_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// switching sends requests to another stack while so many are under way at once.
func switching(t *testing.T, usual, loaded string, atOnce int64) string {
	t.Helper()
	to := func(base string) http.Handler {
		u, err := url.Parse(base)
		require.NoError(t, err)
		return httputil.NewSingleHostReverseProxy(u)
	}
	a, b := to(usual), to(loaded)
	var now atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer now.Add(-1)
		if now.Add(1) >= atOnce {
			b.ServeHTTP(w, r)
			return
		}
		a.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestReferenceDrift(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		stack  refpd.Stack
		loaded *refpd.Stack // what answers under load; nil: the same
		want   string
	}{
		{"healthy", refpd.Stack{}, nil, "^proven: answers as before: changed 0 of 2 before, 0 of 6 during load, 0 of 2 after, 0 of [0-9]+ of the load itself; [0-9]+ tokens agree$"},
		{"corrupt-under-load", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{CorruptUnderLoad: true}}}, nil,
			"^refuted: answers changed: 0 of 2 before, ([0-9]+ of 6 during load, [0-2] of 2 after, [0-9]+ of [0-9]+ of the load itself); first .*: "},
		{"garbage under load", refpd.Stack{}, &refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ZeroBlocks: true}}},
			"^refuted: answers changed: 0 of 2 before, ([0-9]+ of 6 during load, 0 of 2 after, [0-9]+ of [0-9]+ of the load itself); first .*: from token [0-9]+ on \".*\", before \".*\", sure by [12][0-9]\\.[0-9] nats$"},
		{"one head lost under load", refpd.Stack{}, &refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{LostHead: true}}},
			"^refuted: answers changed: 0 of 2 before, ([0-9]+ of 6 during load, 0 of 2 after, [0-9]+ of [0-9]+ of the load itself); first .*: the text is right, but step [0-9]+ wins by [0-9.]+ nats, before [0-9.]+: part of the KV is missing or wrong$"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, c.stack)
			if c.loaded != nil {
				s.Entry = &api.Client{BaseURL: switching(t, s.Entry.BaseURL, c.loaded.Start(t).Entry, 4)}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
			defer cancel()
			r, err := probe.Drift(ctx, s, probe.Options{Rounds: 1, Tokens: 64})
			require.NoError(t, err)
			assert.Regexp(t, c.want, r.Verdict.String())
			sentinels, controls := 0, 0
			for _, a := range r.Answers {
				if strings.Contains(a.Role, "sentinel") {
					sentinels++
				}
				if strings.HasPrefix(a.Role, "control of load answer") {
					controls++
				}
			}
			load := int(r.Verdict.Numbers["load.requests"])
			assert.Equal(t, 16, sentinels)
			assert.Equal(t, min(32, load), controls)
			assert.Equal(t, sentinels+controls+load, r.Requests)
			assert.GreaterOrEqual(t, load, 8)
		})
	}
}

func TestReferenceSentinels(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
	defer cancel()
	s := start(t, refpd.Stack{})
	healthy := s.Entry.BaseURL
	entry := *s.Entry
	s.Entry = &entry
	x, err := probe.NewSentinels(ctx, s, probe.Options{Rounds: 2, Tokens: 64})
	require.NoError(t, err)
	r, err := x.Check(ctx)
	require.NoError(t, err)
	assert.Equal(t, "proven: answers as before: changed 0 of 4 check 1; 256 tokens agree", r.Verdict.String())
	assert.Equal(t, 6, r.Requests)
	assert.Len(t, r.Answers, 6)

	// From now on the stack serves garbage: those that decode has in its own cache are right, those handed over anew are not.
	entry.BaseURL = refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{ForeignBlocks: true}}}.Start(t).Entry
	_, err = s.Entry.Complete(ctx, api.CompletionRequest{Prompt: strings.Repeat("an older request. ", 9), Sampling: api.Sampling{MaxTokens: 1}})
	require.NoError(t, err)
	r, err = x.Check(ctx)
	require.NoError(t, err)
	assert.Equal(t, handoff.StateRefuted, r.Verdict.State)
	assert.Regexp(t, "^refuted: answers changed: [2-4] of 4 check 2; first sentinel 1", r.Verdict.String())

	entry.BaseURL = healthy
	r, err = x.Check(ctx)
	require.NoError(t, err)
	assert.Regexp(t, "^proven: answers as before: changed 0 of 4 check 3", r.Verdict.String())

	// By direct legs.
	s.Entry = nil
	x, err = probe.NewSentinels(ctx, s, probe.Options{Rounds: 2, Tokens: 64})
	require.NoError(t, err)
	r, err = x.Check(ctx)
	require.NoError(t, err)
	assert.Equal(t, handoff.StateProven, r.Verdict.State, r.Verdict)
	assert.Equal(t, 10, r.Requests)
}
