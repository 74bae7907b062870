package probe_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// slow is a stack whose engines can be caught at work: about 0.4 s for the default prompt on each leg.
func slow(prefill, decode ar.Faults) refpd.Stack {
	return refpd.Stack{
		Prefill: ar.Config{Lease: time.Second, Faults: prefill, Timing: ar.Timing{PrefillPerToken: 2 * time.Millisecond}},
		Decode:  ar.Config{Faults: decode, Timing: ar.Timing{TransferPerBlock: 30 * time.Millisecond, DecodePerStep: 2 * time.Millisecond}},
	}
}

func TestReleased(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name            string
		prefill, decode ar.Faults
		state           handoff.State
		says            string
	}{
		{"healthy", ar.Faults{}, ar.Faults{}, handoff.StateProven,
			"^proven: after clients left both KV pools came back to their baseline, both engines live and the next handoff is right$"},
		{"prefill.leak-on-abort", ar.Faults{LeakOnAbort: true}, ar.Faults{}, handoff.StateRefuted,
			`^refuted: 1 client left while prefill worked on the prompt: prefill did not release its KV blocks within 6s: usage 0.00\d+, baseline 0.0000 .*1 client left while a ticket waited for decode: prefill did not release`},
		{"decode.leak-on-abort", ar.Faults{}, ar.Faults{LeakAborted: true}, handoff.StateRefuted,
			`^refuted: 1 client left while decode waited for the KV: decode did not release its KV blocks within 6s: .* 0 running, 0 waiting; ` +
				`1 client left while decode generated: decode did not release `},
		{"decode.die-on-abort", ar.Faults{}, ar.Faults{DieOnAbort: true}, handoff.StateRefuted,
			`^refuted: decode died after 1 client left while decode waited for the KV: `},
		{"prefill.free-early", ar.Faults{FreeEarly: true}, ar.Faults{}, handoff.StateRefuted,
			`^refuted: prefill answered with 1 ticket and held no blocks \(usage 0.0000, baseline 0.0000\): whoever pulls reads what others have written`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, slow(c.prefill, c.decode))
			s.Lease = time.Second
			if c.state != handoff.StateProven {
				s.Entry = nil // a leak takes its time in each phase
			}
			r, err := probe.Released(bounded(t), s, probe.Options{Rounds: 1})
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			if c.state == handoff.StateProven {
				assert.Equal(t, 13, r.Requests)
				assert.Equal(t, map[string]float64{"expired": 1}, r.Verdict.Numbers)
				assert.Regexp(t, "^while prefill worked on the prompt: 1 of 1 clients left in time, 1 of them with the request seen running; all blocks back after ", r.Verdict.Notes[0])
			}
		})
	}
}

// A lease that ends long before its time takes the blocks from a decode that has to queue (F5).
func TestReleasedShortLease(t *testing.T) {
	t.Parallel()
	s := start(t, slow(ar.Faults{}, ar.Faults{})) // 1 s
	s.Lease = 10 * time.Second
	r, err := probe.Released(bounded(t), s, probe.Options{Rounds: 1})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: prefill gave the blocks of 1 ticket back after \d\.\d s, its lease is 10s`, r.Verdict.String())
}

func TestReleasedCannotTell(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := handoff.Source{
		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: f.Prefill.Srv.URL}},
		Decode:  handoff.Endpoint{API: &api.Client{BaseURL: f.Decode.Srv.URL}},
		Settle:  5 * time.Millisecond,
	}
	f.Decode.Page = func(e *fakepd.Engine) (int, string) { return 200, "vllm:num_requests_running 0\n" }
	_, err := probe.Released(bounded(t), s, probe.Options{})
	assert.ErrorContains(t, err, "released: read KV usage: decode: series absent: vllm:kv_cache_usage_perc")

	s.Dialect = &handoff.Example
	r, err := probe.Released(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: connector example has no tickets: prefill holds nothing for anybody", r.Verdict.String())
}

// An engine that is faster than its clients can leave: nothing is claimed of the phases that were missed, and no ticket that came
// too early is taken for a leak.
func TestReleasedFastEngine(t *testing.T) {
	t.Parallel()
	s := start(t, refpd.Stack{Prefill: ar.Config{Lease: time.Second}})
	s.Lease = time.Second
	r, err := probe.Released(bounded(t), s, probe.Options{Rounds: 2})
	require.NoError(t, err)
	if r.Verdict.State != handoff.StateProven { // a busy machine may be slow enough
		assert.Regexp(t, "^inconclusive: .*(the engine had answered first in all 2 rounds|the engine had done before it noticed)", r.Verdict.String())
	}
}

// pageLiar serves a stage's metrics page with some lines changed.
func pageLiar(t *testing.T, engine string, change func(page string) string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(engine + "/metrics")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		io.WriteString(w, change(string(raw)))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// What prefill says of expired tickets must fit to what became of them.
func TestReleasedExpiries(t *testing.T) {
	t.Parallel()
	line := regexp.MustCompile(`(?m)^(vllm:nixl_num_kv_expired_reqs_total\S*) (\S+)$`)
	tokens := regexp.MustCompile(`(?m)^vllm:prompt_tokens_total\S* (\S+)$`)
	for _, c := range []struct {
		name   string
		change func(page string) string
		says   string
		notes  string
	}{
		{"never counts", func(p string) string { return line.ReplaceAllString(p, "$1 0") },
			`^refuted: prefill counted 0 of 1 tickets that nobody pulled as expired, though it gave their blocks back after \d+\.\d s$`, ""},
		{"counts each request", func(p string) string { return line.ReplaceAllString(p, "$1 "+tokens.FindStringSubmatch(p)[1]) },
			`^refuted: .*1 client left while decode generated and \d+ tickets expired on prefill, at most 0 may: decode did not tell prefill$`, ""},
		{"does not tell", func(p string) string { return line.ReplaceAllString(p, "") },
			`^proven: `, "prefill does not count expired tickets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, u := running(t, slow(ar.Faults{}, ar.Faults{}))
			s.Lease, s.Entry = time.Second, nil
			s.Prefill.MetricsURL = pageLiar(t, u.Prefill, c.change)
			r, err := probe.Released(bounded(t), s, probe.Options{Rounds: 1})
			require.NoError(t, err)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.Contains(t, fmt.Sprint(r.Verdict.Notes), c.notes)
		})
	}
}

// An engine that answers nobody any more once a client has left is broken, though /health is green and its pool empty.
func TestReleasedHangsAfterwards(t *testing.T) {
	t.Parallel()
	s, u := running(t, slow(ar.Faults{}, ar.Faults{}))
	s.Lease, s.Entry = time.Second, nil
	var asked atomic.Int32
	to, err := url.Parse(u.Decode)
	require.NoError(t, err)
	pass := httputil.NewSingleHostReverseProxy(to)
	pass.ErrorLog = log.New(io.Discard, "", 0)
	pass.FlushInterval = -1
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/completions" && asked.Add(1) > 2 { // the control, the one that is left in phase c
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	s.Decode.API = &api.Client{BaseURL: srv.URL}
	r, err := probe.Released(bounded(t), s, probe.Options{Rounds: 1, Limit: 6 * time.Second})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: while decode generated, after 0 clients of this phase had left, a request failed: no answer within 6s: `, r.Verdict.String())
}
