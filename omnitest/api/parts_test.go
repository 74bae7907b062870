package api_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// told is the order of parts in short.
func told(parts []api.Part) string {
	var out []string
	for _, p := range parts {
		switch p.Kind {
		case "text":
			out = append(out, "text "+p.Text)
		case "image":
			out = append(out, "image "+p.Image.Size.String())
		default:
			out = append(out, strings.TrimSpace(p.Kind+" "+string(p.Audio)+" "+p.Transcript))
		}
	}
	return strings.Join(out, " | ")
}

func chatOf(t *testing.T, message string) (*api.Text, error) {
	t.Helper()
	return answer(t, 200, asJSON, `{"id":"1","choices":[{"index":0,"message":`+message+`,"finish_reason":"stop"}]}`).
		Chat(t.Context(), api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "x"}}})
}

func TestPartsInTheirOrder(t *testing.T) {
	a, b := `{"type":"image_url","image_url":{"url":"data:image/png;base64,`+base64Of(testPNG(t, 16, 8))+`"}}`, `{"type":"image_url","image_url":{"url":"data:image/png;base64,`+base64Of(testPNG(t, 4, 4))+`"}}`
	sound := func(s string) string { return `{"data":"` + base64Of([]byte(s)) + `"}` }
	for message, want := range map[string]string{
		`{"content":"only text"}`:                          "",
		`{"content":"only text","audio":null}`:             "",
		`{"content":[{"type":"text","text":"only text"}]}`: "",
		`{"content":"你好","audio":{"id":"a","data":"` + base64Of([]byte("WAV")) + `","transcript":"hello"}}`:                       "text 你好 | audio WAV hello",
		`{"content":[` + a + `,{"type":"text","text":"one "},{"type":"text","text":"two"},` + b + `],"audio":` + sound("S") + `}`: "image 16x8 | text one two | image 4x4 | audio S",
		`{"content":[{"type":"audio","audio":` + sound("S") + `},` + a + `,{"type":"text","text":"end"}]}`:                        "audio S | image 16x8 | text end",
		`{"content":[{"type":"input_audio","input_audio":` + sound("S") + `}]}`:                                                   "audio S",
		`{"content":[{"type":"audio_url","audio_url":{"url":"data:audio/wav;base64,` + base64Of([]byte("U")) + `"}}]}`:            "audio U",
	} {
		text, err := chatOf(t, message)
		require.NoError(t, err, message)
		assert.Equal(t, want, told(text.Choices[0].Parts), message)
	}
	_, err := chatOf(t, `{"content":"x","audio":{"data":"!!"}}`)
	assert.Equal(t, api.Protocol, api.KindOf(err), "%v", err)
	c := answer(t, 200, asJSON, `{"choices":[{"message":{"content":"x","audio":{"data":"`+strings.Repeat("A", 4000)+`"}},"finish_reason":"stop"}]}`)
	c.Limits.FileBytes = 100
	_, err = c.Chat(t.Context(), api.ChatRequest{})
	assert.Equal(t, api.Limit, api.KindOf(err), "%v", err)
}

// In vLLM-Omni's streams a chunk of modality audio carries base64 where others carry text: it must not be read as text.
func TestStreamedSoundIsNoText(t *testing.T) {
	event := func(delta, rest string) string {
		return `data: {"id":"1","choices":[{"index":0,"delta":` + delta + `,"finish_reason":` + rest + "}\n\n"
	}
	c := answer(t, 200, asStream, event(`{"role":"assistant","content":"say "}`, `null}],"modality":"text"`)+
		event(`{"content":"\"modality\":\"audio\""}`, `null}],"modality":"text"`)+
		event(`{"content":"`+base64Of([]byte("first "))+`"}`, `null}],"modality":"audio"`)+
		event(`{"content":"`+base64Of([]byte("second"))+`"}`, `"stop"}],"modality":"audio"`)+"data: [DONE]\n\n")
	text, err := c.StreamChat(t.Context(), api.ChatRequest{}, nil)
	require.NoError(t, err)
	assert.Equal(t, `say "modality":"audio"`, text.String())
	assert.Equal(t, `text say "modality":"audio" | audio first second`, told(text.Choices[0].Parts))
	assert.Empty(t, text.Events[2].Text, "a sound is no text, also for the time of the first token")
}

func base64Of(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
