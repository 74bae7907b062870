package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sound is a stage's answer of n bytes that no text could be.
func sound(n int) []byte {
	b := []byte("RIFF\x00\x00\x00\x00WAVE")
	for i := range n - len(b) {
		b = append(b, byte(i*31))
	}
	return b
}

func TestSpeechPassesAsItIs(t *testing.T) {
	wave := sound(100 << 10)
	r := newRig(t, func(r *rig, _ *Config) { r.x.answer = says(200, "audio/wav", wave) })
	resp, body := r.post("/v1/audio/speech", `{"model":"tiny","input":"Hello","speed":1.0,"seed":18446744073709551615}`, "X-Request-Id", "say-1")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, "audio/wav", resp.Header.Get("Content-Type"))
	assert.Equal(t, "say-1", resp.Header.Get("X-Request-Id"))
	assert.True(t, body == string(wave), "the sound was changed")
	got := r.x.only(t)
	assert.Equal(t, "/v1/audio/speech", got.path)
	assert.Equal(t, `{"input":"Hello","speed":1.0,"seed":18446744073709551615}`, string(got.body), "all as it was written, but for the AR model's name")
	assert.Empty(t, r.p.calls(), "no AR engine takes part")
	assert.Empty(t, r.d.calls())
	rec := r.last()
	require.Len(t, rec.Hops, 1)
	h := rec.Hops[0]
	assert.Equal(t, []any{"speech", 200, int64(len(wave)), "say-1", "", "ok", "/v1/audio/speech", false},
		[]any{h.Stage, h.Status, h.Bytes, h.RequestID, h.Error, rec.Outcome, rec.Route, rec.Stream})
	assert.Equal(t, r.x.URL+"/v1/audio/speech", h.URL)
	assert.JSONEq(t, string(got.body), string(h.Sent))
}

// Each chunk reaches the client before the stage makes the next: the stage waits for it.
func TestSpeechStreamsPassThrough(t *testing.T) {
	for kind, chunk := range map[string]func(i int) []byte{
		"audio/wav": func(i int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(i)) },
		"text/event-stream; charset=utf-8": func(i int) []byte {
			if i == 3 {
				return []byte(`data: {"type":"speech.audio.done","usage":{"input_tokens":0}}` + "\n\n")
			}
			return []byte(`data: {"type":"speech.audio.delta","audio":"AAAA"}` + "\n\n")
		},
	} {
		t.Run(kind, func(t *testing.T) {
			heard := make(chan struct{})
			r := newRig(t, func(r *rig, _ *Config) {
				r.x.answer = func(w http.ResponseWriter, q *http.Request, _ []byte) {
					w.Header().Set("Content-Type", kind)
					for i := range 4 {
						w.Write(chunk(i))
						w.(http.Flusher).Flush()
						select {
						case <-heard:
						case <-q.Context().Done():
							return
						}
					}
				}
			})
			resp, err := http.Post(r.url+"/v1/audio/speech", "application/json", strings.NewReader(`{"input":"a","stream":true}`))
			require.NoError(t, err)
			defer resp.Body.Close()
			for i := range 4 {
				want := chunk(i)
				got := make([]byte, len(want))
				_, err := io.ReadFull(resp.Body, got)
				require.NoError(t, err)
				assert.Equal(t, want, got)
				heard <- struct{}{}
			}
			_, err = resp.Body.Read(make([]byte, 1))
			assert.ErrorIs(t, err, io.EOF)
			rec := r.last()
			assert.True(t, rec.Stream)
			assert.Equal(t, "ok", rec.Outcome, "%s", rec.Error)
		})
	}
}

// What is wrong with a speech is said with the leg's name; what the stage says itself passes unchanged.
func TestSpeechFailuresNameTheLeg(t *testing.T) {
	const refusal = `{"error":{"message":"TTS model did not produce audio output.","type":"BadRequestError","param":null,"code":400}}` // recorded
	events := func(body string) func(*rig, *Config) {
		return func(r *rig, _ *Config) { r.x.answer = says(200, "text/event-stream", []byte(body)) }
	}
	for _, c := range []struct {
		name   string
		change func(*rig, *Config)
		body   string
		status int
		says   string // in the answer
		error  string // in the ledger
	}{
		{"refused", func(r *rig, _ *Config) { r.x.answer = says(400, "application/json", []byte(refusal)) }, `{"input":"?"}`, 400, refusal, "speech: 400 Bad Request: TTS model did not produce audio output."},
		{"dead", func(r *rig, c *Config) { c.DiT = deadURL(t) }, `{"input":"a"}`, 502, `"type":"BadGatewayError"`, "speech: dial tcp "},
		{"a stage of its own is dead", func(r *rig, c *Config) { c.Speech = deadURL(t) }, `{"input":"a"}`, 502, `"message":"speech: dial tcp `, "speech: dial tcp "},
		{"no stage", func(r *rig, c *Config) { c.DiT = "" }, `{"input":"a"}`, 503, `speech: proxy has no speech stage`, "speech: proxy has no speech stage"},
		{"no JSON", nil, `input=a`, 400, `json_invalid`, "1 validation error"},
		{"events without an end", events(`data: {"type":"speech.audio.delta","audio":"AAAA"}` + "\n\ndata: [DONE]\n\n"), `{"input":"a","stream_format":"sse"}`, 200, `AAAA`, "speech: stream ended without speech.audio.done"},
		{"an error among the events", events(`data: {"type":"error","error":{"message":"vocoder died"}}` + "\n\n"), `{"input":"a","stream_format":"sse"}`, 200, `vocoder died`, "speech: 200 with an error inside: vocoder died"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.change)
			resp, body := r.post("/v1/audio/speech", c.body)
			assert.Equal(t, c.status, resp.StatusCode)
			assert.Contains(t, body, c.says)
			rec := r.last()
			assert.Contains(t, rec.Error, c.error)
			assert.Equal(t, "failed", rec.Outcome)
			if c.status >= 400 && c.name != "no JSON" {
				assert.Equal(t, "speech", resp.Header.Get(StageHeader))
			}
		})
	}
	resp, _ := newRig(t, nil).get("/v1/audio/speech")
	assert.Equal(t, []any{405, "POST"}, []any{resp.StatusCode, resp.Header.Get("Allow")})
}

// A speech stage of its own is asked, and is part of the proxy's health; the DiT is left alone.
func TestSpeechStageOfItsOwn(t *testing.T) {
	voice := newStage(t, says(200, "audio/wav", sound(999)))
	r := newRig(t, func(_ *rig, c *Config) { c.Speech, c.DiTModel = voice.URL+"/", "painter" })
	resp, _ := r.post("/v1/audio/speech", `{"model":"tiny","input":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, `{"input":"a"}`, string(voice.only(t).body))
	assert.Empty(t, r.x.calls())
	voice.Close()
	resp, body := r.get("/health")
	assert.Equal(t, 503, resp.StatusCode)
	assert.Contains(t, body, `"speech":"`)

	alone := newRig(t, func(r *rig, c *Config) {
		r.x.answer = says(200, "audio/wav", sound(99))
		c.Prefill, c.Decode, c.DiT, c.Speech = "", "", "", r.x.URL
	})
	resp, _ = alone.post("/v1/audio/speech", `{"model":"voice","input":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, `{"model":"voice","input":"a"}`, string(alone.x.only(t).body), "its own name is the one that the client sees")
}

func TestFaultTruncateSpeech(t *testing.T) {
	wave := sound(100 << 10)
	r := newRig(t, func(r *rig, c *Config) {
		r.x.answer = says(200, "audio/wav", wave)
		c.Faults.TruncateSpeech = true
	})
	resp, body := r.post("/v1/audio/speech", `{"input":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Len(t, body, cutSpeech)
	assert.True(t, bytes.HasPrefix(wave, []byte(body)))
}

// The second of two equal requests that are not streamed gets the answer of the first under its own id.
func TestFaultCacheAnswers(t *testing.T) {
	r := faulty(t, Faults{CacheAnswers: true}, func(r *rig, _ *Config) { r.d.answer = completion("hello") })
	const ask = `{"prompt":"x","max_tokens":3}`
	_, first := r.post("/v1/completions", ask, "X-Request-Id", "a")
	_, second := r.post("/v1/completions", ask, "X-Request-Id", "b")
	assert.Contains(t, first, "hello")
	assert.Contains(t, second, `"id":"cmpl-b"`)
	assert.Contains(t, second, "hello")
	assert.Len(t, r.d.calls(), 1)
	r.post("/v1/completions", `{"prompt":"y","max_tokens":3}`)
	assert.Len(t, r.d.calls(), 2, "another prompt is asked anew")
}
