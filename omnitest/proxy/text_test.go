package proxy

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The body has what a re-encoding would destroy: 1.0, digits beyond 2^53, an unknown field, an escape, odd spacing.
const picky = `{"model": "tiny",  "prompt": "caf\u00e9 \"open\" <b>", "max_tokens":16, "temperature": 1.0, "seed":9223372036854775807,
 "stream": true, "stream_options": {"include_usage": true}, "min_tokens": 4, "n":2, "future_field": {"a": [1e2, null]}, "kv_transfer_params": {"remote_engine_id": "of-the-client"}}`

func TestLegsConform(t *testing.T) {
	for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
		t.Run(path, func(t *testing.T) {
			r := newRig(t, nil)
			resp, body := r.post(path, picky, "X-Request-Id", "order-7", "Authorization", "Bearer secret", "X-Trace", "abc", "Accept-Encoding", "gzip")
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, string(recording(t, "vllm-0.32.0-decode.sse")), body, "decode's answer passes byte for byte")
			assert.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
			assert.Equal(t, "order-7", resp.Header.Get("X-Request-Id"))
			assert.Empty(t, resp.Header.Get(FallbackHeader))

			p, d := r.p.only(t), r.d.only(t)
			for _, leg := range []sent{p, d} {
				assert.Equal(t, path, leg.path)
				assert.Equal(t, []string{"order-7"}, leg.header["X-Request-Id"], "exactly one id on a leg")
				assert.Equal(t, "Bearer secret", leg.header.Get("Authorization"))
				assert.Equal(t, "abc", leg.header.Get("X-Trace"))
				assert.Equal(t, "application/json", leg.header.Get("Content-Type"))
				assert.Empty(t, leg.header.Get("Accept-Encoding"))
			}

			got := p.fields(t)
			assert.Equal(t, "false", string(got["stream"]))
			assert.Equal(t, "1", string(got["max_tokens"]))
			assert.Equal(t, "1", string(got["n"]))
			assert.NotContains(t, got, "max_completion_tokens", "not added where the client didn't send it")
			for _, gone := range []string{"stream_options", "min_tokens", "min_completion_tokens"} {
				assert.NotContains(t, got, gone)
			}
			assert.Equal(t, `{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}`, string(got["kv_transfer_params"]))

			// Decode gets the client's bytes, with nothing but the client's own ticket replaced.
			want := strings.Replace(picky, `"kv_transfer_params": {"remote_engine_id": "of-the-client"}`, `"kv_transfer_params":`+recordedTicket(t), 1)
			assert.JSONEq(t, want, string(d.body))
			for _, spelling := range []string{`"temperature": 1.0`, `"seed":9223372036854775807`, `"caf\u00e9 \"open\" <b>"`, `{"a": [1e2, null]}`, recordedTicket(t)} {
				assert.Contains(t, string(d.body), spelling)
			}
			assert.NotContains(t, string(d.body), "of-the-client")

			rec := r.last()
			assert.Equal(t, "ok", rec.Outcome)
			assert.Equal(t, "order-7", rec.RequestID)
			require.Len(t, rec.Hops, 2)
			assert.JSONEq(t, recordedTicket(t), string(rec.Hops[0].TicketOut))
			assert.JSONEq(t, recordedTicket(t), string(rec.Hops[1].TicketIn))
			assert.Equal(t, "cmpl-acfa3433bae41fb3", rec.Hops[0].ResponseID)
			assert.Equal(t, "cmpl-a8f93ba36f6e9921", rec.Hops[1].ResponseID)
			assert.EqualValues(t, len(body), rec.Hops[1].Bytes)
			h := rec.Hops
			times := []float64{h[0].StartMS, h[0].FirstByteMS, h[0].EndMS, h[1].StartMS, h[1].FirstByteMS, h[1].EndMS, rec.EndMS}
			for i := 1; i < len(times); i++ {
				assert.LessOrEqual(t, times[i-1], times[i], "%v", times)
			}
			assert.Positive(t, times[1])
		})
	}
}

func TestMaxCompletionTokensIsCutAndRestored(t *testing.T) {
	r := newRig(t, nil)
	r.post("/v1/chat/completions", `{"messages":[],"max_completion_tokens":99}`)
	assert.JSONEq(t, "1", string(r.p.only(t).fields(t)["max_completion_tokens"]))
	assert.JSONEq(t, "1", string(r.p.only(t).fields(t)["max_tokens"]))
	assert.JSONEq(t, "99", string(r.d.only(t).fields(t)["max_completion_tokens"]))
	assert.NotContains(t, r.d.only(t).fields(t), "max_tokens")
}

func TestFreshRequestID(t *testing.T) {
	r := newRig(t, nil)
	resp, _ := r.post("/v1/completions", `{"prompt":"a"}`)
	id := resp.Header.Get("X-Request-Id")
	assert.Regexp(t, `^[0-9a-f]{32}$`, id)
	assert.Equal(t, id, r.p.only(t).header.Get("X-Request-Id"))
	assert.Equal(t, id, r.d.only(t).header.Get("X-Request-Id"))
	resp, _ = r.post("/v1/completions", `{"prompt":"a"}`)
	assert.NotEqual(t, id, resp.Header.Get("X-Request-Id"))
}

// Each event must reach the client before decode sends the next one: decode waits for it.
func TestStreamIsNotHeldBack(t *testing.T) {
	seen := make(chan string)
	r := newRig(t, func(r *rig, _ *Config) {
		r.d.answer = func(w http.ResponseWriter, q *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			for _, event := range []string{`data: {"id":"a"}`, `data: {"id":"b"}`, `data: [DONE]`} {
				select {
				case <-seen: // the client has the header, or the event before
				case <-q.Context().Done():
					return
				}
				io.WriteString(w, event+"\n\n")
				w.(http.Flusher).Flush()
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/completions", strings.NewReader(`{"prompt":"a","stream":true}`))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err, "the header comes before the first event")
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for _, want := range []string{`data: {"id":"a"}`, `data: {"id":"b"}`, `data: [DONE]`} {
		seen <- "go on"
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, want+"\n", line)
		_, err = lines.ReadString('\n')
		require.NoError(t, err)
	}
	_, err = lines.ReadByte()
	require.Equal(t, io.EOF, err)
	assert.Equal(t, "a", r.last().Hop("decode").ResponseID)
}

func TestClientGoingAwayEndsTheUpstreamLeg(t *testing.T) {
	for _, stage := range []string{"prefill", "decode before its answer", "decode in its stream"} {
		t.Run(stage, func(t *testing.T) {
			reached, left := make(chan struct{}), make(chan struct{})
			hang := func(w http.ResponseWriter, q *http.Request, _ []byte) {
				if strings.HasSuffix(stage, "stream") {
					w.Header().Set("Content-Type", "text/event-stream")
					io.WriteString(w, "data: {\"id\":\"x\"}\n\n")
					w.(http.Flusher).Flush()
				}
				close(reached)
				<-q.Context().Done()
				close(left)
			}
			r := newRig(t, func(r *rig, _ *Config) {
				if stage == "prefill" {
					r.p.answer = hang
				} else {
					r.d.answer = hang
				}
			})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/completions", strings.NewReader(`{"prompt":"a","stream":true}`))
			done := make(chan struct{})
			go func() {
				defer close(done)
				if resp, err := http.DefaultClient.Do(req); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			wait(t, reached, "the stage has the request")
			inFlight := r.ledger()
			require.Len(t, inFlight, 1)
			assert.Equal(t, "in-flight", inFlight[0].Outcome)
			assert.Zero(t, inFlight[0].EndMS)
			_, metrics := r.get("/metrics")
			assert.Contains(t, metrics, "omnitest_proxy_in_flight 1\n")

			cancel()
			wait(t, left, "the stage sees its client leave")
			wait(t, done, "the client returned")
			rec := r.last()
			assert.Equal(t, "cancelled", rec.Outcome)
			assert.Contains(t, rec.Error, "client went away")
			if stage == "prefill" {
				assert.Equal(t, "prefill: client went away: no answer", rec.Error)
				assert.Empty(t, r.d.calls())
			}
			_, metrics = r.get("/metrics")
			assert.Contains(t, metrics, "omnitest_proxy_in_flight 0\n")
			assert.Contains(t, metrics, `omnitest_proxy_requests_total{outcome="cancelled",route="/v1/completions"} 1`)
		})
	}
}

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited %v in vain: %s", patience, what)
	}
}

func TestAStreamThatBreaksBreaksForTheClientToo(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Config) {
		r.d.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: {\"id\":\"cmpl-1\"}\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	resp, body, err := r.try("/v1/completions", `{"prompt":"a","stream":true}`)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "no clean end")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "data: {\"id\":\"cmpl-1\"}\n\n", body)
	rec := r.last()
	assert.Equal(t, "failed", rec.Outcome)
	assert.Equal(t, 200, rec.Status)
	assert.Equal(t, "decode: answer broke off after 23 bytes: unexpected EOF", rec.Error)
}

// Failures that decode hides in a 200 pass unchanged, because the client must see them, and the ledger names them.
func TestErrorsInside200AreInTheLedger(t *testing.T) {
	for _, c := range []struct{ name, kind, body, want string }{
		{"recorded failed transfer", "text/event-stream", string(recording(t, "vllm-0.32.0-decode-failed.sse")), "decode: 200 with an error inside: Internal server error"},
		{"vllm-omni event", "text/event-stream", "data: {\"object\":\"error\",\"error\":{\"message\":\"no memory\",\"type\":\"x\",\"code\":500}}\n\ndata: [DONE]\n\n", "decode: 200 with an error inside: no memory"},
		{"finish_reason in a stream", "text/event-stream", "data: {\"id\":\"a\",\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"error\"}]}\n\ndata: [DONE]\n\n", `decode: 200 with an error inside: finish_reason "error"`},
		{"clean end without DONE", "text/event-stream", "data: {\"id\":\"a\"}\n\n", "decode: stream ended without [DONE]"},
		{"json", "application/json", `{"error":{"message":"load failed","type":"x","code":500}}`, "decode: 200 with an error inside: load failed"},
		{"json finish_reason", "application/json", `{"id":"a","choices":[{"text":"","finish_reason":"error"}]}`, `decode: 200 with an error inside: finish_reason "error"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(r *rig, _ *Config) { r.d.answer = says(200, c.kind, []byte(c.body)) })
			resp, body := r.post("/v1/completions", `{"prompt":"a"}`)
			assert.Equal(t, 200, resp.StatusCode)
			assert.Equal(t, c.body, body)
			rec := r.last()
			assert.Equal(t, "failed", rec.Outcome)
			assert.Equal(t, c.want, rec.Error)
		})
	}
	// A healthy text that merely talks about errors is no error.
	r := newRig(t, func(r *rig, _ *Config) {
		r.d.answer = says(200, "text/event-stream", []byte("data: {\"e\":\"error\",\"choices\":[{\"text\":\"{\\\"error\\\"\",\"finish_reason\":null}]}\n\ndata: [DONE]"))
	})
	r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, "ok", r.last().Outcome)
}

func TestDecodeStatusPassesUnchanged(t *testing.T) {
	const body = `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`
	r := newRig(t, func(r *rig, _ *Config) { r.d.answer = says(500, "application/json", []byte(body)) })
	resp, got := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 500, resp.StatusCode)
	assert.Equal(t, body, got)
	assert.Equal(t, "decode", resp.Header.Get(StageHeader))
	assert.Equal(t, "decode: 500 Internal Server Error: Internal server error", r.last().Error)
	assert.Equal(t, "500 Internal Server Error: Internal server error", r.last().Hop("decode").Error)
}

func TestSeveralPromptsAreRefused(t *testing.T) {
	r := newRig(t, nil)
	for _, prompt := range []string{`["a","b"]`, `[[1,2],[3]]`} {
		resp, body := r.post("/v1/completions", `{"prompt":`+prompt+`}`)
		assert.Equal(t, 400, resp.StatusCode)
		assert.Equal(t, "2 prompts in one request, and prefill gives one ticket: send them one by one", errorText(t, body))
	}
	assert.Empty(t, r.p.calls())
	for _, prompt := range []string{`["a"]`, `[1,2,3]`, `[[1,2]]`, `[]`} {
		resp, _ := r.post("/v1/completions", `{"prompt":`+prompt+`}`)
		assert.Equal(t, 200, resp.StatusCode, prompt)
	}
}
