package wiretap_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/wiretap"
)

// foreign is a two-leg proxy as others write them: it decodes and encodes bodies, keeps no ledger, and gives its legs ids of
// its own ("uuid", as vLLM's toy proxy does), the client's ("client"), or none ("none").
type foreign struct {
	prefill, decode, ids string
	fallback             bool // decode answers alone when prefill fails, as llm-d's sidecar did up to v0.8 (F21)
	noTicket             bool // never asks for one, as disagg_proxy_demo.py (F1)
}

func (f foreign) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	var body map[string]json.RawMessage
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		http.Error(w, "bad body", http.StatusBadRequest)
		return
	}
	id := map[string]string{"uuid": rand.Text(), "client": r.Header.Get("X-Request-Id")}[f.ids]
	send := func(base string, change map[string]string) (*http.Response, error) {
		leg := map[string]json.RawMessage{}
		for k, v := range body {
			leg[k] = v
		}
		for k, v := range change {
			delete(leg, k)
			if v != "" {
				leg[k] = json.RawMessage(v)
			}
		}
		raw, _ := json.MarshalIndent(leg, "", " ")
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodPost, base+r.URL.Path, bytes.NewReader(raw))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer sk-secret")
		if id != "" {
			req.Header.Set("X-Request-Id", id)
		}
		return http.DefaultClient.Do(req)
	}
	ask := map[string]string{"stream": "false", "stream_options": "", "max_tokens": "1", "kv_transfer_params": string(handoff.NIXL.Ask)}
	if f.noTicket {
		delete(ask, "kv_transfer_params")
	}
	ticket := ""
	resp, err := send(f.prefill, ask)
	if err == nil {
		var a struct {
			Ticket json.RawMessage `json:"kv_transfer_params"`
		}
		err = json.NewDecoder(resp.Body).Decode(&a)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			err = fmt.Errorf("prefill: %s", resp.Status)
		}
		if string(a.Ticket) != "null" {
			ticket = string(a.Ticket)
		}
	}
	if err != nil && !f.fallback {
		http.Error(w, `{"error":{"message":"prefill failed"}}`, http.StatusBadGateway)
		return
	}
	resp, err = send(f.decode, map[string]string{"kv_transfer_params": ticket})
	if err != nil {
		http.Error(w, `{"error":{"message":"decode failed"}}`, http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(flushing{w}, resp.Body)
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// rig is a reference pair behind taps and a foreign proxy.
func rig(t *testing.T, front bool, f foreign) (handoff.Source, *wiretap.Taps) {
	t.Helper()
	p, d := refpd.Engine(t, "prefill", ar.Config{}), refpd.Engine(t, "decode", ar.Config{})
	taps, u := serve(t, wiretap.Config{Prefill: p, Decode: d})
	f.prefill, f.decode = u.Prefill, u.Decode
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	s := handoff.Source{
		Entry: &api.Client{BaseURL: srv.URL}, Ledger: taps, BytesPerToken: ar.BytesPerToken,
		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: p}}, Decode: handoff.Endpoint{API: &api.Client{BaseURL: d}},
		Settle: 10e6, IdleWithin: limit,
	}
	if front {
		require.NoError(t, taps.Front(srv.URL))
		s.Entry = &api.Client{BaseURL: u.Entry}
	}
	return s, taps
}

func TestForeignProxies(t *testing.T) {
	t.Parallel()
	const moved = "proven: decode took 256 of 256 prompt tokens from prefill (262144 bytes), computed 0 itself; 2 answers as wanted (known answer)"
	const conforms = "proven: 2 requests: prefill asked once for one token, decode given the client's own request with the ticket verbatim"
	for _, c := range []struct {
		name       string
		proxy      foreign
		front      bool
		dead       bool
		proven     string
		conformant string
		silent     string
	}{
		{"uuid, seen from the front", foreign{ids: "uuid"}, true, false, moved, conforms, "proven: 2 answered"},
		{"client's id, stages alone", foreign{ids: "client"}, false, false, moved, "inconclusive: request req-0: the client's own request was not recorded", "proven: 2 answered"},
		{"client's id, seen from the front", foreign{ids: "client"}, true, false, moved, conforms, "proven: 2 answered"},
		{"no ids, seen from the front", foreign{ids: "none"}, true, false, moved, conforms, "proven: 2 answered"},
		// The legs' ids are not the client's and nobody saw the client: its requests are not found.
		{"uuid, stages alone", foreign{ids: "uuid"}, false, false, "inconclusive: request req-0: not in the proxy's flow ledger", "inconclusive: request req-0: not in the flow ledger", "inconclusive: "},
		{"sidecar, prefill dead", foreign{ids: "client", fallback: true}, false, true,
			"refuted: decode computed 256 of 256 prompt tokens itself", "refuted: request req-0: prefill failed at +", "refuted: request req-0: prefill failed (503 Service Unavailable: refused by the tap), yet decode answered and no fallback was declared (and 1 more like it)"},
		{"demo proxy", foreign{ids: "uuid", noTicket: true}, true, false,
			"refuted: decode computed 256 of 256 prompt tokens itself", "refuted: request req-0: prefill was not asked for a ticket: no kv_transfer_params on its leg", "refuted: request req-0: prefill answered at +"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, taps := rig(t, c.front, c.proxy)
			if c.dead {
				require.NoError(t, taps.Refuse("prefill", 503))
			}
			e := observe(t, s, prompts...)
			for _, j := range []struct{ name, want, got string }{
				{"Proven", c.proven, handoff.Proven(e).String()},
				{"Conformant", c.conformant, handoff.Conformant(e).String()},
				{"NoSilentFallback", c.silent, handoff.NoSilentFallback(e).String()},
			} {
				assert.True(t, strings.HasPrefix(j.got, j.want), "%s gave %s\nwant %s", j.name, j.got, j.want)
			}
			all, err := json.Marshal(e)
			require.NoError(t, err)
			assert.NotContains(t, string(all), "sk-secret")
			assert.Equal(t, "present", e.Flow.Records[0].Hops[0].SentHeader["Authorization"])
		})
	}
}

// Sixteen clients at once, four lanes. With ids, or prompts that differ, every leg finds its request; with equal prompts and no
// ids none may be guessed.
func TestJoinsUnderConcurrency(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		ids  string
		same bool // prompts
		want string
	}{
		{"uuid, prompts differ", "uuid", false, "proven: "},
		{"no ids, prompts differ", "none", false, "proven: "},
		{"client's ids, one prompt", "client", true, "proven: "},
		{"no ids, one prompt", "none", true, "inconclusive: flow ledger has "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, taps := rig(t, true, foreign{ids: c.ids})
			ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
			defer cancel()
			w, err := handoff.Open(ctx, s)
			require.NoError(t, err)
			if c.same {
				require.NoError(t, taps.Hang("prefill")) // so that they are surely in flight together
			}
			var lanes sync.WaitGroup
			for lane := range 4 {
				lanes.Go(func() {
					for i := range 4 {
						prompt := fmt.Sprintf("%d/%d %s", lane, i, prompts[0])
						if c.same {
							prompt = prompts[0]
						}
						id := fmt.Sprintf("c-%d-%d", lane, i)
						r := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: 16, RequestID: id}}
						answer, err := s.Entry.Complete(ctx, r)
						o := handoff.Observed(answer, err)
						o.RequestID, o.Prompt = id, prompt
						w.Observe(o)
					}
				})
			}
			if c.same {
				require.Eventually(t, func() bool {
					page, _ := taps.Page(ctx, 0)
					n := 0
					for _, r := range page.Records {
						n += len(r.Hops)
					}
					return n >= 4
				}, limit, 5e6)
				require.NoError(t, taps.Heal("prefill"))
			}
			lanes.Wait()
			e, err := w.Close(ctx)
			require.NoError(t, err)
			v := handoff.Conformant(e).String()
			assert.True(t, strings.HasPrefix(v, c.want), "got %s", v)
			if c.want == "proven: " {
				assert.Len(t, e.Flow.Records, 16)
				assert.Empty(t, e.Flow.Loose)
				for _, r := range e.Flow.Records {
					require.Len(t, r.Hops, 2, r.String())
				}
			}
		})
	}
}
