package proxy

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// prefillFailures are the ways in which prefill gives no ticket: each was seen to end in a 200 from decode alone somewhere
// (facts F1, F14, F19, F21). message is what the client must read.
var prefillFailures = []struct {
	name    string
	prepare func(*rig, *Config)
	status  int
	message string
}{
	{"dead", func(r *rig, c *Config) { c.Prefill = deadURL(r.t) }, 502, "prefill: dial tcp ADDR: connect: connection refused"},
	{"hangs", func(r *rig, c *Config) {
		c.PrefillLimit = 50 * time.Millisecond
		r.p.answer = func(_ http.ResponseWriter, q *http.Request, _ []byte) { <-q.Context().Done() }
	}, 504, "prefill: no answer within 50ms"},
	{"hangs in its body", func(r *rig, c *Config) {
		c.PrefillLimit = 100 * time.Millisecond
		r.p.answer = func(w http.ResponseWriter, q *http.Request, _ []byte) {
			w.Write([]byte(`{"id":`))
			w.(http.Flusher).Flush()
			<-q.Context().Done()
		}
	}, 504, "prefill: answer broke off after 6 bytes within 100ms"},
	{"closes", func(r *rig, _ *Config) {
		r.p.answer = func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }
	}, 502, "prefill: no answer: EOF"},
	{"500", prefillSays(500, "application/json", `{"error":{"message":"out of blocks","type":"InternalServerError","param":null,"code":500}}`), 502,
		"prefill: 500 Internal Server Error: out of blocks"},
	{"redirect", func(r *rig, _ *Config) {
		r.p.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			w.Header().Set("Location", r.d.URL+"/v1/completions") // followed, it would look like a good prefill
			says(307, "text/plain", nil)(w, q, b)
		}
	}, 502, "prefill: 307 Temporary Redirect"},
	{"ticket null", prefillSays(200, "application/json", `{"id":"cmpl-1","choices":[{"text":"","finish_reason":"stop"}],"kv_transfer_params":null}`), 502,
		`prefill: 200 without a ticket: kv_transfer_params is null (finish_reason "stop")`},
	{"ticket absent", prefillSays(200, "application/json", `{"id":"cmpl-1","choices":[{"text":"","finish_reason":"length"}]}`), 502,
		`prefill: 200 without a ticket: kv_transfer_params is absent (finish_reason "length")`},
	{"ticket empty", prefillSays(200, "application/json", `{"choices":[],"kv_transfer_params": { } }`), 502,
		`prefill: 200 without a ticket: kv_transfer_params is { } (no choices)`},
	{"ticket is a string", prefillSays(200, "application/json", `{"choices":[],"kv_transfer_params":"DUMMY"}`), 502,
		`prefill: 200 without a ticket: kv_transfer_params is "DUMMY" (no choices)`},
	{"error in 200", prefillSays(200, "application/json", `{"object":"error","error":{"message":"engine died"},"kv_transfer_params":{"a":1}}`), 502,
		"prefill: 200 with an error inside: engine died"},
	{"finish_reason error", prefillSays(200, "application/json", `{"choices":[{"finish_reason":"error"}],"kv_transfer_params":{"a":1}}`), 502,
		`prefill: 200 with an error inside: finish_reason "error"`},
	{"html", prefillSays(200, "text/html", "<html><body>\nlogin</body></html>"), 502,
		`prefill: 200 with a body that is no completion: "<html><body> login</body></html>" (invalid character '<' looking for beginning of value)`},
	{"streams all the same", func(r *rig, _ *Config) {
		r.p.answer = says(200, "text/event-stream", recording(r.t, "vllm-0.32.0-prefill-streamed.sse"))
	}, 502, `prefill: 200 with a body that is no completion: "data: {"`},
}

func prefillSays(status int, kind, body string) func(*rig, *Config) {
	return func(r *rig, _ *Config) { r.p.answer = says(status, kind, []byte(body)) }
}

func deadURL(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return "http://" + l.Addr().String()
}

// want fills the address in and tells a prefix from a whole message.
func (r *rig) expectMessage(want, got string) {
	r.t.Helper()
	want = strings.Replace(want, "ADDR", strings.TrimPrefix(r.proxy.c.Prefill, "http://"), 1)
	if strings.HasSuffix(want, `"data: {"`) {
		assert.Contains(r.t, got, strings.TrimSuffix(want, `{"`))
		return
	}
	assert.Equal(r.t, want, got)
}

func TestNeverASilentFallback(t *testing.T) {
	for _, c := range prefillFailures {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.prepare)
			for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
				resp, body := r.post(path, `{"prompt":"a","messages":[],"stream":true}`)
				assert.Equal(t, c.status, resp.StatusCode)
				assert.Equal(t, "prefill", resp.Header.Get(StageHeader))
				assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
				r.expectMessage(c.message, errorText(t, body))
				rec := r.last()
				assert.Equal(t, "failed", rec.Outcome)
				assert.Equal(t, c.status, rec.Status)
				r.expectMessage(c.message, rec.Error)
				require.Len(t, rec.Hops, 1)
				r.expectMessage(c.message, "prefill: "+rec.Hops[0].Error)
				assert.False(t, rec.Fallback)
			}
			assert.Empty(t, r.d.calls(), "decode must not be called")
		})
	}
}

func TestDeclaredFallback(t *testing.T) {
	for _, c := range prefillFailures {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(r *rig, conf *Config) {
				conf.AllowFallback = true
				c.prepare(r, conf)
			})
			resp, body := r.post("/v1/completions", `{"prompt":"a","kv_transfer_params":{"remote_engine_id":"of-the-client"}}`)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, string(recording(t, "vllm-0.32.0-decode.sse")), body)
			r.expectMessage(c.message, resp.Header.Get(FallbackHeader))
			assert.NotContains(t, r.d.only(t).fields(t), "kv_transfer_params", "nor does the client's own ticket go through")
			rec := r.last()
			assert.True(t, rec.Fallback)
			assert.Equal(t, "ok", rec.Outcome)
			assert.Nil(t, rec.Hop("decode").TicketIn)
			_, metrics := r.get("/metrics")
			assert.Contains(t, metrics, "omnitest_proxy_fallbacks_total 1\n")
		})
	}
}

// The client's own errors are the engine's to tell, with its words and its status, and never a reason to fall back.
func TestPrefill4xxPassesUnchanged(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		r := newRig(t, func(r *rig, c *Config) {
			c.AllowFallback = fallback
			r.p.answer = says(404, "application/json", recording(t, "vllm-0.32.0-unknown-model.json"))
		})
		for _, path := range []string{"/v1/completions", "/v1/images/generations"} {
			resp, body := r.post(path, `{"model":"nope","prompt":"a"}`, "X-Request-Id", "mine")
			assert.Equal(t, 404, resp.StatusCode)
			assert.Equal(t, string(recording(t, "vllm-0.32.0-unknown-model.json")), body)
			assert.Equal(t, "prefill", resp.Header.Get(StageHeader))
			assert.Equal(t, "mine", resp.Header.Get("X-Request-Id"))
			assert.Equal(t, "prefill: 404 Not Found: The model `nope` does not exist. Valid aliases: tiny.", r.last().Error)
		}
		assert.Empty(t, r.d.calls())
		assert.Empty(t, r.x.calls())
	}
}

func TestDeadDecode(t *testing.T) {
	r := newRig(t, func(r *rig, c *Config) { c.Decode = deadURL(t) })
	resp, body := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 502, resp.StatusCode)
	assert.Equal(t, "decode", resp.Header.Get(StageHeader))
	assert.Equal(t, "decode: dial tcp "+strings.TrimPrefix(r.proxy.c.Decode, "http://")+": connect: connection refused", errorText(t, body))
	assert.Len(t, r.p.calls(), 1, "and no second prefill")
}

func TestDecodeLimitCoversTheStream(t *testing.T) {
	r := newRig(t, func(r *rig, c *Config) {
		c.DecodeLimit = 100 * time.Millisecond
		r.d.answer = func(w http.ResponseWriter, q *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Write([]byte("data: {}\n\n"))
			w.(http.Flusher).Flush()
			<-q.Context().Done()
		}
	})
	_, _, err := r.try("/v1/completions", `{"prompt":"a"}`)
	require.Error(t, err)
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "the proxy ends it, not this test's own limit")
	assert.Equal(t, "decode: answer broke off after 10 bytes within 100ms", r.last().Error)
}
