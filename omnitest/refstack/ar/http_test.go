package ar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shape is a JSON text without its values: keys in order, and the type of each value. Objects whose keys are data are
// opaque.
func shape(t *testing.T, text string) string {
	dec := json.NewDecoder(strings.NewReader(text))
	var b strings.Builder
	var value func(indent, key string)
	value = func(indent, key string) {
		tok, err := dec.Token()
		require.NoError(t, err, text)
		switch tok := tok.(type) {
		case json.Delim:
			b.WriteString(tok.String() + "\n")
			first := true
			for dec.More() {
				k := ""
				if tok == '{' {
					name, err := dec.Token()
					require.NoError(t, err)
					k = name.(string)
				}
				if (tok == '[' || key == "top_logprobs") && !first || key == "bytes" { // lists have one kind of element
					var skip json.RawMessage
					require.NoError(t, dec.Decode(&skip))
					continue
				}
				first = false
				if key == "top_logprobs" && tok == '{' {
					k = "<token>"
				}
				b.WriteString(indent + "  " + k + ": ")
				value(indent+"  ", k+map[bool]string{true: key}[tok == '[']) // an element is named after its list
			}
			dec.Token()
			b.WriteString(indent + "end\n")
		case nil:
			b.WriteString("null\n")
		default:
			fmt.Fprintf(&b, "%T\n", tok)
		}
	}
	value("", "")
	return b.String()
}

// events are the data lines of a stream.
func events(stream string) (list []string) {
	for e := range strings.SplitSeq(stream, "\n\n") {
		if e != "" {
			list = append(list, strings.TrimPrefix(e, "data: "))
		}
	}
	return list
}

// recorded loads exchanges of real vLLM 0.32.0 by their names.
func recorded(t *testing.T, names ...string) (list []replay.Exchange) {
	t.Helper()
	for _, name := range names {
		e, err := replay.Load(recordings, "vllm-0.32.0/"+name+".json")
		require.NoError(t, err)
		list = append(list, e)
	}
	return list
}

func (i *instance) replay(e replay.Exchange) (*http.Response, string) {
	i.t.Helper()
	req, err := http.NewRequest(e.Method, i.url+e.Path, bytes.NewReader(e.RequestBody))
	require.NoError(i.t, err)
	for _, h := range []string{"Content-Type", "X-Request-Id"} {
		if v := e.RequestHeader.Get(h); v != "" {
			req.Header.Set(h, v)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(i.t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(i.t, err)
	return resp, string(got)
}

// Every recorded error: the same status and, to the byte, the same body.
func TestErrorsAsRecorded(t *testing.T) {
	i := serve(t, Config{Model: "tiny", MaxModelLen: 2048})
	files, err := fs.Glob(recordings, "vllm-0.32.0/single/err-*.json")
	require.NoError(t, err)
	require.Len(t, files, 23)
	names := []string{"single/completion-head-health"}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(f, "vllm-0.32.0/"), ".json"))
	}
	for _, e := range recorded(t, names...) {
		t.Run(e.Name, func(t *testing.T) {
			e.RequestBody = inVocabulary(e)
			resp, got := i.replay(e)
			assert.Equal(t, e.Status, resp.StatusCode)
			if e.Status == 200 { // accepted against expectation: a shortened output, an unknown role
				assert.Equal(t, shape(t, string(e.Body)), shape(t, got))
				return
			}
			assert.Equal(t, string(e.Body), got)
			if e.Status == 405 {
				assert.NotEmpty(t, resp.Header.Get("Allow"))
			}
		})
	}
}

// Every recorded good answer: the same keys in the same order with the same types and nulls. Of a stream the first two
// events and those from the last token on.
func TestShapesAsRecorded(t *testing.T) {
	i := serve(t, Config{Model: "tiny", MaxModelLen: 2048, BlockSize: 32, EngineID: "engine-p"})
	names := []string{"nixl/01-proper/p", "nixl/01-proper/d", "nixl/17-prefill-stream-true-and-max4/p-max4",
		"nixl/17-prefill-stream-true-and-max4/p-stream", "nixl/16-chat/p", "nixl/26-wrong-engine-id/d"}
	for _, name := range []string{"completion", "completion-stream", "completion-stream-usage-continuous", "completion-max-tokens-1",
		"completion-token-ids", "completion-stream-token-ids", "completion-logprobs", "completion-stream-logprobs", "completion-stop-string",
		"completion-two-prompts", "completion-n2-sampled-seed", "completion-again-prefix-hit", "chat", "chat-stream", "chat-stream-usage",
		"chat-stream-usage-continuous", "chat-logprobs", "chat-stream-logprobs", "chat-token-ids", "chat-stream-token-ids",
		"chat-x-request-id", "get-models", "get-load", "tokenize", "detokenize", "completion-echo"} {
		names = append(names, "single/"+name)
	}
	for _, e := range recorded(t, names...) {
		t.Run(e.Name, func(t *testing.T) {
			// The recorded ids are beyond our vocabulary of bytes.
			var b map[string]any
			if json.Unmarshal(e.RequestBody, &b) == nil {
				for _, field := range []string{"prompt", "tokens"} {
					if ids, ok := b[field].([]any); ok {
						for n, id := range ids {
							if f, ok := id.(float64); ok {
								ids[n] = int(f) % 256
							}
						}
					}
				}
				if _, ok := b["stop"]; ok {
					b["prompt"] = strings.Replace(b["prompt"].(string), "The ", "Th ", 1)
				}
				if ticket, ok := b["kv_transfer_params"].(map[string]any); ok && ticket["do_remote_prefill"] == true {
					own := i.prefillLeg(b["prompt"])
					if e.Name == "nixl/26-wrong-engine-id/d" {
						own["remote_engine_id"] = "engine-x"
					}
					b["kv_transfer_params"] = own
				}
				data, _ := json.Marshal(b)
				e.RequestBody = data
			}
			resp, got := i.replay(e)
			require.Equal(t, 200, resp.StatusCode, got)
			if !strings.HasPrefix(string(e.Body), "data: ") {
				assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
				if d := cmp.Diff(shape(t, string(e.Body)), shape(t, got)); d != "" {
					t.Errorf("-recorded +ours:\n%s\n%s", d, got)
				}
				return
			}
			assert.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
			want, have := events(string(e.Body)), events(got)
			require.Equal(t, "[DONE]", have[len(have)-1])
			tail := min(3, len(want)-1)
			compare := func(w, h string) {
				if w == "[DONE]" {
					assert.Equal(t, w, h)
					return
				}
				if d := cmp.Diff(shape(t, w), shape(t, h)); d != "" {
					t.Errorf("-recorded +ours:\n%s\n%s\n%s", d, w, h)
				}
			}
			for n := range min(2, len(want)) {
				compare(want[n], have[n])
			}
			for n := 1; n <= tail; n++ {
				compare(want[len(want)-n], have[len(have)-n])
			}
			if e.Name == "nixl/26-wrong-engine-id/d" {
				assert.Equal(t, string(e.Body), got)
			}
		})
	}
}

// A stream never splits a character: every delta is valid by itself, and together they are the text.
func TestStreamKeepsCharactersWhole(t *testing.T) {
	i := serve(t, Config{})
	const text = "请描述一张红苹果🍎放在木桌上的图片。 👩‍🚀 é ü ß"
	_, got := i.post("/v1/chat/completions", body{"messages": []body{{"role": "user", "content": text}}, "stream": true,
		"stream_options": body{"include_usage": true}})
	var joined strings.Builder
	empty := 0
	all := events(got)
	for _, e := range all[:len(all)-1] {
		var c struct {
			Choices []struct {
				Delta struct{ Content string }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(e), &c))
		for _, c := range c.Choices {
			require.True(t, utf8.ValidString(c.Delta.Content))
			require.NotContains(t, c.Delta.Content, "�")
			if c.Delta.Content == "" {
				empty++
			}
			joined.WriteString(c.Delta.Content)
		}
	}
	assert.Equal(t, text, joined.String())
	assert.Equal(t, len(text)-utf8.RuneCountInString(text)+2, empty, "bytes that complete nothing, the opening and the end of text")
}

func TestDetokenizer(t *testing.T) {
	for in, want := range map[string][]string{
		"aé":               {"a", "", "é"},
		"\xe2\x82":         {"", ""},       // incomplete at the end: dropped
		"\xe2\x82a":        {"", "", "�a"}, // broken off by another character
		"\x80b":            {"�", "b"},     // a continuation byte out of nowhere
		"\xf0\x9f\x8d\x8e": {"", "", "", "🍎"},
	} {
		var d detokenizer
		var got []string
		for _, b := range []byte(in) {
			got = append(got, d.add(int32(b)))
		}
		assert.Equal(t, want, got, "%q", in)
	}
}

func TestGeneration(t *testing.T) {
	i := serve(t, Config{})
	ask := func(b body) answer {
		if b["temperature"] == nil {
			b["temperature"] = 0
		}
		return i.complete(b)
	}
	t.Run("ignore_eos wraps round", func(t *testing.T) {
		a := ask(body{"prompt": "abc", "max_tokens": 8, "ignore_eos": true})
		assert.Equal(t, "abcabcab", a.text())
		assert.Equal(t, "length", a.Choices[0].FinishReason)
	})
	t.Run("min_tokens too, then it may end", func(t *testing.T) {
		a := ask(body{"prompt": "abcd", "max_tokens": 50, "min_tokens": 6})
		assert.Equal(t, "abcdabcd", a.text())
		assert.Equal(t, "stop", a.Choices[0].FinishReason)
	})
	t.Run("a chat that wraps round stays inside the message", func(t *testing.T) {
		_, got := i.post("/v1/chat/completions", body{"messages": []body{{"role": "user", "content": "xyz"}}, "max_completion_tokens": 7, "ignore_eos": true})
		assert.Equal(t, "xyzxyzx", parse(t, got).Choices[0].Message.Content)
	})
	t.Run("an empty message", func(t *testing.T) {
		_, got := i.post("/v1/chat/completions", body{"messages": []body{{"role": "user", "content": ""}}})
		a := parse(t, got)
		assert.Empty(t, a.Choices[0].Message.Content)
		assert.Equal(t, "stop", a.Choices[0].FinishReason)
		_, got = i.post("/v1/chat/completions", body{"messages": []body{{"role": "user", "content": ""}}, "ignore_eos": true, "max_tokens": 5})
		assert.Equal(t, 5, parse(t, got).Usage.Completion)
	})
	t.Run("several turns, parts and a picture", func(t *testing.T) {
		_, got := i.post("/v1/chat/completions", body{"return_token_ids": true, "messages": []body{
			{"role": "system", "content": "You edit."}, {"role": "user", "content": "first"}, {"role": "assistant", "content": "first"},
			{"role": "user", "content": []body{{"type": "image_url", "image_url": body{"url": "data:image/png;base64,AA=="}}, {"type": "text", "text": `paint "OPEN" `}, {"type": "text", "text": "red"}}},
		}})
		a := parse(t, got)
		assert.Equal(t, `paint "OPEN" red`, a.Choices[0].Message.Content)
		assert.Equal(t, int32(Image), a.Choices[0].TokenIDs[0])
		assert.Equal(t, int32(EOS), a.Choices[0].TokenIDs[len(a.Choices[0].TokenIDs)-1]&^2, "ends with an end token")
	})
	t.Run("stop strings", func(t *testing.T) {
		a := ask(body{"prompt": "one two three", "max_tokens": 50, "stop": []string{"thr", "zz"}})
		assert.Equal(t, "one two ", a.text())
		_, got := i.post("/v1/completions", body{"prompt": "one two three", "max_tokens": 50, "stop": "two", "stream": true, "temperature": 0})
		assert.NotContains(t, got, `"text":"t"`, "held back, because it begins the stop string")
		assert.Contains(t, got, `"finish_reason":"stop","stop_reason":"two"`)
		a = ask(body{"prompt": "one tw", "max_tokens": 50, "stop": "two"})
		assert.Equal(t, "one tw", a.text(), "what was held back comes at the end")
	})
	t.Run("lists of prompts and choices", func(t *testing.T) {
		status, refused := i.post("/v1/completions", body{"prompt": "abc", "n": 2, "max_tokens": 3, "temperature": 0})
		assert.Equal(t, 400, status, "recorded from a real vLLM 0.32")
		assert.JSONEq(t, `{"error":{"message":"n must be 1 when using greedy sampling, got 2.","type":"BadRequestError","param":null,"code":400}}`, refused)
		a := ask(body{"prompt": []string{"abc", "defg"}, "n": 2, "max_tokens": 3, "temperature": 1})
		require.Len(t, a.Choices, 4)
		for n, want := range []string{"abc", "abc", "def", "def"} {
			assert.Equal(t, want, a.Choices[n].Text)
		}
		assert.Equal(t, 7, a.Usage.Prompt)
		assert.Equal(t, 12, a.Usage.Completion)
		a = ask(body{"prompt": [][]int{{72, 105}, {33}}, "max_tokens": 2})
		assert.Equal(t, "Hi", a.Choices[0].Text)
		assert.Equal(t, "!", a.Choices[1].Text)
	})
	t.Run("seeds", func(t *testing.T) {
		hot := body{"prompt": strings.Repeat("a", 40), "max_tokens": 40, "temperature": 50, "seed": 1, "return_token_ids": true}
		a, b := i.complete(hot), i.complete(hot)
		assert.Equal(t, a.Choices[0].TokenIDs, b.Choices[0].TokenIDs)
		hot["seed"] = 2
		assert.NotEqual(t, a.Choices[0].TokenIDs, i.complete(hot).Choices[0].TokenIDs)
		cool := i.complete(body{"prompt": textA, "max_tokens": 99, "temperature": 1})
		assert.Equal(t, textA, cool.text(), "at temperature 1 a healthy read is certain")
	})
	t.Run("log probabilities", func(t *testing.T) {
		_, got := i.post("/v1/completions", body{"prompt": "héllo", "max_tokens": 4, "temperature": 0, "logprobs": 2})
		var a struct {
			Choices []struct {
				Logprobs struct {
					Offset []int                `json:"text_offset"`
					Tokens []string             `json:"tokens"`
					Log    []float64            `json:"token_logprobs"`
					Top    []map[string]float64 `json:"top_logprobs"`
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(got), &a))
		lp := a.Choices[0].Logprobs
		assert.Equal(t, []string{"h", "", "é", "l"}, lp.Tokens)
		assert.Equal(t, []int{0, 1, 1, 2}, lp.Offset)
		for n, l := range lp.Log {
			assert.LessOrEqual(t, l, 0.0)
			assert.Greater(t, l, -0.01, "a healthy read is certain")
			assert.Equal(t, l, lp.Top[n][lp.Tokens[n]])
		}
	})
}
