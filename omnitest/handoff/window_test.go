package handoff

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

// letters is a prompt that no engine has seen.
func letters(n int) string { return strings.Repeat(strings.ToLower(rand.Text()), n/26+1)[:n] }

// send makes one request through the proxy and shows it to the window.
func send(t *testing.T, s Source, w *Window, id string, n int) {
	prompt := (id + " " + letters(n))[:n]
	answer, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: n, RequestID: id}})
	o := Observed(answer, err)
	o.Prompt, o.Want, o.WantFrom = prompt, prompt, "known answer: the model repeats its prompt"
	w.Observe(o)
}

func window(t *testing.T, s Source, requests int) *Evidence {
	t.Helper()
	w, err := Open(t.Context(), s)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() { send(t, s, w, fmt.Sprintf("req-%d", i), 100+i) })
	}
	wg.Wait()
	e, err := w.Close(t.Context())
	require.NoError(t, err)
	return e
}

func TestWindowProven(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	e := window(t, sourceOf(f), 1)
	assert.Equal(t, "proven: decode took 100 of 100 prompt tokens from prefill (114688 bytes), computed 0 itself; 1 answer as wanted (known answer: the model repeats its prompt)", Proven(e).String())
	assert.Equal(t, 16, e.BlockSize)
	assert.Equal(t, "vllm:cache_config_info of decode", e.BlockSizeFrom)
	assert.Len(t, e.Flow.Records, 1)
	require.NotNil(t, e.Decode.UsageAfter)

	// A second window sees only its own requests, eight at once.
	e = window(t, sourceOf(f), 8)
	assert.Equal(t, StateProven, Proven(e).State, Proven(e).String())
	assert.Len(t, e.Flow.Records, 8)
	assert.Equal(t, 828.0, Proven(e).Numbers["decode.external_tokens"])
	assert.Equal(t, 1024.0, Proven(e).Numbers["decode.bytes_per_token"])
	assert.NotContains(t, Proven(e).Numbers, "decode.preemptions")
}

func TestWindowRefuted(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	f.IgnoreTicket = true
	assert.Equal(t, "refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0)", Proven(window(t, sourceOf(f), 1)).String())

	f = fakepd.New(t)
	f.DropTicket = true
	assert.Equal(t, "refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0); ticket was sent by prefill at +12 ms, never forwarded by proxy",
		Proven(window(t, sourceOf(f), 1)).String())
}

func TestWindowForeignProxy(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	f.NoLedger = true
	v := Proven(window(t, sourceOf(f), 2))
	assert.Equal(t, StateProven, v.State, v.String())
	require.NotEmpty(t, v.Notes)
	assert.Equal(t, fmt.Sprintf("no flow ledger (this proxy keeps no flow ledger (%s/omnitest/ledger answered HTTP 404, \"text/plain\")): who carried which ticket is not known, counters and answers decide", f.Proxy.URL), v.Notes[0])
}

// Counters that lag behind the answers are waited for, not taken for an absence of tokens.
func TestWindowWaitsForLaggingCounters(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	f.Decode.Lag = 6
	v := Proven(window(t, sourceOf(f), 1))
	assert.Equal(t, StateProven, v.State, v.String())
}

func TestWindowOpenErrors(t *testing.T) {
	t.Parallel()
	t.Run("busy", func(t *testing.T) {
		f := fakepd.New(t)
		f.Decode.Set("vllm:num_requests_running", 2)
		s := sourceOf(f)
		s.IdleWithin = time.Second
		_, err := Open(t.Context(), s)
		assert.EqualError(t, err, "open handoff window: decode never got idle within 1s: 2 running, 0 waiting")
	})
	t.Run("restless", func(t *testing.T) {
		f := fakepd.New(t)
		f.Prefill.Page = func(e *fakepd.Engine) (int, string) {
			e.Counters[NIXL.PromptTokens.String()]++
			return 200, e.Text(e.Counters)
		}
		s := sourceOf(f)
		s.IdleWithin = time.Second
		_, err := Open(t.Context(), s)
		assert.EqualError(t, err, "open handoff window: prefill never got idle within 1s: its counters still move")
	})
	t.Run("html", func(t *testing.T) {
		f := fakepd.New(t)
		f.Decode.Page = func(*fakepd.Engine) (int, string) { return 200, "<html>welcome</html>" }
		_, err := Open(t.Context(), sourceOf(f))
		assert.EqualError(t, err, fmt.Sprintf("open handoff window: decode: scrape %s/metrics: answered HTML, not metrics: \"<html>welcome</html>\"", f.Decode.Srv.URL))
	})
	t.Run("dead", func(t *testing.T) {
		f := fakepd.New(t)
		f.Prefill.Srv.Close()
		_, err := Open(t.Context(), sourceOf(f))
		assert.ErrorContains(t, err, "open handoff window: prefill: scrape "+f.Prefill.Srv.URL+"/metrics: dial tcp")
		assert.ErrorContains(t, err, "connection refused")
	})
	t.Run("no url", func(t *testing.T) {
		_, err := Open(t.Context(), Source{})
		assert.ErrorContains(t, err, "prefill: no metrics URL given")
	})
	t.Run("dead proxy", func(t *testing.T) {
		f := fakepd.New(t)
		f.Proxy.Close()
		_, err := Open(t.Context(), sourceOf(f))
		assert.ErrorContains(t, err, "open handoff window: flow ledger "+f.Proxy.URL+"/omnitest/ledger: dial tcp")
	})
	t.Run("hanging", func(t *testing.T) {
		f := fakepd.New(t)
		release := make(chan struct{})
		f.Decode.Page = func(*fakepd.Engine) (int, string) { <-release; return http.StatusServiceUnavailable, "" }
		defer close(release)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := Open(ctx, sourceOf(f))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "decode")
	})
}

// What happens to a stage inside the window belongs to the evidence, and the verdict says it.
func TestWindowCloseOnTrouble(t *testing.T) {
	t.Parallel()
	t.Run("decode died", func(t *testing.T) {
		f := fakepd.New(t)
		s := sourceOf(f)
		w, err := Open(t.Context(), s)
		require.NoError(t, err)
		f.Decode.Srv.Close()
		send(t, s, w, "r", 100)
		e, err := w.Close(t.Context())
		require.NoError(t, err)
		v := Proven(e)
		assert.Equal(t, StateRefuted, v.State)
		assert.Contains(t, v.String(), "refuted: request failed: ")
		assert.Contains(t, v.String(), "; decode: scrape "+f.Decode.Srv.URL+"/metrics: dial tcp")
		assert.Empty(t, e.Decode.Counters, "what nobody measured is not 0")
	})
	t.Run("never idle", func(t *testing.T) {
		f := fakepd.New(t)
		s := sourceOf(f)
		s.IdleWithin = 2 * time.Second
		w, err := Open(t.Context(), s)
		require.NoError(t, err)
		send(t, s, w, "r", 100)
		f.Decode.Set("vllm:num_requests_waiting", 1)
		e, err := w.Close(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "inconclusive: decode never got idle within 2s: 0 running, 1 waiting", Proven(e).String())
	})
	t.Run("counters reset and grown again", func(t *testing.T) {
		f := fakepd.New(t)
		s := sourceOf(f)
		window(t, s, 3) // something to fall from
		w, err := Open(t.Context(), s)
		require.NoError(t, err)
		send(t, s, w, "r", 100)
		// Every second page tells counters from zero, as the reference stack's fault does.
		f.Decode.Page = func(e *fakepd.Engine) (int, string) {
			if e.Scrapes%2 == 0 {
				zero := map[string]float64{"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0}
				for k := range e.Counters {
					zero[k] = 0
				}
				return 200, e.Text(zero)
			}
			return 200, e.Text(e.Counters)
		}
		e, err := w.Close(t.Context())
		require.NoError(t, err)
		v := Proven(e)
		assert.Equal(t, StateInconclusive, v.State)
		assert.True(t, v.Has("counter-reset"), v.String())
		assert.Contains(t, v.String(), "counter of decode fell back: vllm:generation_tokens_total fell from 64 to 0: restarted?")
	})
	t.Run("series missing", func(t *testing.T) {
		f := fakepd.New(t)
		f.Decode.Page = func(e *fakepd.Engine) (int, string) {
			page := map[string]float64{}
			for k, v := range e.Counters {
				if !strings.Contains(k, "nixl") {
					page[k] = v
				}
			}
			return 200, e.Text(page)
		}
		assert.Equal(t, "inconclusive: series absent: vllm:nixl_bytes_transferred_count of decode and 3 more", Proven(window(t, sourceOf(f), 1)).String())
	})
	t.Run("ledger gone", func(t *testing.T) {
		f := fakepd.New(t)
		s := sourceOf(f)
		w, err := Open(t.Context(), s)
		require.NoError(t, err)
		send(t, s, w, "r", 100)
		f.Proxy.Close()
		e, err := w.Close(t.Context())
		require.NoError(t, err)
		assert.Contains(t, Proven(e).String(), "inconclusive: flow ledger could not be read at the end of the window: flow ledger "+f.Proxy.URL)
	})
	t.Run("closed twice", func(t *testing.T) {
		f := fakepd.New(t)
		w, err := Open(t.Context(), sourceOf(f))
		require.NoError(t, err)
		_, err = w.Close(t.Context())
		require.NoError(t, err)
		_, err = w.Close(t.Context())
		assert.EqualError(t, err, "close handoff window: closed already")
	})
	t.Run("caller gave up", func(t *testing.T) {
		f := fakepd.New(t)
		w, err := Open(t.Context(), sourceOf(f))
		require.NoError(t, err)
		f.Decode.Set("vllm:num_requests_running", 1)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = w.Close(ctx)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A pool that is still full when the window closes is scraped again for a while: real engines publish the gauge late. One
// that stays full refutes.
func TestWindowKVHeld(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		stage   func(f *fakepd.Pair) *fakepd.Engine
		settles bool
		want    string
	}{
		{"decode lags", func(f *fakepd.Pair) *fakepd.Engine { return f.Decode }, true, "proven: "},
		{"prefill lags", func(f *fakepd.Pair) *fakepd.Engine { return f.Prefill }, true, "proven: "},
		{"decode leaks", func(f *fakepd.Pair) *fakepd.Engine { return f.Decode }, false, "refuted: decode is idle and still holds KV blocks: usage 0.0078, before the window 0.0000"},
		{"prefill was never told", func(f *fakepd.Pair) *fakepd.Engine { return f.Prefill }, false,
			"refuted: prefill is idle and still holds KV blocks: usage 0.0078, before the window 0.0000: was it told that decode has them?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fakepd.New(t)
			s := sourceOf(f)
			w, err := Open(t.Context(), s)
			require.NoError(t, err)
			send(t, s, w, "r", 100)
			e := c.stage(f)
			e.Lock()
			after := e.Scrapes + 20 // by far more than the quiet wait needs, by far less than the patience
			e.Page = func(e *fakepd.Engine) (int, string) {
				page := maps.Clone(e.Counters)
				if !c.settles || e.Scrapes < after {
					page["vllm:kv_cache_usage_perc"] = 0.0078
				}
				return 200, e.Text(page)
			}
			e.Unlock()
			evidence, err := w.Close(t.Context())
			require.NoError(t, err)
			v := Proven(evidence)
			assert.True(t, strings.HasPrefix(v.String(), c.want), "got %q\nwant %q", v, c.want)
			require.NotNil(t, evidence.Prefill.UsageAfter)
		})
	}
	t.Run("not told", func(t *testing.T) {
		f := fakepd.New(t)
		for _, e := range []*fakepd.Engine{f.Prefill, f.Decode} {
			e.Lock()
			delete(e.Counters, "vllm:kv_cache_usage_perc")
			e.Unlock()
		}
		v := Proven(window(t, sourceOf(f), 1))
		assert.Equal(t, StateProven, v.State, v.String())
		assert.Contains(t, v.Notes, "vllm:kv_cache_usage_perc of decode not told: whether all KV blocks were given back is not known")
	})
}

// A neighbour who uses the stack in the window is noticed by the counts.
func TestWindowNotExclusive(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := sourceOf(f)
	w, err := Open(t.Context(), s)
	require.NoError(t, err)
	send(t, s, w, "r", 100)
	_, err = s.Decode.API.Complete(t.Context(), api.CompletionRequest{Prompt: letters(50), Sampling: api.Sampling{MaxTokens: 8}})
	require.NoError(t, err)
	e, err := w.Close(t.Context())
	require.NoError(t, err)
	assert.Contains(t, Proven(e).String(), "decode finished 2 requests in the window, only 1 known: something else used the stack")
}

func TestBlocksReleased(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := sourceOf(f)
	f.Decode.Set("vllm:kv_cache_usage_perc", 0.25)
	base, err := ReadUsage(t.Context(), s)
	require.NoError(t, err)
	assert.Equal(t, Usage{Prefill: Pool{Usage: 0, Expired: 0}, Decode: Pool{Usage: 0.25, Expired: 0}}, base)
	require.NoError(t, BlocksReleased(t.Context(), s, base, time.Second))

	f.Prefill.Set("vllm:kv_cache_usage_perc", 0.0078125)
	f.Prefill.Set("vllm:num_requests_waiting", 1)
	f.Prefill.Set(NIXL.Expired.String(), 2)
	err = BlocksReleased(t.Context(), s, base, 30*time.Millisecond)
	var leak *Leak
	require.ErrorAs(t, err, &leak)
	assert.Equal(t, "prefill", leak.Stage)
	assert.EqualError(t, err, "prefill did not release its KV blocks within 30ms: usage 0.0078, baseline 0.0000 (+0.0078), 0 running, 1 waiting, 2 tickets expired meanwhile")

	// Released late, but within the limit.
	time.AfterFunc(20*time.Millisecond, func() {
		f.Prefill.Set("vllm:kv_cache_usage_perc", 0)
		f.Prefill.Set("vllm:num_requests_waiting", 0)
	})
	assert.NoError(t, BlocksReleased(t.Context(), s, base, 20*time.Second))

	// A gauge that is not there is not 0: neither a load nor a pool that nobody tells can be called empty.
	for _, gone := range []string{"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"} {
		f.Decode.Page = func(e *fakepd.Engine) (int, string) {
			page := maps.Clone(e.Counters)
			delete(page, gone)
			return 200, e.Text(page)
		}
		assert.EqualError(t, BlocksReleased(t.Context(), s, base, time.Second), "blocks released: decode: series absent: "+gone)
		_, err = ReadUsage(t.Context(), s)
		assert.EqualError(t, err, "read KV usage: decode: series absent: "+gone)
	}
}

// sourceOf is a fake pair as a source of evidence.
func sourceOf(f *fakepd.Pair) Source {
	return Source{
		Entry:   &api.Client{BaseURL: f.Proxy.URL},
		Prefill: Endpoint{API: &api.Client{BaseURL: f.Prefill.Srv.URL}},
		Decode:  Endpoint{API: &api.Client{BaseURL: f.Decode.Srv.URL}},
		Settle:  5 * time.Millisecond, BytesPerToken: 1024,
	}
}
