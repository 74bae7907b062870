package dit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func say(t testing.TB, c Config, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v1/audio/speech", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	server(t, c).Handler().ServeHTTP(w, r)
	return w
}

// samplesOf reads a body of 16 bit samples, behind a header of 44 bytes in a WAVE file.
func samplesOf(t testing.TB, body []byte) []int16 {
	t.Helper()
	if bytes.HasPrefix(body, []byte("RIFF")) {
		body = body[44:]
	}
	out := make([]int16, len(body)/2)
	require.NoError(t, binary.Read(bytes.NewReader(body), binary.LittleEndian, out))
	return out
}

func TestSpeechIsTheFileThatItClaims(t *testing.T) {
	u := Utterance{Text: "Hello, world 7", Voice: "bass", Speed: 2, Seed: 5}
	w := say(t, Config{}, `{"input":"Hello, world 7","voice":"Bass","speed":2,"seed":5}`)
	require.Equal(t, 200, w.Code, w.Body.String())
	assert.Equal(t, "audio/wav", w.Header().Get("Content-Type"))
	body, le := w.Body.Bytes(), binary.LittleEndian
	assert.Equal(t, "RIFF", string(body[:4]))
	assert.EqualValues(t, len(body)-8, le.Uint32(body[4:]))
	assert.EqualValues(t, len(body)-44, le.Uint32(body[40:]))
	assert.EqualValues(t, SpeechRate, le.Uint32(body[24:]))
	assert.Equal(t, Speak(u), samplesOf(t, body))

	pcm := say(t, Config{}, `{"input":"Hello, world 7","voice":"bass","speed":2,"seed":5,"response_format":"pcm"}`)
	assert.Equal(t, "audio/pcm", pcm.Header().Get("Content-Type"))
	assert.Equal(t, body[44:], pcm.Body.Bytes(), "pcm is the same without a header")
}

// Over a real connection the chunks come one by one, and together they are what comes whole.
func TestSpeechStreams(t *testing.T) {
	s := httptest.NewServer(server(t, Config{}).Handler())
	defer s.Close()
	want := Speak(Utterance{Text: "a sentence of some length"})
	post := func(body string) *http.Response {
		res, err := http.Post(s.URL+"/v1/audio/speech", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	res := post(`{"input":"a sentence of some length","stream":true}`)
	assert.EqualValues(t, -1, res.ContentLength, "a stream has no length")
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.EqualValues(t, 0xFFFFFFFF, binary.LittleEndian.Uint32(body[4:]))
	assert.EqualValues(t, 0xFFFFFFFF, binary.LittleEndian.Uint32(body[40:]))
	assert.Equal(t, want, samplesOf(t, body))

	res = post(`{"input":"a sentence of some length","stream_format":"sse","response_format":"pcm"}`)
	var got []byte
	deltas, kinds := 0, []string{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e struct {
			Type  string
			Audio []byte
		}
		require.NoError(t, json.Unmarshal([]byte(data), &e))
		got = append(got, e.Audio...)
		deltas++
		kinds = append(kinds, e.Type)
	}
	assert.Equal(t, want, samplesOf(t, got))
	assert.Equal(t, (len(want)+speechChunk-1)/speechChunk+1, deltas)
	assert.Equal(t, []string{"speech.audio.delta", "speech.audio.done"}, slices.Compact(kinds))
}

func TestSpeechRefusals(t *testing.T) {
	for body, says := range map[string]string{
		`{"input":"?!"}`:                                      `{"error":{"message":"TTS model did not produce audio output.","type":"BadRequestError","param":null,"code":400}}`, // recorded
		`{"input":"  "}`:                                      `Input text cannot be empty`,
		`{"voice":"alto"}`:                                    `'type': 'missing', 'loc': ('body', 'input')`,
		`{"input":"a","voice":"tenor"}`:                       `Invalid speaker 'tenor'. Supported: alto, bass`,
		`{"input":"a","speed":5}`:                             `Input should be less than or equal to 4`,
		`{"input":"a","speed":0.1}`:                           `Input should be greater than or equal to 0.25`,
		`{"input":"a","response_format":"ogg"}`:               `Input should be 'wav', 'pcm', 'flac', 'mp3', 'aac' or 'opus'`,
		`{"input":"a","response_format":"mp3"}`:               `no encoder for response_format='mp3'`,
		`{"input":"a","response_format":"mp3","stream":true}`: `Streaming requires response_format='pcm' or 'wav'. Got response_format='mp3'.`,
		`{"input":"a","model":"x"}`:                           `Model mismatch`,
		`{"input":7}`:                                         `Input should be a valid string`,
		`{`:                                                   `JSON decode error`,
	} {
		w := say(t, Config{}, body)
		assert.Equal(t, 400, w.Code, body)
		assert.Contains(t, w.Body.String(), says, body)
	}
}

func TestSpeechIsAFunctionOfItsRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z0-9]{1,6}( [a-z]{1,5}){0,3}[.?]?`).Draw(t, "text")
		u := Utterance{Text: text, Voice: rapid.SampledFrom(Voices).Draw(t, "voice"), Speed: rapid.Float64Range(0.5, 3).Draw(t, "speed")}
		wave := Speak(u)
		assert.Equal(t, wave, Speak(u))
		assert.Len(t, wave, u.samples())
		assert.InDelta(t, float64(len(wave))/SpeechRate, u.Duration().Seconds(), 1e-6)
		other := u
		other.Text += " more"
		assert.Greater(t, other.Duration(), u.Duration(), "a longer text takes longer")
	})
	assert.Nil(t, Speak(Utterance{Text: " ...!"}))
	assert.NotEqual(t, Speak(Utterance{Text: "abc", Seed: 1}), Speak(Utterance{Text: "abc", Seed: 2}))
	assert.Equal(t, Speak(Utterance{Text: "ABC"}), Speak(Utterance{Text: "abc", Voice: "alto", Speed: 1}))
}

// No two letters, and no letter and its neighbour in the alphabet, may sound alike: a wrong one must be audible.
func TestLettersSoundDifferent(t *testing.T) {
	seen := map[[3]float64]rune{}
	for r := 'a'; r <= 'z'; r++ {
		f := sounds(string(r))[0].formant
		assert.NotContains(t, seen, f, "%c sounds as %c", r, seen[f])
		seen[f] = r
	}
	for text, want := range map[string]string{
		"sunny": "suppy", "room 101": "room 201", "今天": "今夭", "aeiou": "aeioub", "A blue cup": "A bmue cup",
	} {
		if got := otherText(text); text != "sunny" && text != "今天" && text != "room 101" && text != "A blue cup" {
			assert.Equal(t, want, got)
		} else {
			assert.NotEqual(t, text, got)
			assert.Equal(t, Utterance{Text: text}.Duration(), Utterance{Text: got}.Duration(), "%q for %q", got, text)
		}
	}
}

func TestSpeechFaults(t *testing.T) {
	const body = `{"input":"open twenty four hours"}`
	u := Utterance{Text: "open twenty four hours"}
	healthy := Speak(u)
	at := func(f Faults) []int16 {
		w := say(t, Config{Faults: f}, body)
		require.Equal(t, 200, w.Code)
		return samplesOf(t, w.Body.Bytes())
	}
	assert.Equal(t, healthy, at(Faults{}))
	assert.Equal(t, make([]int16, len(healthy)), at(Faults{SilentAudio: true}))
	assert.Len(t, at(Faults{TruncatedAudio: true}), len(healthy)*2/3)
	full := 0
	for _, v := range at(Faults{ClippedAudio: true}) {
		if v == math.MaxInt16 || v == math.MinInt16 {
			full++
		}
	}
	assert.Greater(t, full, len(healthy)/100)
	wrong := at(Faults{WrongSpeech: true})
	assert.Len(t, wrong, len(healthy))
	assert.NotEqual(t, healthy, wrong)
}

func TestSpeechCounts(t *testing.T) {
	s := server(t, Config{})
	for _, body := range []string{`{"input":"one"}`, `{"input":"?"}`} {
		r := httptest.NewRequest(http.MethodPost, "/v1/audio/speech", strings.NewReader(body))
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
	eventually(t, s, stopped, 1)
	eventually(t, s, aborted, 1)
	eventually(t, s, running, 0)
}

func TestSpeechStall(t *testing.T) {
	s := httptest.NewServer(server(t, Config{Faults: Faults{Stall: true}}).Handler())
	defer s.Close()
	c := &http.Client{Timeout: 300 * time.Millisecond}
	_, err := c.Post(s.URL+"/v1/audio/speech", "application/json", strings.NewReader(`{"input":"one"}`))
	assert.Error(t, err)
}

func BenchmarkSpeak(b *testing.B) {
	u := Utterance{Text: "The quick brown fox jumps over the lazy dog"}
	b.ReportMetric(u.Duration().Seconds(), "audio-s")
	b.ReportAllocs()
	for b.Loop() {
		Speak(u)
	}
}

// A chat that asks for text, picture and sound gets all three; one that asks for a picture gets a picture, as recorded.
func TestMixedChat(t *testing.T) {
	ask := func(c Config, modalities string) (content []map[string]any, audio map[string]any) {
		body := `{"messages":[{"role":"user","content":"a red circle \"HI\""}],"modalities":` + modalities + `,"extra_body":{"height":64,"width":64,"num_inference_steps":1,"seed":4}}`
		r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		server(t, c).Handler().ServeHTTP(w, r)
		require.Equal(t, 200, w.Code, w.Body.String())
		var a struct {
			Choices []struct {
				Message struct {
					Content []map[string]any
					Audio   map[string]any
				}
			}
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		return a.Choices[0].Message.Content, a.Choices[0].Message.Audio
	}
	content, audio := ask(Config{}, `["text","image","audio"]`)
	require.Len(t, content, 2)
	assert.Equal(t, map[string]any{"type": "text", "text": `a red circle "HI"`}, content[0])
	assert.Equal(t, "image_url", content[1]["type"])
	assert.Equal(t, `a red circle "HI"`, audio["transcript"])
	wav, err := base64.StdEncoding.DecodeString(audio["data"].(string))
	require.NoError(t, err)
	assert.Equal(t, Speak(Utterance{Text: `a red circle "HI"`, Seed: 4}), samplesOf(t, wav))

	for _, other := range []string{`["image"]`, `["text","image"]`, `"image"`, `null`} {
		content, audio = ask(Config{}, other)
		assert.Len(t, content, 1, other)
		assert.Nil(t, audio, other)
	}
	_, audio = ask(Config{Faults: Faults{SilentAudio: true}}, `["image","audio"]`)
	wav, err = base64.StdEncoding.DecodeString(audio["data"].(string))
	require.NoError(t, err)
	assert.Equal(t, make([]int16, (len(wav)-44)/2), samplesOf(t, wav))
}
