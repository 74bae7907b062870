package gate_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// run asks some assertions of a stack.
func run(t *testing.T, g gate.Target, only ...string) *gate.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g.Only = only
	r, err := gate.Run(ctx, g)
	require.NoError(t, err)
	return r
}

// passive are the assertions that only look, and cost one window between them.
var passive = []string{"handoff-proven", "no-silent-fallback", "bounded-termination", "proxy-conformance", "ticket-well-formed", "metric-sanity"}

func TestGateOfAHealthyStack(t *testing.T) {
	t.Parallel()
	f := refpd.Failure{}
	s := f.Stack(t)
	r := run(t, target(s.Start(t), s), passive...)
	require.NoError(t, r.Err(), "%s", r)
	assert.Equal(t, handoff.StateProven, r.State)
	require.Len(t, r.Outcomes, len(passive))
	assert.Equal(t, 24, r.Requests, "10 texts, 2 chats and their controls, for all six")
	assert.Nil(t, r.Pictures)
	path := filepath.Join(t.TempDir(), "gate.json")
	require.NoError(t, r.WriteFile(path))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	back := new(gate.Report)
	require.NoError(t, json.Unmarshal(data, back))
	assert.NoError(t, back.Err())
	assert.Len(t, back.Texts.Observations, 12)
}

func TestGateOfABrokenStack(t *testing.T) {
	t.Parallel()
	f := refpd.Failure{Faults: "proxy.drop-ticket"}
	s := f.Stack(t)
	r := run(t, target(s.Start(t), s), passive...)
	assert.Equal(t, handoff.StateRefuted, r.State)
	err := r.Err()
	require.ErrorContains(t, err, "1 handoff-proven: decode used the KV cache that prefill computed: refuted: decode computed")
	assert.ErrorContains(t, err, "ticket was sent by prefill at +")
	assert.NotContains(t, err.Error(), "bounded-termination", "what was proven is no complaint")
	assert.True(t, strings.HasPrefix(r.String(), "gate: refuted, 6 of 6 asked, 34 requests in "), r.String())
	assert.Contains(t, r.String(), "\n  1  handoff-proven       refuted      decode computed")
	u := (*handoff.Unproven)(nil)
	require.ErrorAs(t, err, &u)
}

// A stack of which nothing is known but one engine's metrics must not pass because nothing was asked.
func TestGateAsksNothing(t *testing.T) {
	t.Parallel()
	r := run(t, gate.Target{Source: handoff.Source{Decode: handoff.Endpoint{MetricsURL: "http://127.0.0.1:1/metrics"}}})
	assert.Equal(t, handoff.StateInconclusive, r.State)
	assert.EqualError(t, r.Err(), "gate: nothing could be asked of this stack")
	for _, o := range r.Outcomes {
		assert.NotEmpty(t, o.NotAsked, o.Name)
		assert.Equal(t, handoff.StateInconclusive, o.Verdict.State, o.Name)
	}
	assert.Contains(t, r.String(), "not asked    needs an entry: a proxy to send requests to")
}

// A foreign proxy keeps no ledger: what needs one is not asked, and the rest must do.
func TestGateWithoutLedger(t *testing.T) {
	t.Parallel()
	f := refpd.Failure{}
	s := f.Stack(t)
	r := run(t, attached(t, target(s.Start(t), s)), append(passive, "peer-recovery")...)
	require.NoError(t, r.Err(), "%s", r)
	assert.Contains(t, r.Outcome("proxy-conformance").NotAsked, "needs a flow ledger, omnitest's own proxy or a wiretap: this proxy keeps no flow ledger")
	assert.Equal(t, "needs Options.Restart, which only the stack's owner can give", r.Outcome("peer-recovery").NotAsked)
	assert.Nil(t, r.Outcome("handoff-timing"))
	assert.Contains(t, r.String(), "gate: proven, 4 of 7 asked (not asked: proxy-conformance, ticket-well-formed, peer-recovery), ")

	g := attached(t, target(s.Start(t), s))
	g.Require = []string{"peer-recovery"}
	r = run(t, g, "metric-sanity", "peer-recovery")
	assert.Equal(t, handoff.StateInconclusive, r.State)
	assert.ErrorContains(t, r.Err(), "needs Options.Restart", "what is required must be asked")
	g.Only = []string{"metric-sanity"}
	_, err := gate.Run(t.Context(), g)
	assert.EqualError(t, err, "gate: peer-recovery is required and not among those that are asked")
}

// The caller's own mistakes are errors and no refutations.
func TestGateMistakes(t *testing.T) {
	t.Parallel()
	r := refpd.Stack{}.Start(t)
	client := func(base string) *api.Client { return &api.Client{BaseURL: base} }
	src := handoff.Source{Entry: client(r.Entry), Prefill: handoff.Endpoint{API: client(r.Prefill)}, Decode: handoff.Endpoint{API: client(r.Decode + "/v1")}}
	_, err := gate.Run(t.Context(), gate.Target{Source: src})
	assert.ErrorContains(t, err, "gate: Decode.API: api: Client.BaseURL")
	assert.ErrorContains(t, err, "must not end in /v1")
	src.Decode.API = &api.Client{BaseURL: r.Decode, Model: "teapot"}
	_, err = gate.Run(t.Context(), gate.Target{Source: src})
	assert.EqualError(t, err, `gate: Decode.API: `+r.Decode+` serves no model "teapot"`)
}

// What cannot be scraped, what hangs and what is unknown end in words, in time.
func TestGateOfADeadStack(t *testing.T) {
	t.Parallel()
	dead := &api.Client{BaseURL: "http://127.0.0.1:1"}
	g := gate.Target{Source: handoff.Source{Entry: dead, Prefill: handoff.Endpoint{API: dead}, Decode: handoff.Endpoint{API: dead}},
		Options: probe.Options{Limit: time.Second}, Each: 20 * time.Second}
	r := run(t, g, "handoff-proven", "engine-alive")
	assert.Contains(t, r.Outcome("handoff-proven").Verdict.String(), "inconclusive: open handoff window: prefill: ")
	assert.Contains(t, r.Outcome("engine-alive").Verdict.String(), "refuted: prefill is not healthy: ")
	assert.Equal(t, handoff.StateRefuted, r.State)

	hang := &api.Client{BaseURL: fakepd.Hanging(t)}
	g.Prefill.API, g.Decode.API, g.Entry, g.Each = hang, hang, hang, 300*time.Millisecond
	r = run(t, g, "engine-alive")
	assert.Contains(t, r.Outcome("engine-alive").Verdict.String(), "assertion engine-alive did not end within 300ms")

	_, err := gate.Run(t.Context(), gate.Target{Only: []string{"handoff-prooven"}})
	assert.ErrorContains(t, err, `gate: no assertion is called "handoff-prooven"; there are handoff-proven, no-silent-fallback, `)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err = gate.Run(ctx, g)
	assert.ErrorContains(t, err, "enough")
}

// A window that was observed elsewhere is judged as it is, and costs nothing.
func TestGateOfAnOldWindow(t *testing.T) {
	t.Parallel()
	r := refpd.Stack{}.Start(t)
	entry, p, d := &api.Client{BaseURL: r.Entry}, &api.Client{BaseURL: r.Prefill}, &api.Client{BaseURL: r.Decode}
	src := handoff.Source{Entry: entry, Prefill: handoff.Endpoint{API: p}, Decode: handoff.Endpoint{API: d}, BytesPerToken: ar.BytesPerToken}
	e, requests, err := gate.Texts(t.Context(), src, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, 24, requests)
	report := run(t, gate.Target{Traffic: e}, "handoff-proven")
	require.NoError(t, report.Err())
	assert.Zero(t, report.Requests)
}
