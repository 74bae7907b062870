package textcheck

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
)

// twice encodes UTF-8 again, as a reader of Windows-1252 does who writes UTF-8.
func twice(s string) string {
	names := map[byte]rune{}
	for r, b := range windows1252 {
		names[b] = r
	}
	var out strings.Builder
	for _, b := range []byte(s) {
		if r, ok := names[b]; ok {
			out.WriteRune(r)
		} else {
			out.WriteRune(rune(b))
		}
	}
	return out.String()
}

func TestHealthyTextsHaveWholeCharacters(t *testing.T) {
	texts := healthy(t)
	texts["quotes"] = "»Ä«, »Ö«, »Ü« MAÇÃ… IRMÃ— CAFÉ» PERCHÉ» – Ã°, l'été»… École « À » Ø° Ñ°; A² × B²"
	for name, text := range texts {
		assert.Empty(t, Mojibake(text), name)
	}
}

func TestDamageIsFound(t *testing.T) {
	for _, c := range []struct {
		text string
		want string
	}{
		{twice("café"), `twice-encoded "Ã©" (é) at 3`},
		{twice("it’s"), `twice-encoded "â€™" (’) at 2`},
		{twice("你好"), "twice-encoded \"ä½\\u00a0\" (你) at 0, twice-encoded \"å¥½\" (好) at 6"},
		{twice("при"), `twice-encoded "Ð¿" (п) at 0, twice-encoded "Ñ€" (р) at 4, twice-encoded "Ð¸" (и) at 9`},
		{twice("🍎 and 🍏"), "twice-encoded \"ðŸ\\u008dŽ\" (🍎) at 0, twice-encoded \"ðŸ\\u008d\\u008f\" (🍏) at 13"},
		{"an apple \uFFFD\uFFFD\uFFFD!", `replacement "���" at 9`},
		{"half \xe4\xbd", `replacement "\xe4\xbd" at 5`},
	} {
		r := Characters(answerOf(c.text), Bounds{})
		assert.Equal(t, c.want, r.Note, c.text)
		assert.Error(t, r.Err())
	}
	assert.EqualError(t, WholeCharacters(Bounds{Key: "lab"})(answerOf(twice("Zürich"))), `mojibake 1, want <= 0 (lab): twice-encoded "Ã¼" (ü) at 1`)
	assert.EqualError(t, WholeCharacters(Bounds{})(&api.Text{}), "mojibake not measured: an answer without choices")
	assert.NoError(t, WholeCharacters(Bounds{})(answerOf("Café ☕ 你好 🍎")))
}

func TestLoneSurrogates(t *testing.T) {
	assert.Empty(t, LoneSurrogates([]byte(`{"text":"\ud83c\udf4e \\ud83c \u4f60"}`)))
	for raw, want := range map[string]string{
		`"\ud83c"`:             `lone-surrogate "\\ud83c" at 1`,
		`"\udf4e x"`:           `lone-surrogate "\\udf4e" at 1`,
		`"\ud83c\ud83c\udf4e"`: `lone-surrogate "\\ud83c" at 1`,
		`"\\\uD83C"`:           `lone-surrogate "\\uD83C" at 3`,
	} {
		found := LoneSurrogates([]byte(raw))
		if assert.Len(t, found, 1, raw) {
			assert.Equal(t, want, found[0].String())
		}
	}
	streamed := answerOf("x")
	streamed.Events = []api.Event{{Data: []byte(`{"text":"\ud83c"}`), Text: "x"}}
	assert.EqualError(t, WholeCharacters(Bounds{})(streamed), `mojibake 1, want <= 0 (default): lone-surrogate "\\ud83c" at 9`)
}

func TestSplitRunes(t *testing.T) {
	stream := func(texts ...string) *api.Text {
		a := answerOf("你好")
		for _, text := range texts {
			a.Events = append(a.Events, api.Event{Data: []byte(text), Text: strings.ToValidUTF8(text, "\uFFFD")})
		}
		a.Events = append(a.Events, api.Event{Data: []byte("[DONE]")})
		return a
	}
	assert.NoError(t, WholeCharacters(Bounds{})(stream("你", "", "好")))
	assert.EqualError(t, WholeCharacters(Bounds{})(stream("你", "\xe5\xa5")), `mojibake 1, want <= 0 (default): split-rune "\xe5\xa5" at 1`)
	assert.EqualError(t, WholeCharacters(Bounds{})(stream("你\uFFFD", "\uFFFD!")), `mojibake 1, want <= 0 (default): split-rune "�|�" at 1`)
}

// Nothing panics, places are inside the text and at character boundaries, and what was encoded twice is found.
func TestMojibakeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		if rapid.Bool().Draw(t, "bytes") {
			text = string(rapid.SliceOf(rapid.Byte()).Draw(t, "raw"))
		}
		for _, d := range Mojibake(text) {
			if text[d.At:d.At+len(d.Text)] != d.Text || d.At > 0 && d.Kind == TwiceEncoded && !utf8.RuneStart(text[d.At]) {
				t.Fatalf("%+v", d)
			}
		}
		LoneSurrogates([]byte(text))
		han := rapid.StringOfN(rapid.RuneFrom(nil, unicode.Han), 2, 8, -1).Draw(t, "han")
		if len(Mojibake(twice(han))) == 0 {
			t.Fatalf("%q encoded twice is %q and not found", han, twice(han))
		}
	})
}
