package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// ward is a stack whose prefill stands behind a door that can be shut in several ways.
type ward struct {
	source handoff.Source
	door   *httptest.Server
	how    atomic.Value // "", "error", "hang", "no ticket"
	freed  chan struct{}
}

func newWard(t *testing.T, c proxy.Config) *ward {
	t.Helper()
	w := &ward{freed: make(chan struct{})}
	w.how.Store("")
	prefill := refpd.Engine(t, "prefill", ar.Config{})
	to, err := url.Parse(prefill)
	require.NoError(t, err)
	pass := httputil.NewSingleHostReverseProxy(to)
	w.door = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		how := w.how.Load().(string)
		if r.URL.Path == "/metrics" {
			how = ""
		}
		switch how {
		case "error":
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusInternalServerError)
			io.WriteString(rw, `{"error":{"message":"EngineCore encountered an issue","type":"InternalServerError","param":null,"code":500}}`)
		case "hang":
			io.Copy(io.Discard, r.Body)
			select {
			case <-r.Context().Done():
			case <-w.freed:
			}
		default:
			pass.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(func() { close(w.freed); w.door.Close() })
	c.Prefill = w.door.URL
	s, _ := running(t, refpd.Stack{Proxy: c})
	s.Prefill.API = &api.Client{BaseURL: w.door.URL}
	w.source = s
	return w
}

// shut is Options.Break.
func (w *ward) shut(how string) func(context.Context, string) (func() error, error) {
	return func(_ context.Context, stage string) (func() error, error) {
		if stage != "prefill" {
			return nil, fmt.Errorf("no door in front of %s", stage)
		}
		w.how.Store(how)
		return func() error { w.how.Store(""); return nil }, nil
	}
}

func TestDeadPrefill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, how string
		proxy     proxy.Config
		limit     time.Duration
		state     handoff.State
		says      string
		requests  int
	}{
		{"error", "error", proxy.Config{}, 0, handoff.StateProven,
			`^proven: with prefill broken \(.*500.*\) the request failed after \d+\.\d s: entry with prefill broken \(entry\): .*stage prefill: 502 .*; mended, it answers rightly again$`, 6},
		{"hang", "hang", proxy.Config{PrefillLimit: time.Second}, 0, handoff.StateProven,
			`^proven: with prefill broken \(it hangs\) the request failed after \d+\.\d s: .*stage prefill: .*; mended, it answers rightly again$`, 6},
		{"hang, and the proxy waits too", "hang", proxy.Config{}, 5 * time.Second, handoff.StateRefuted,
			`^refuted: prefill is broken \(it hangs\), and the entry gave no answer within 5s: the flow ledger: /v1/completions .*prefill no answer`, 5},
		{"declared fallback", "error", proxy.Config{AllowFallback: true}, 0, handoff.StateProven,
			`^proven: with prefill broken \(.*\) decode answered alone and said so: X-Omnitest-Fallback: prefill: .*; mended, it answers rightly again$`, 6},
		{"not broken at all", "", proxy.Config{}, 0, handoff.StateInconclusive,
			`^inconclusive: prefill still answers after Options.Break: nothing was tried$`, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t, c.proxy)
			r, err := probe.DeadPrefill(bounded(t), w.source, probe.Options{Break: w.shut(c.how), Limit: c.limit})
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.Equal(t, c.requests, r.Requests)
			assert.Equal(t, "", w.how.Load(), "prefill is left mended")
		})
	}
	t.Run("dead", func(t *testing.T) {
		t.Parallel()
		s, u := running(t, refpd.Stack{})
		r, err := probe.DeadPrefill(bounded(t), s, probe.Options{Break: u.Break})
		require.NoError(t, err)
		assert.Regexp(t, `^proven: with prefill broken \(.*\) the request failed after .*502 Bad Gateway: prefill: .*; mended, it answers rightly again$`, r.Verdict.String())
		assert.LessOrEqual(t, r.Requests, 8)
	})
}

// quiet is a proxy that goes on without prefill and says nothing (F21: llm-d's sidecar up to v0.8), or that never comes back.
func quiet(t *testing.T, s handoff.Source, stubborn bool) *api.Client {
	t.Helper()
	var broken atomic.Bool
	forward := func(w http.ResponseWriter, base string, body string) (int, error) {
		resp, err := http.Post(base+"/v1/completions", "application/json", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode == 200 {
			w.Header().Set("Content-Type", "application/json")
			io.Copy(w, resp.Body)
		}
		return resp.StatusCode, nil
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/completions" {
			http.NotFound(w, r)
			return
		}
		raw, _ := io.ReadAll(r.Body)
		if stubborn && broken.Load() {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
			return
		}
		if status, err := forward(w, s.Entry.BaseURL, string(raw)); err == nil && status == 200 {
			return
		}
		broken.Store(true)
		if stubborn {
			http.Error(w, "upstream failed", http.StatusBadGateway)
			return
		}
		_, _ = forward(w, s.Decode.API.BaseURL, string(raw))
	}))
	t.Cleanup(srv.Close)
	return &api.Client{BaseURL: srv.URL}
}

func TestDeadPrefillCatches(t *testing.T) {
	t.Parallel()
	t.Run("silent fallback", func(t *testing.T) {
		t.Parallel()
		w := newWard(t, proxy.Config{})
		w.source.Entry = quiet(t, w.source, false)
		r, err := probe.DeadPrefill(bounded(t), w.source, probe.Options{Break: w.shut("error"), Limit: 20 * time.Second})
		require.NoError(t, err)
		assert.Regexp(t, `^refuted: prefill is broken \(.*500.*\), yet the entry answered 200 with "[a-z]+.*" and declared no fallback: decode answered alone; no flow ledger tells why$`, r.Verdict.String())
		assert.Equal(t, "", w.how.Load(), "prefill is left mended")
	})
	t.Run("never well again", func(t *testing.T) {
		t.Parallel()
		w := newWard(t, proxy.Config{})
		w.source.Entry = quiet(t, w.source, true)
		r, err := probe.DeadPrefill(bounded(t), w.source, probe.Options{Break: w.shut("error"), Limit: 20 * time.Second})
		require.NoError(t, err)
		assert.Regexp(t, `^refuted: prefill was broken and mended, and the entry is still not well after 3 requests: .*503`, r.Verdict.String())
	})
	t.Run("not well before", func(t *testing.T) {
		t.Parallel()
		s, u := running(t, refpd.Stack{Decode: ar.Config{Faults: ar.Faults{WrongLayout: true}}})
		r, err := probe.DeadPrefill(bounded(t), s, probe.Options{Break: u.Break})
		require.NoError(t, err)
		assert.Regexp(t, `^inconclusive: the stack was not well before prefill was broken: text diverges at byte`, r.Verdict.String())
	})
	t.Run("nobody can break it", func(t *testing.T) {
		t.Parallel()
		s, u := running(t, refpd.Stack{})
		r, err := probe.DeadPrefill(bounded(t), s, probe.Options{})
		require.NoError(t, err)
		assert.Equal(t, "inconclusive: nobody can break this stack's prefill: Options.Break is not given", r.Verdict.String())
		_, err = probe.DeadPrefill(bounded(t), s, probe.Options{Break: func(context.Context, string) (func() error, error) { return nil, errors.New("not mine") }})
		assert.EqualError(t, err, "dead prefill: break prefill: not mine")
		_, err = probe.DeadPrefill(bounded(t), s, probe.Options{Break: func(ctx context.Context, stage string) (func() error, error) {
			mend, err := u.Break(ctx, stage)
			return func() error { return errors.Join(mend(), errors.New("half mended")) }, err
		}})
		assert.EqualError(t, err, "dead prefill: mend prefill: half mended")
		s.Entry = nil
		r, err = probe.DeadPrefill(bounded(t), s, probe.Options{Break: u.Break})
		require.NoError(t, err)
		assert.Equal(t, "inconclusive: there is no entry to send through: Source.Entry is not given", r.Verdict.String())
	})
}
