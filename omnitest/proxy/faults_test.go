package proxy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
)

// faulty is a rig with one fault whose decode answers a whole completion.
func faulty(t *testing.T, faults Faults, change func(*rig, *Config)) *rig {
	t.Helper()
	return newRig(t, func(r *rig, c *Config) {
		c.Faults = faults
		r.d.answer = completion("hello")
		if change != nil {
			change(r, c)
		}
	})
}

const limited = `{"prompt":"a","max_tokens":9,"min_tokens":3,"max_completion_tokens":8,"n":2}`

// both legs of the newest record, which must be all of it.
func (r *rig) legs() (p, d flow.Hop) {
	r.t.Helper()
	rec := r.last()
	require.Len(r.t, rec.Hops, 2, rec.String())
	require.Equal(r.t, "prefill", rec.Hops[0].Stage)
	require.Equal(r.t, "decode", rec.Hops[1].Stage)
	return rec.Hops[0], rec.Hops[1]
}

func TestFaultsOfTheTicket(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults Faults
		old    string // of the recorded ticket
		new    string
	}{
		{"strip-ticket-id", Faults{StripTicketID: true}, `"remote_request_id":"cmpl-acfa3433bae41fb3-0-b9354d93",`, ``},
		{"alter-ticket", Faults{AlterTicket: true}, `[[1,2,3,4]]`, `[[1,2,3,3]]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := faulty(t, c.faults, nil)
			resp, _ := r.post("/v1/completions", `{"prompt":"a"}`)
			assert.Equal(t, 200, resp.StatusCode)
			sent := recordedTicket(t)
			require.Contains(t, sent, c.old)
			want := strings.Replace(sent, c.old, c.new, 1)
			assert.Equal(t, want, string(r.d.only(t).fields(t)["kv_transfer_params"]), "all else byte for byte")
			p, d := r.legs()
			assert.JSONEq(t, sent, string(p.TicketOut))
			assert.JSONEq(t, want, string(d.TicketIn), "the ledger tells what was sent")
		})
	}
	for in, want := range map[string]string{
		`[[5, 6], [7, 12 ]]`: `[[5, 6], [7, 11 ]]`,
		`[[5,6],[7,10]]`:     `[[5,6],[7,9]]`,
		`[3]`:                `[2]`,
		`[[0]]`:              `[[1]]`,
		`[[]]`:               `[[]]`,
		`null`:               `null`,
		`["DUMMY_ID"]`:       `["DUMMY_ID"]`,
	} {
		assert.Equal(t, want, string(lastIDLess([]byte(in))), in)
	}
	assert.Equal(t, `"x"`, string(editTicket(ticket(`"x"`), func(o object) object { return nil })), "not an object")
}

func TestFaultLateDecode(t *testing.T) {
	t.Parallel()
	r := faulty(t, Faults{LateDecode: true}, nil)
	resp, _ := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	p, d := r.legs()
	assert.GreaterOrEqual(t, d.StartMS-p.EndMS, 1499.0)
	assert.JSONEq(t, recordedTicket(t), string(d.TicketIn), "the ticket is the right one")
}

// A client that leaves while the proxy idles must not get a decode leg.
func TestFaultLateDecodeEndsWithTheClient(t *testing.T) {
	t.Parallel()
	r := faulty(t, Faults{LateDecode: true}, nil)
	client := &http.Client{Timeout: 300 * time.Millisecond}
	_, err := client.Post(r.url+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"a"}`))
	require.Error(t, err)
	rec := r.last()
	assert.Equal(t, "cancelled", rec.Outcome)
	assert.Equal(t, "decode: client went away before decode was asked", rec.Error)
	assert.Empty(t, r.d.calls())
}

func TestFaultDieBetweenLegs(t *testing.T) {
	r := faulty(t, Faults{DieBetweenLegs: true}, func(_ *rig, c *Config) { c.AllowFallback = true })
	for _, path := range []string{"/v1/completions", "/v1/images/generations"} {
		_, _, err := r.try(path, `{"prompt":"a"}`)
		assert.True(t, errors.Is(err, io.EOF), "the connection is cut, not answered: %v", err)
		rec := r.last()
		assert.Equal(t, "failed", rec.Outcome)
		assert.Zero(t, rec.Status)
		assert.Equal(t, "proxy died between the legs, as planted", rec.Error)
		require.Len(t, rec.Hops, 1)
		assert.JSONEq(t, recordedTicket(t), string(rec.Hops[0].TicketOut))
	}
	assert.Empty(t, r.d.calls())
}

func TestFaultConcurrentDispatch(t *testing.T) {
	t.Parallel()
	slow := make(chan struct{})
	defer close(slow)
	r := faulty(t, Faults{ConcurrentDispatch: true}, func(r *rig, _ *Config) {
		good := r.p.answer
		r.p.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			if strings.Contains(string(b), "slow") {
				select {
				case <-slow:
				case <-q.Context().Done():
				}
			}
			good(w, q, b)
		}
	})
	resp, body := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Contains(t, body, "hello")
	assert.Empty(t, resp.Header.Get(FallbackHeader))
	assert.NotContains(t, r.d.only(t).fields(t), "kv_transfer_params")
	p, d := r.legs()
	assert.GreaterOrEqual(t, d.StartMS-p.StartMS, 1499.0)
	assert.JSONEq(t, recordedTicket(t), string(p.TicketOut), "prefill made one")
	assert.Nil(t, d.TicketIn)
	assert.False(t, r.last().Fallback)

	resp, _ = r.post("/v1/completions", `{"prompt":"slow"}`)
	assert.Equal(t, 200, resp.StatusCode, "decode does not wait for a prefill that hangs")
	p, _ = r.legs()
	assert.Zero(t, p.EndMS, "the record ended with prefill's leg open, and says so")
}

func TestFaultSilentFallback(t *testing.T) {
	for _, c := range prefillFailures {
		t.Run(c.name, func(t *testing.T) {
			r := faulty(t, Faults{SilentFallback: true}, c.prepare)
			for i, path := range []string{"/v1/completions", "/v1/images/generations"} {
				resp, _ := r.post(path, `{"prompt":"a"}`)
				assert.Equal(t, 200, resp.StatusCode)
				assert.Empty(t, resp.Header.Get(FallbackHeader), "nothing is declared")
				assert.Empty(t, resp.Header.Get(StageHeader))
				assert.NotContains(t, r.d.calls()[i].fields(t), "kv_transfer_params")
				rec := r.last()
				assert.False(t, rec.Fallback)
				assert.Equal(t, "ok", rec.Outcome)
				assert.Nil(t, rec.Hop("decode").TicketIn)
				r.expectMessage(c.message, "prefill: "+rec.Hop("prefill").Error)
			}
			_, metrics := r.get("/metrics")
			assert.Contains(t, metrics, "omnitest_proxy_fallbacks_total 0\n")
		})
	}
	r := faulty(t, Faults{SilentFallback: true}, func(r *rig, _ *Config) {
		r.p.answer = says(404, "application/json", recording(t, "vllm-0.32.0-unknown-model.json"))
	})
	resp, _ := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 404, resp.StatusCode, "the client's own error is no reason to fall back")
}

func TestFaultSecondPrefill(t *testing.T) {
	n := 0
	r := faulty(t, Faults{SecondPrefill: true}, func(r *rig, _ *Config) {
		r.p.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			n++
			saysJSON(`{"id":"p","choices":[],"kv_transfer_params":{"remote_request_id":"r`+itoa(int64(n))+`"}}`)(w, q, b)
		}
	})
	r.post("/v1/completions", `{"prompt":"a"}`)
	require.Len(t, r.p.calls(), 2)
	assert.Equal(t, string(r.p.calls()[0].body), string(r.p.calls()[1].body))
	assert.JSONEq(t, `{"remote_request_id":"r2"}`, string(r.d.only(t).fields(t)["kv_transfer_params"]))
	rec := r.last()
	require.Len(t, rec.Hops, 3)
	assert.JSONEq(t, `{"remote_request_id":"r1"}`, string(rec.Hops[0].TicketOut))
	assert.JSONEq(t, `{"remote_request_id":"r2"}`, string(rec.Hops[1].TicketOut))
}

func TestFaultKeepLimits(t *testing.T) {
	r := faulty(t, Faults{KeepLimits: true}, nil)
	r.post("/v1/completions", limited)
	got := r.p.only(t).fields(t)
	for key, want := range map[string]string{"max_tokens": "9", "min_tokens": "3", "max_completion_tokens": "8", "n": "1", "stream": "false"} {
		assert.Equal(t, want, string(got[key]), key)
	}
	assert.JSONEq(t, recordedTicket(t), string(r.d.only(t).fields(t)["kv_transfer_params"]))
}

func TestFaultLoseLimits(t *testing.T) {
	r := faulty(t, Faults{LoseLimits: true}, nil)
	r.post("/v1/completions", limited)
	r.post("/v1/images/generations", `{"prompt":"a"}`)
	got := r.d.calls()[0].fields(t)
	assert.Equal(t, "1", string(got["max_tokens"]))
	assert.Equal(t, "1", string(got["max_completion_tokens"]))
	assert.Equal(t, "2", string(got["n"]), "the rest is the client's own")
	assert.NotContains(t, got, "min_tokens", "decode would refuse it")
	assert.Equal(t, "1", string(r.d.calls()[1].fields(t)["max_tokens"]), "the plan of a picture as well")
}

func TestFaultRewriteCached(t *testing.T) {
	const other = `data: {"id":"c","choices":[{"text":"x"}],"usage":null}` + "\n\n"
	event := func(cached string) string {
		return `data: {"id":"c","choices":[],"usage":{"prompt_tokens":100,"prompt_tokens_details":` + cached + `}}` + "\n\n"
	}
	whole := func(details string) string {
		return `{"id":"c","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":1` + details + `}}`
	}
	for name, c := range map[string]struct{ kind, said, want string }{
		"stream":         {"text/event-stream", other + event("null") + "data: [DONE]\n\n", other + event(`{"cached_tokens":100}`) + "data: [DONE]\n\n"},
		"stream, no end": {"text/event-stream", other + strings.TrimSpace(event("null")), other + strings.TrimSpace(event(`{"cached_tokens":100}`)) + "\n"},
		"details":        {"application/json", whole(`,"prompt_tokens_details":{"cached_tokens":7,"x":1.0}`), whole(`,"prompt_tokens_details":{"cached_tokens":100,"x":1.0}`)},
		"no details":     {"application/json", whole(``), whole(`,"prompt_tokens_details":{"cached_tokens":100}`)},
		"pretty":         {"application/json", "{\n\"usage\": {\"prompt_tokens\": 3}\n}\n", `{"usage":{"prompt_tokens": 3,"prompt_tokens_details":{"cached_tokens":3}}}`},
		"no usage":       {"application/json", `{"id":"c","choices":[]}`, `{"id":"c","choices":[]}`},
		"no JSON":        {"text/html", "<html>", "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			r := faulty(t, Faults{RewriteCached: true}, func(r *rig, _ *Config) { r.d.answer = says(200, c.kind, []byte(c.said)) })
			_, body := r.post("/v1/completions", `{"prompt":"a"}`)
			assert.Equal(t, c.want, body)
			_, d := r.legs()
			assert.EqualValues(t, len(c.want), d.Bytes)
			if name != "no JSON" && name != "pretty" {
				assert.Equal(t, "c", d.ResponseID)
			}
		})
	}
}

// An error of decode in each of the shapes in which it comes, for clients that stream and for those that don't.
func TestFaultSwallowError(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*rig, *Config)
		hop     string
	}{
		"dead": {func(r *rig, c *Config) { c.Decode = deadURL(r.t) }, "connection refused"},
		"500": {func(r *rig, _ *Config) {
			r.d.answer = says(500, "application/json", []byte(`{"error":{"message":"engine died","code":500}}`))
		}, "500 Internal Server Error: engine died"},
		"400": {func(r *rig, _ *Config) { r.d.answer = says(400, "application/json", []byte(`{"detail":"no"}`)) }, "400 Bad Request: no"},
		"200 with an error": {func(r *rig, _ *Config) {
			r.d.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
				if strings.Contains(string(b), `"stream":true`) {
					says(200, "text/event-stream", recording(t, "vllm-0.32.0-decode-failed.sse"))(w, q, b)
					return
				}
				saysJSON(`{"error":{"message":"Internal server error","code":500}}`)(w, q, b)
			}
		}, "200 with an error inside: Internal server error"},
	} {
		t.Run(name, func(t *testing.T) {
			r := faulty(t, Faults{SwallowError: true}, c.prepare)
			for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
				for _, stream := range []bool{false, true} {
					ask := `{"prompt":"a","messages":[]}`
					if stream {
						ask = `{"prompt":"a","messages":[],"stream":true}`
					}
					resp, body := r.post(path, ask)
					assert.Equal(t, 200, resp.StatusCode)
					assert.Empty(t, resp.Header.Get(StageHeader))
					assert.NotContains(t, body, "error")
					if stream {
						assert.True(t, strings.HasSuffix(body, "\n\ndata: [DONE]\n\n"), body)
						body, _, _ = strings.Cut(strings.TrimPrefix(body, "data: "), "\n")
					}
					var a struct {
						Choices []struct {
							Text           *string
							Message, Delta *struct{ Content string }
							Finish         string `json:"finish_reason"`
						}
					}
					require.NoError(t, json.Unmarshal([]byte(body), &a), body)
					require.Len(t, a.Choices, 1)
					choice := a.Choices[0]
					assert.Equal(t, "stop", choice.Finish, "it looks as if it had ended by itself")
					chat := strings.Contains(path, "chat")
					assert.Equal(t, []bool{!chat, chat && !stream, chat && stream}, []bool{choice.Text != nil, choice.Message != nil, choice.Delta != nil}, body)

					rec := r.last()
					assert.Equal(t, "ok", rec.Outcome)
					assert.Equal(t, 200, rec.Status)
					assert.Contains(t, rec.Hop("decode").Error, c.hop, "what decode said stands in the ledger")
				}
			}
		})
	}
	r := faulty(t, Faults{SwallowError: true}, nil)
	_, body := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Contains(t, body, "hello", "a good answer passes")
	assert.Empty(t, r.last().Hop("decode").Error)
}

func TestFaultCrossPlans(t *testing.T) {
	n := 0
	r := pictureRig(t, plan, func(r *rig, c *Config) {
		c.Faults = Faults{CrossPlans: true}
		r.d.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			n++
			completion("plan "+itoa(int64(n)))(w, q, b)
		}
	})
	made := ""
	for i := range 3 {
		r.post("/v1/images/generations", `{"prompt":"a"}`)
		rec := r.last()
		if i > 0 {
			assert.Equal(t, made, rec.Hops[2].Plan, "the plan of the picture before")
		}
		made = rec.Hops[1].Plan
		assert.Regexp(t, "^plan [0-9]$", made)
	}
}
