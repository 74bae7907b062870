package probe_test

import (
	"net/http"
	"net/http/httptest"
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

func TestAlive(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		stack refpd.Stack
		state handoff.State
		says  string
	}{
		{"healthy", refpd.Stack{}, handoff.StateProven, `^proven: decode took 192 of 192 prompt tokens from prefill \(196608 bytes\), computed 0 itself$`},
		// F10: the handshake is refused, and /health stays green.
		{"decode.handshake-mismatch", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{HandshakeMismatch: true}}}, handoff.StateRefuted,
			`^refuted: prefill and decode answer 200 on /health, yet a P/D request fails: decode smoke \(decode\): .* 500 Internal Server Error`},
		{"decode.handshake-mismatch, recomputing", refpd.Stack{Decode: ar.Config{LoadFailure: "recompute", Faults: ar.Faults{HandshakeMismatch: true}}}, handoff.StateRefuted,
			`^refuted: prefill and decode answer 200 on /health, yet decode counted 1 failed transfer; decode computed 192 of 192 prompt tokens itself`},
		{"decode.wait-forever", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{HandshakeMismatch: true, WaitForever: true}}}, handoff.StateRefuted,
			`^refuted: prefill and decode answer 200 on /health, yet a P/D request fails: decode smoke \(decode\): no answer within 6s`},
		{"prefill.fails", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{Fails: true}}}, handoff.StateRefuted,
			`^refuted: prefill and decode answer 200 on /health, yet a P/D request fails: prefill smoke \(prefill\): .* 500`},
		{"prefill.wrong-host", refpd.Stack{Prefill: ar.Config{Faults: ar.Faults{WrongHost: true}}}, handoff.StateRefuted,
			`^refuted: prefill and decode answer 200 on /health, yet a P/D request fails: decode smoke`},
		{"decode.silent-recompute", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{SilentRecompute: true}}}, handoff.StateRefuted,
			`^refuted: prefill and decode answer 200 on /health, yet decode computed 192 of 192 prompt tokens itself`},
		{"decode.missing-series", refpd.Stack{Decode: ar.Config{Faults: ar.Faults{MissingSeries: true}}}, handoff.StateInconclusive, `^inconclusive: .*series absent`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, _ := running(t, c.stack)
			r, err := probe.Alive(bounded(t), s, probe.Options{Limit: 6 * time.Second})
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.LessOrEqual(t, r.Requests, 2)
			assert.Equal(t, "prefill and decode are healthy and hand over", r.Verdict.Claim)
		})
	}
}

func TestAliveNotHealthy(t *testing.T) {
	t.Parallel()
	s, u := running(t, refpd.Stack{})
	require.NoError(t, u.Kill("decode"))
	r, err := probe.Alive(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: decode is not healthy: .*connection refused`, r.Verdict.String())
	assert.Zero(t, r.Requests)

	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer sick.Close()
	s.Prefill.API = &api.Client{BaseURL: sick.URL}
	r, err = probe.Alive(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: prefill is not healthy: .*503.*, and decode is not healthy: .*connection refused`, r.Verdict.String())
}
