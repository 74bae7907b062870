package api_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	recorded "github.com/omnitest/suite/omnitest/internal/replay"
)

// carried reads an event's payload with encoding/json into maps: the independent reading of Event.Has, Usage and Tokens.
func carried(data []byte) (has api.Content, usage, tokens int) {
	usage, tokens = -1, -1
	if string(data) == "[DONE]" {
		return api.IsDone, usage, tokens
	}
	var doc map[string]any
	if json.Unmarshal(data, &doc) != nil {
		return 0, usage, tokens
	}
	filled := func(v any) bool { s, _ := v.(string); return s != "" }
	modality := doc["modality"]
	switch modality {
	case "audio":
		has |= api.HasAudio
	case "image":
		has |= api.HasImage
	}
	if u, ok := doc["usage"].(map[string]any); ok {
		has |= api.HasUsage
		if n, ok := u["completion_tokens"].(float64); ok {
			usage = int(n)
		}
	}
	choices, _ := doc["choices"].([]any)
	for _, one := range choices {
		has |= api.HasChoices
		c := one.(map[string]any)
		if ids, ok := c["token_ids"].([]any); ok {
			tokens = max(tokens, 0) + len(ids)
		}
		if filled(c["finish_reason"]) {
			has |= api.HasFinish
		}
		if filled(c["text"]) {
			has |= api.HasText
		}
		for _, name := range []string{"delta", "message"} {
			d, _ := c[name].(map[string]any)
			if filled(d["content"]) && modality != "audio" {
				has |= api.HasText
			}
			parts, _ := d["content"].([]any)
			for _, p := range parts {
				part := p.(map[string]any)
				if filled(part["text"]) {
					has |= api.HasText
				}
				if part["image_url"] != nil {
					has |= api.HasImage
				}
				if part["audio"] != nil || part["input_audio"] != nil || part["audio_url"] != nil {
					has |= api.HasAudio
				}
			}
			if a, ok := d["audio"].(map[string]any); ok && (filled(a["data"]) || filled(a["transcript"])) {
				has |= api.HasAudio
			}
			if filled(d["reasoning"]) || filled(d["reasoning_content"]) {
				has |= api.HasReasoning
			}
			if calls, _ := d["tool_calls"].([]any); len(calls) > 0 || d["function_call"] != nil {
				has |= api.HasToolCall
			}
		}
	}
	return has, usage, tokens
}

func assertCarried(t *testing.T, name string, events []api.Event) {
	t.Helper()
	read := 0
	for i, ev := range events {
		has, usage, tokens := carried(ev.Data)
		assert.Equal(t, [4]int{int(has), usage, tokens, len(ev.Data)}, [4]int{int(ev.Has), ev.Usage, ev.Tokens, ev.Bytes},
			"%s, event %d: Has, Usage, Tokens, Bytes of %s", name, i, ev.Data)
		assert.GreaterOrEqual(t, ev.Read, read, "%s, event %d: reads go forward", name, i)
		read = ev.Read
	}
}

// Every event of every recorded stream, read by the client and by encoding/json. A lean client must say the same without payloads.
func TestWhatEventsCarry(t *testing.T) {
	streams, events, seen := 0, 0, api.Content(0)
	for _, dir := range []string{"vllm-0.32.0", "vllm-gpu-pd-0.26.0"} {
		list, paths, err := recorded.LoadAll(os.DirFS(recordings), dir)
		require.NoError(t, err)
		for i, e := range list {
			if !e.Streamed() || len(e.Chunks) == 0 || bytes.Contains(e.Body, []byte(`data: {"error":`)) {
				continue
			}
			completion, chat, _, _ := asSent(t, e)
			ask := func(c *api.Client) *api.Text {
				if strings.Contains(e.Path, "chat") {
					text, _ := c.StreamChat(t.Context(), chat, nil)
					return text
				}
				text, _ := c.StreamComplete(t.Context(), completion, nil)
				return text
			}
			c := play(t, recorded.Options{Any: true}, e)
			full := ask(c)
			assertCarried(t, paths[i], full.Events)
			c.Lean = true
			lean := ask(c)
			require.Len(t, lean.Events, len(full.Events), paths[i])
			for j, ev := range full.Events {
				seen |= ev.Has
				assert.Nil(t, lean.Events[j].Data)
				ev.Data, ev.At, ev.Read = nil, lean.Events[j].At, lean.Events[j].Read
				assert.Equal(t, ev, lean.Events[j], "%s, event %d, without payloads", paths[i], j)
			}
			assert.Equal(t, full.Choices, lean.Choices, paths[i])
			assert.Equal(t, full.Usage, lean.Usage, paths[i])
			streams, events = streams+1, events+len(full.Events)
		}
	}
	t.Logf("%d streams, %d events", streams, events)
	assert.Greater(t, streams, 50)
	assert.Equal(t, api.HasChoices|api.HasText|api.HasUsage|api.HasFinish|api.IsDone, seen, "what real vLLM sent; the rest stands in TestKindsOfEvents")
}

// The kinds of events that the recordings don't hold, with their keys in either order.
func TestKindsOfEvents(t *testing.T) {
	sound := base64Of([]byte("samples"))
	picture := `data:image/png;base64,` + base64Of(testPNG(t, 4, 4))
	for _, c := range []struct {
		name, data string
		has        api.Content
		usage      int
	}{
		{"role chunk", `{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}`, api.HasChoices, -1},
		{"empty delta", `{"choices":[{"index":0,"delta":{}}]}`, api.HasChoices, -1},
		{"text", `{"choices":[{"index":0,"delta":{"content":"fox"}}],"modality":"text"}`, api.HasChoices | api.HasText, -1},
		{"text of choice 1 alone", `{"choices":[{"delta":{"content":"fox"},"index":1}]}`, api.HasChoices | api.HasText, -1},
		{"reasoning_content", `{"choices":[{"index":0,"delta":{"reasoning_content":"hm","content":null}}]}`, api.HasChoices | api.HasReasoning, -1},
		{"reasoning", `{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}`, api.HasChoices | api.HasReasoning, -1},
		{"empty reasoning", `{"choices":[{"index":0,"delta":{"reasoning":"","reasoning_content":null}}]}`, api.HasChoices, -1},
		{"tool call", `{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{"}}]}}]}`, api.HasChoices | api.HasToolCall, -1},
		{"no tool call", `{"choices":[{"index":0,"delta":{"tool_calls":[],"function_call":null}}]}`, api.HasChoices, -1},
		{"function call", `{"choices":[{"index":0,"delta":{"function_call":{"name":"f"}}}]}`, api.HasChoices | api.HasToolCall, -1},
		{"finish with usage on choices", `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":7}}`, api.HasChoices | api.HasFinish | api.HasUsage, 7},
		{"continuous usage, first", `{"usage":{"completion_tokens":3,"prompt_tokens":9},"choices":[{"delta":{"content":"a"},"index":0}]}`, api.HasChoices | api.HasText | api.HasUsage, 3},
		{"closing usage", `{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":8,"total_tokens":17}}`, api.HasUsage, 8},
		{"usage without the count", `{"choices":[],"usage":{"prompt_tokens":9}}`, api.HasUsage, -1},
		{"no choices", `{"id":"x"}`, 0, -1},
		{"audio chunk", `{"choices":[{"index":0,"delta":{"content":"` + sound + `"}}],"modality":"audio"}`, api.HasChoices | api.HasAudio, -1},
		{"audio chunk, kind first", `{"modality" : "audio","choices":[{"index":0,"delta":{"content":"` + sound + `"}}]}`, api.HasChoices | api.HasAudio, -1},
		{"audio chunk without data", `{"choices":[{"index":0,"delta":{"content":null}}],"modality":"audio"}`, api.HasChoices | api.HasAudio, -1},
		{"audio object", `{"choices":[{"index":0,"delta":{"audio":{"data":"` + sound + `"}}}]}`, api.HasChoices | api.HasAudio, -1},
		{"image chunk", `{"choices":[{"index":0,"delta":{"content":[{"type":"image_url","image_url":{"url":"` + picture + `"}}]}}],"modality":"image"}`, api.HasChoices | api.HasImage, -1},
		{"image part without a modality", `{"choices":[{"index":0,"delta":{"content":[{"type":"text","text":"see"},{"image_url":{"url":"` + picture + `"}}]}}]}`, api.HasChoices | api.HasText | api.HasImage, -1},
		{"text that speaks of a modality", `{"choices":[{"index":0,"delta":{"content":"\"modality\":\"audio\""}}]}`, api.HasChoices | api.HasText, -1},
	} {
		stream := "data: " + c.data + "\n\n" + `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"},{"index":1,"delta":{},"finish_reason":"stop"}]}` + "\n\n" + done
		for _, lean := range []bool{false, true} {
			client := answer(t, 200, asStream, stream)
			client.Lean = lean
			text, err := client.StreamChat(t.Context(), api.ChatRequest{}, nil)
			require.NoError(t, err, c.name)
			require.Len(t, text.Events, 3, c.name)
			assert.Equal(t, c.has, text.Events[0].Has, c.name)
			assert.Equal(t, c.usage, text.Events[0].Usage, c.name)
			assert.Equal(t, len(c.data), text.Events[0].Bytes, c.name)
			if !lean {
				assertCarried(t, c.name, text.Events)
			}
		}
	}
}

func TestWhatSpeechEventsCarry(t *testing.T) {
	wave := "RIFF\x24\x00\x00\x00WAVEfmt "
	c := answer(t, 200, asStream, `data: {"type":"speech.audio.delta","audio":"`+base64Of([]byte(wave))+"\"}\n\n"+
		`data: {"type":"speech.other"}`+"\n\n"+
		`data: {"type":"speech.audio.done","usage":{"input_tokens":4,"output_tokens":31}}`+"\n\n")
	s, err := c.StreamSpeak(t.Context(), api.SpeechRequest{Input: "hi", SSE: true}, nil)
	require.NoError(t, err)
	var got []api.Event
	for _, ev := range s.Events {
		assert.Equal(t, len(ev.Data), ev.Bytes)
		got = append(got, api.Event{Has: ev.Has, Usage: ev.Usage, Tokens: ev.Tokens})
	}
	assert.Equal(t, []api.Event{{Has: api.HasAudio, Usage: -1, Tokens: -1}, {Usage: -1, Tokens: -1}, {Has: api.HasFinish | api.HasUsage, Usage: 31, Tokens: -1}}, got)
}
