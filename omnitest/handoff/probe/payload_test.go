package probe_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// studio starts a real DiT and, in front of it, a liar that may change the prompt of each picture.
func studio(t *testing.T, lie func(prompt string) string) (honest, liar string) {
	t.Helper()
	d := refpd.Stack{DiT: &dit.Config{}}.Start(t)
	to, err := url.Parse(d.DiT)
	require.NoError(t, err)
	pass := httputil.NewSingleHostReverseProxy(to)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/images/generations" {
			var body map[string]any
			if assert.NoError(t, json.NewDecoder(r.Body).Decode(&body)) {
				body["prompt"] = lie(body["prompt"].(string))
				raw, _ := json.Marshal(body)
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
			}
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return d.DiT, srv.URL
}

// previous gives each picture the plan of the one before it.
func previous() func(string) string {
	var mu sync.Mutex
	last := ""
	return func(p string) string {
		mu.Lock()
		defer mu.Unlock()
		if last == "" {
			last = p
		}
		p, last = last, p
		return p
	}
}

func TestCrossedPayload(t *testing.T) {
	t.Parallel()
	constant := func(string) string { return "a yellow star over a forest" }
	for _, c := range []struct {
		name      string
		lie       func(string) string // between the proxy and the DiT
		directToo bool                // and towards the probe as well
		state     handoff.State
		says      string
		requests  int
	}{
		{"healthy", nil, false, handoff.StateProven, `^proven: each picture is the one of its own plan: 0.0 and 0.0 from it, \d+\.\d and \d+\.\d from that of the other plan$`, 5},
		{"plans crossed", previous(), false, handoff.StateRefuted, `^refuted: picture b at the entry is the one of plan a: 0.0 from it, \d+\.\d from that of its own plan$`, 5},
		{"something else sent", constant, false, handoff.StateRefuted, `^refuted: picture a at the entry is neither that of its own plan "A large red circle .* nor that of the other \(\d+\.\d\): the DiT was given something else; picture b at the entry is neither`, 5},
		{"one picture for all", constant, true, handoff.StateRefuted, `^refuted: the DiT gives the very same picture for the plans "A large red circle .* it does not read its payload, or answers from a cache$`, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stack := refpd.Stack{DiT: &dit.Config{}}
			direct := ""
			if c.lie != nil {
				honest, liar := studio(t, c.lie)
				stack.Proxy.DiT, direct = liar, honest
				if c.directToo {
					direct = liar
				}
			}
			s, u := running(t, stack)
			if direct == "" {
				direct = u.DiT
			}
			s.DiT = &api.Client{BaseURL: direct}
			r, err := probe.CrossedPayload(bounded(t), s, probe.Options{})
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.Equal(t, c.requests, r.Requests)
			assert.Len(t, r.Answers, c.requests)
			if c.state == handoff.StateProven {
				require.Len(t, r.Verdict.Notes, 2, "the reference model echoes: its plan is the prompt")
				assert.Contains(t, r.Verdict.Notes[0], "plan a is the client's own prompt")
			}
		})
	}
}

func TestCrossedPayloadNeedsItsStages(t *testing.T) {
	t.Parallel()
	s, u := running(t, refpd.Stack{DiT: &dit.Config{}})
	r, err := probe.CrossedPayload(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: the DiT cannot be asked directly: Source.DiT is not given", r.Verdict.String())
	s.DiT, s.Entry = &api.Client{BaseURL: u.DiT}, nil
	r, err = probe.CrossedPayload(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: there is no entry to order pictures at: Source.Entry is not given", r.Verdict.String())
	assert.Zero(t, r.Requests)

	// A DiT alone behind the entry makes no plans.
	d, _ := running(t, refpd.Stack{})
	s.Entry, d.Entry = &api.Client{BaseURL: u.DiT}, nil
	r, err = probe.CrossedPayload(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: neither the flow ledger nor the answer tells the plan of picture a", r.Verdict.String())
}
