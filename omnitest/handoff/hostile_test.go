package handoff_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

// roundRobin answers each request from the next of these URLs in turn.
func roundRobin(t *testing.T, urls ...string) string {
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := http.Get(urls[int(n.Add(1))%len(urls)])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// hostile is a fake pair whose decode serves page for its metrics from the moment that the window is open.
func hostile(t *testing.T, page http.HandlerFunc) (handoff.Source, *fakepd.Pair, *atomic.Bool) {
	f := fakepd.New(t)
	var on atomic.Bool
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if on.Load() {
			page(w, r)
			return
		}
		resp, err := http.Get(f.Decode.Srv.URL + "/metrics")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(front.Close)
	return handoff.Source{
		Entry:   &api.Client{BaseURL: f.Proxy.URL},
		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: f.Prefill.Srv.URL}},
		Decode:  handoff.Endpoint{API: &api.Client{BaseURL: f.Decode.Srv.URL}, MetricsURL: front.URL + "/metrics"},
		Settle:  5 * time.Millisecond, BytesPerToken: 1024,
	}, f, &on
}

// TestHostileMetrics: whatever decode serves instead of its metrics, at Open that is an error and at Close a verdict, in bounded
// time and memory, and neither is ever proven.
func TestHostileMetrics(t *testing.T) {
	t.Parallel()
	mega := bytes.Repeat([]byte("vllm:prompt_tokens_total 1\n"), 1<<20/27)
	for _, c := range []struct {
		name string
		page http.HandlerFunc
		want string // after the URL
	}{
		{"404", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, `HTTP 404: "404 page not found"`},
		{"401", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "who are you", http.StatusUnauthorized) }, `HTTP 401: "who are you"`},
		{"html", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<!doctype html><title>nginx</title>") }, `answered HTML, not metrics: "<!doctype html><title>nginx</title>"`},
		{"json", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"status":"ok"}`) }, `answered JSON, not metrics: "{\"status\":\"ok\"}"`},
		{"empty", func(w http.ResponseWriter, r *http.Request) {}, "metrics page without a single sample (0 bytes)"},
		{"binary", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte{0x0a, 0xff, 0x00, 0x07}) }, "not a metrics page: "},
		{"100 MB", func(w http.ResponseWriter, r *http.Request) {
			for range 100 {
				if _, err := w.Write(mega); err != nil {
					return
				}
			}
		}, "more than 16 MiB: not a metrics page"},
		{"half a page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "vllm:prompt_tokens_total 1\n")
		}, "body broke off after 27 bytes: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, _, on := hostile(t, c.page)
			w, err := handoff.Open(t.Context(), s)
			require.NoError(t, err)
			answer, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: sea, Sampling: api.Sampling{MaxTokens: 128, RequestID: "r"}})
			o := handoff.Observed(answer, err)
			o.RequestID, o.Want, o.WantFrom = "r", sea, "known answer"
			w.Observe(o)
			on.Store(true)
			e, err := w.Close(t.Context())
			require.NoError(t, err)
			text := "decode: scrape " + s.Decode.MetricsURL + ": " + c.want
			for _, v := range []handoff.Verdict{handoff.Proven(e), handoff.Moved(e), handoff.Sane(e), handoff.Countable(e)} {
				assert.Equal(t, handoff.StateInconclusive, v.State, v.String())
				assert.Contains(t, v.String(), text)
			}
			assert.Empty(t, e.Decode.Counters, "nothing was measured")

			_, err = handoff.Open(t.Context(), s)
			assert.ErrorContains(t, err, "open handoff window: "+text)
		})
	}
}

// A clock that is set moves no counter: the window's length is that of the monotonic clock, also once it was saved.
func TestWindowTimesAreMonotonic(t *testing.T) {
	t.Parallel()
	s, _, _ := hostile(t, nil)
	before := time.Now()
	w, err := handoff.Open(t.Context(), s)
	require.NoError(t, err)
	e, err := w.Close(t.Context())
	require.NoError(t, err)
	elapsed := e.Closed.Sub(e.Opened)
	assert.Positive(t, elapsed)
	assert.LessOrEqual(t, elapsed, time.Since(before))
	file := filepath.Join(t.TempDir(), "e.json")
	require.NoError(t, e.WriteFile(file))
	back, err := handoff.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, elapsed, back.Closed.Sub(back.Opened), "the wall clock in the file tells the same")
}

// A process that started anew is seen by its start time alone; one whose clock was set by a second is not.
func TestStartTimeInAWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		later float64
		want  string
	}{
		{1, "proven: "},
		{3600, "inconclusive: counter of decode fell back: the process started anew (process_start_time_seconds went from 1000 to 4600): restarted?"},
		{-3600, "inconclusive: counter of decode fell back: another process answers (process_start_time_seconds went from 1000 to -2600): restarted?"},
	} {
		f := fakepd.New(t)
		var start atomic.Int64
		start.Store(1000)
		f.Decode.Page = func(e *fakepd.Engine) (int, string) {
			return 200, e.Text(e.Counters) + fmt.Sprintf("process_start_time_seconds %d\n", start.Load())
		}
		s := handoff.Source{
			Entry: &api.Client{BaseURL: f.Proxy.URL}, Prefill: handoff.Endpoint{API: &api.Client{BaseURL: f.Prefill.Srv.URL}},
			Decode: handoff.Endpoint{API: &api.Client{BaseURL: f.Decode.Srv.URL}}, Settle: 5 * time.Millisecond, BytesPerToken: 1024,
		}
		w, err := handoff.Open(t.Context(), s)
		require.NoError(t, err)
		answer, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: sea, Sampling: api.Sampling{MaxTokens: 128, RequestID: "r"}})
		o := handoff.Observed(answer, err)
		o.RequestID, o.Want, o.WantFrom = "r", sea, "known answer"
		w.Observe(o)
		start.Add(int64(c.later))
		e, err := w.Close(t.Context())
		require.NoError(t, err)
		v := handoff.Proven(e)
		assert.True(t, strings.HasPrefix(v.String(), c.want), "%+v: %s", c.later, v)
	}
}

// A decode that never gets idle ends the wait in time, with its load, and spoils the verdict.
func TestNeverIdle(t *testing.T) {
	t.Parallel()
	s, f, _ := hostile(t, nil)
	s.IdleWithin = 300 * time.Millisecond
	var w *handoff.Window
	require.Eventually(t, func() (ok bool) { // a loaded machine may not see two equal pages in so short a time
		var err error
		w, err = handoff.Open(t.Context(), s)
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	answer, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: sea, Sampling: api.Sampling{MaxTokens: 128, RequestID: "r"}})
	w.Observe(handoff.Observed(answer, err))
	f.Decode.Set("vllm:num_requests_running", 3)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	e, err := w.Close(ctx)
	require.NoError(t, err)
	for _, v := range []handoff.Verdict{handoff.Proven(e), handoff.Sane(e), handoff.Countable(e)} {
		assert.Equal(t, handoff.StateInconclusive, v.State, v.String())
		assert.Contains(t, v.String(), "decode never got idle within 300ms: 3 running, 0 waiting")
	}
}
