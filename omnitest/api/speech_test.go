package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// riff is a WAVE file of n silent samples, with the sizes that it has.
func riff(n int) string {
	le := func(v, bytes int) string {
		var b []byte
		for range bytes {
			b, v = append(b, byte(v)), v>>8
		}
		return string(b)
	}
	return "RIFF" + le(36+2*n, 4) + "WAVEfmt " + le(16, 4) + le(1, 2) + le(1, 2) + le(24000, 4) + le(48000, 4) + le(2, 2) + le(16, 2) +
		"data" + le(2*n, 4) + strings.Repeat("\x00\x00", n)
}

func speak(c *api.Client, format string) error {
	_, err := c.Speak(context.Background(), api.SpeechRequest{Input: "fox", Format: format, RequestID: "req-7"})
	return err
}

func streamSpeak(c *api.Client, format string) error {
	_, err := c.StreamSpeak(context.Background(), api.SpeechRequest{Input: "fox", Format: format, RequestID: "req-7"}, nil)
	return err
}

func TestSpeechRequestOnTheWire(t *testing.T) {
	var body map[string]any
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/v1/audio/speech", r.URL.Path)
		assert.Equal(t, "req-7", r.Header.Get("X-Request-Id"))
		body = nil
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		w.Header().Set("Content-Type", "audio/wav")
		io.WriteString(w, riff(3))
		if body["stream"] == true {
			w.(http.Flusher).Flush()
			io.WriteString(w, "xx")
		}
	})
	c.Model = "voice"
	seed := int64(7)
	r := api.SpeechRequest{Input: "狐 <fox>", Voice: "alto", Instructions: "slowly", Speed: 0.5, Seed: &seed, RequestID: "req-7", Extra: map[string]any{"language": "Auto"}}
	s, err := c.Speak(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{
		"model": "voice", "input": "狐 <fox>", "voice": "alto", "instructions": "slowly", "response_format": "wav", "speed": 0.5, "seed": 7., "language": "Auto",
	}, body)
	assert.Equal(t, riff(3), string(s.Raw))
	assert.Equal(t, "audio/wav", s.ContentType)
	assert.Nil(t, s.Chunks, "reads of one piece are no arrivals")
	_, ok := s.FirstAudio()
	assert.False(t, ok)
	assert.EqualValues(t, len(riff(3)), s.BodyBytes)
	assert.NotZero(t, s.End)

	_, err = c.StreamSpeak(t.Context(), api.SpeechRequest{Input: "x", RequestID: "req-7"}, nil)
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"model": "voice", "input": "x", "response_format": "wav", "stream": true, "stream_format": "audio"}, body)
	_, err = c.StreamSpeak(t.Context(), api.SpeechRequest{Input: "x", RequestID: "req-7", SSE: true}, nil)
	require.NoError(t, err)
	assert.Equal(t, "sse", body["stream_format"])
}

// The header of a file comes before anything was computed: it is no first audio. Chunks have the time at which they came.
func TestFirstAudioIsNotTheHeader(t *testing.T) {
	file := riff(100)
	step := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "audio/wav")
		for _, part := range []string{file[:44], file[44:100], file[100:]} {
			io.WriteString(w, part)
			w.(http.Flusher).Flush()
			<-step
		}
	})
	var seen []int
	s, err := c.StreamSpeak(t.Context(), api.SpeechRequest{Input: "x"}, func(ch api.SpeechChunk) error {
		seen = append(seen, len(ch.Data))
		time.Sleep(2 * time.Millisecond)
		step <- struct{}{}
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, []int{44, 56, 144}, seen)
	assert.Equal(t, file, string(s.Raw))
	at, ok := s.FirstAudio()
	assert.True(t, ok)
	assert.Equal(t, s.Chunks[1].At, at)
	assert.Greater(t, at, s.Chunks[0].At)

	pcm := api.Speech{Format: "pcm", Chunks: []api.SpeechChunk{{At: 5, Data: []byte("ab")}}}
	at, ok = pcm.FirstAudio()
	assert.True(t, ok)
	assert.EqualValues(t, 5, at, "raw samples have no header")
}

func TestSpeechEvents(t *testing.T) {
	file := riff(50)
	delta := func(part string) string {
		return `data: {"type":"speech.audio.delta","audio":"` + base64.StdEncoding.EncodeToString([]byte(part)) + "\"}\n\n"
	}
	const done = "data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":1}}\n\n"
	ask := func(body string) (*api.Speech, error) {
		return answer(t, 200, asStream, body).StreamSpeak(t.Context(), api.SpeechRequest{Input: "x", SSE: true}, nil)
	}
	s, err := ask(delta(file[:44]) + "data: {\"type\":\"speech.audio.news\",\"x\":1}\n\n" + delta(file[44:]) + done)
	require.NoError(t, err)
	assert.Equal(t, file, string(s.Raw))
	assert.Len(t, s.Chunks, 2)
	assert.Len(t, s.Events, 4)

	for body, says := range map[string]string{
		delta(file):                          "truncated: the stream ended after 144 bytes of sound: missing speech.audio.done",
		delta(file) + `data: {"type":"speec`: "truncated: the stream ended inside an event, after 144 bytes of sound: missing speech.audio.done",
		done:                                 "protocol: an answer without sound: the body is empty",
		"data: {\"type\":\"speech.audio.delta\",\"audio\":\"!!\"}\n\n" + done:             "protocol: unexpected JSON at byte",
		delta(file) + "data: {\"error\":{\"message\":\"vocoder died\",\"code\":500}}\n\n": "error inside a 200 answer: vocoder died",
		delta(file) + "event: error\ndata: {\"message\":\"vocoder died\"}\n\n":            "error inside a 200 answer: ",
		delta("ID3 an mp3 file, not wav") + done:                                          `protocol: asked for wav, the body of 24 bytes begins "ID3 an mp3 f"`,
	} {
		s, err := ask(body)
		assert.ErrorContains(t, err, says, body)
		assert.NotNil(t, s, "what had arrived is kept")
	}
}

func TestSpeechFailures(t *testing.T) {
	const page = "<html><head><title>502 Bad Gateway</title></head></html>"
	for name, c := range map[string]struct {
		status     int
		kind, body string
		want       api.Kind
		says       string
	}{
		"recorded refusal": {400, asJSON, `{"error":{"message":"TTS model did not produce audio output.","type":"BadRequestError","param":null,"code":400}}`, api.Refused, "400 Bad Request: TTS model did not produce audio output. (BadRequestError, code 400)"},
		"page":             {200, "audio/wav", page, api.Protocol, "HTML"},
		"error in 200":     {200, asJSON, `{"error":{"message":"vocoder died","code":500}}`, api.InBand, "vocoder died"},
		"JSON":             {200, asJSON, `{"audio":"AAAA"}`, api.Protocol, `content type "application/json" where a sound is due, body "{\"audio\":\"AAAA\"}"`},
		"picture":          {200, "image/png", "\x89PNG", api.Protocol, `content type "image/png" where a sound is due`},
		"empty":            {200, "audio/wav", "", api.Protocol, "an answer without sound: the body is empty"},
		"mp3 for wav":      {200, "audio/wav", "\xff\xfbsome mp3 frames", api.Protocol, `asked for wav, the body of 17 bytes begins "\xff\xfbsome mp3 f"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := speak(answer(t, c.status, c.kind, c.body), "wav")
			require.Equal(t, c.want, api.KindOf(err), "%v", err)
			assert.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, "request id req-7")
		})
	}
	assert.ErrorContains(t, speak(answer(t, 200, "audio/pcm", riff(3)), "pcm"), "asked for pcm, the body is a WAVE file")
	assert.ErrorContains(t, streamSpeak(answer(t, 200, "audio/wav", riff(3)), "wav"),
		`asked for a stream, got the sound in one piece ("audio/wav", Content-Length 50): the server ignored stream=true`)
}

func TestSpeechLimits(t *testing.T) {
	c := answer(t, 200, "audio/wav", riff(1000))
	c.Limits.FileBytes = 2043
	assert.ErrorContains(t, speak(c, "wav"), "Content-Length claims 2044 bytes of sound, limit 2043 (Limits.FileBytes)")
	c.Limits.FileBytes = 2044
	assert.NoError(t, speak(c, "wav"))

	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "audio/pcm")
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	endless.Limits.FileBytes = 100_000
	err := streamSpeak(endless, "pcm")
	assert.Equal(t, api.Limit, api.KindOf(err))
	assert.ErrorContains(t, err, "a sound of more than 100000 bytes (Limits.FileBytes)")

	big := `data: {"type":"speech.audio.delta","audio":"` + strings.Repeat("A", 4000) + "\"}\n\n"
	c = answer(t, 200, asStream, big)
	c.Limits.FileBytes = 1000
	assert.Equal(t, api.Limit, api.KindOf(streamSpeak(c, "pcm")))
}

func TestSpeechBreaksOff(t *testing.T) {
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "audio/wav")
		io.WriteString(w, riff(100)[:100])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	s, err := cut.StreamSpeak(t.Context(), api.SpeechRequest{Input: "x"}, nil)
	assert.Equal(t, api.Truncated, api.KindOf(err), "%v", err)
	assert.Len(t, s.Raw, 100, "what had arrived is kept")
	assert.Equal(t, 200, s.Status)

	stop := errors.New("enough")
	_, err = answer(t, 200, asStream, fmt.Sprintf("data: {\"type\":\"speech.audio.delta\",\"audio\":%q}\n\n", "UklGRg==")).
		StreamSpeak(t.Context(), api.SpeechRequest{Input: "x", SSE: true}, func(api.SpeechChunk) error { return stop })
	assert.ErrorIs(t, err, stop)
	assert.Equal(t, api.Canceled, api.KindOf(err))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = hangs(t, "HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\n\r\nRIFF").Speak(ctx, api.SpeechRequest{Input: "x"})
	assert.Equal(t, api.Timeout, api.KindOf(err))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestTranscribe(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/v1/audio/transcriptions", r.URL.Path)
		assert.NoError(t, r.ParseMultipartForm(1<<20))
		assert.Equal(t, map[string][]string{"model": {"whisper"}, "language": {"zh"}, "temperature": {"0"}, "response_format": {"json"}}, map[string][]string(r.MultipartForm.Value))
		f, h, err := r.FormFile("file")
		if assert.NoError(t, err) {
			raw, _ := io.ReadAll(f)
			assert.Equal(t, riff(3), string(raw))
			assert.Equal(t, "speech.wav", h.Filename)
		}
		w.Header().Set("Content-Type", asJSON)
		io.WriteString(w, `{"text":"今天","usage":{"type":"duration","seconds":1}}`)
	})
	c.Model = "whisper"
	text, err := c.Transcribe(t.Context(), api.TranscriptionRequest{Audio: []byte(riff(3)), Language: "zh"})
	require.NoError(t, err)
	assert.Equal(t, "今天", text)

	for body, says := range map[string]string{
		`{"words":[]}`:     "a transcription without text",
		`{"text":null}`:    "a transcription without text",
		`{"text":7}`:       "unexpected JSON",
		`{"error":"busy"}`: "error inside a 200 answer: busy",
	} {
		_, err := answer(t, 200, asJSON, body).Transcribe(t.Context(), api.TranscriptionRequest{})
		assert.ErrorContains(t, err, says, body)
	}
	text, err = answer(t, 200, asJSON, `{"text":""}`).Transcribe(t.Context(), api.TranscriptionRequest{})
	assert.NoError(t, err)
	assert.Empty(t, text, "it heard nothing: that is an answer")
}
