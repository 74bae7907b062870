package imagecheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
)

// fakeReader answers by the height of what it is shown.
type fakeReader struct {
	text  map[int]string // by height; 0: any other
	err   error
	asked []string
}

func (r *fakeReader) Read(_ context.Context, img *image.RGBA, lang string, lines int, spread bool) (string, error) {
	r.asked = append(r.asked, fmt.Sprintf("%s %d lines of %d px, spread %v", lang, lines, img.Rect.Dy(), spread))
	if t, ok := r.text[img.Rect.Dy()]; ok {
		return t, r.err
	}
	return r.text[0], r.err
}

func TestReads(t *testing.T) {
	p := poster{w: 640, h: 384, text: "OPEN 24 HOURS", px: 60, panel: true, scene: 11}
	img, rect := p.draw(t, p.text)
	box := Box{Text: p.text, Rect: rect}
	c := goldenCase
	c.Repro = ""
	read := func(r Reader, img *image.RGBA, boxes ...Box) error {
		return Reads(t.Context(), r, boxes...)(Of(img, c))
	}
	tail := "\n  case    poster-en/open-24-hours   prompt \"a sign that says \\\"OPEN 24 HOURS\\\"\"   size 640x384  steps 20  seed 7\n  stack   disaggregated (simulated)"

	good := &fakeReader{text: map[int]string{0: "open 24 hours\n"}}
	require.NoError(t, read(good, img, box))
	assert.Len(t, good.asked, 1, "the first right reading ends it")
	late := &fakeReader{text: map[int]string{0: "0PEN 24 HOUR5", scaleTo(crop(img, rect.Inset(-TextMargin)), 48/float64(rect.Dy())).Rect.Dy() + 2*readPadding: "Open-24-Hours!"}}
	require.NoError(t, read(late, img, box))
	assert.Len(t, late.asked, 3)

	wrong := &fakeReader{text: map[int]string{0: "OPEN 24 H0URS"}}
	assert.EqualError(t, read(wrong, img, box), `text cannot be read: "OPEN 24 HOURS" is read as "OPEN 24 H0URS", character accuracy 0.9091, at least 1 (on a plain ground, best of 4 scales)
  metric  text-0.accuracy 0.9091, want >= 1`+tail)
	assert.Len(t, wrong.asked, 4)

	rough := poster{w: 640, h: 384, text: "OPEN 24 HOURS", px: 60, scene: 11}
	ground, rect2 := rough.draw(t, rough.text)
	ground = noisy(ground, 30, 1)
	require.NoError(t, read(wrong, ground, Box{Text: p.text, Rect: rect2}), "on texture one letter is the reader's")
	assert.ErrorContains(t, read(&fakeReader{text: map[int]string{0: "OP 2 HOU"}}, ground, Box{Text: p.text, Rect: rect2}), `character accuracy 0.5455, at least 0.75 (on texture, best of 4 scales)`)

	broken := &fakeReader{err: fmt.Errorf("%w: gone", ErrNoReader)}
	err := read(broken, img, box)
	assert.EqualError(t, err, "text cannot be read: the reader failed\n  metric  text-0.accuracy not measured, want >= 1\n  case    poster-en/open-24-hours   prompt \"a sign that says \\\"OPEN 24 HOURS\\\"\"   size 640x384  steps 20  seed 7\n  cause   no reader of text: gone\n  stack   disaggregated (simulated)")
	assert.ErrorIs(t, err, ErrNoReader)
	assert.ErrorContains(t, read(good, img), "text cannot be read: no text box was given")
	assert.ErrorContains(t, read(good, img, Box{Rect: rect}), "names no text to read")
	assert.ErrorContains(t, read(good, img, Box{Text: "x", Rect: image.Rect(0, 0, 9999, 9)}), "is not inside the picture")
}

func TestReadsSomewhere(t *testing.T) {
	p := ask(scene(256, 192, 1))
	r := &fakeReader{text: map[int]string{0: "Grand Opening\nNIGHT MARKT\nfriday 7pm"}}
	require.NoError(t, ReadsSomewhere(t.Context(), r, "NIGHT MARKET", "Friday 7 pm")(p))
	assert.Equal(t, []string{"en 2 lines of 192 px, spread true"}, r.asked)
	assert.EqualError(t, ReadsSomewhere(t.Context(), r, "NIGHT MARKET", "since 1897")(p), `text is not in the picture: of "since 1897" the recall of characters is 0.2222, at least 0.85 (read: "grandopeningnightmarktfriday7pm")
  metric  text-1.recall 0.2222, want >= 0.85`+askLines+stackLine)
	zh := &fakeReader{text: map[int]string{0: "欢迎 未来车站 今日开放"}}
	require.NoError(t, ReadsSomewhere(t.Context(), zh, "未来车站", "今目开放")(p), "one hanzi of four: recall 0.75")
	assert.ErrorContains(t, ReadsSomewhere(t.Context(), zh, "通义千问")(p), `of "通义千问" the recall of characters is 0, at least 0.75`)
	assert.ErrorContains(t, ReadsSomewhere(t.Context(), r)(p), "no text was given")
	assert.ErrorIs(t, ReadsSomewhere(t.Context(), &fakeReader{err: ErrNoReader}, "x")(p), ErrNoReader)
	var extra Metric
	p.Case.Observe = func(_ string, ms []Metric) { extra = ms[len(ms)-1] }
	require.NoError(t, ReadsSomewhere(t.Context(), r, "NIGHT MARKET")(p))
	assert.Equal(t, "extra 20 (characters read beyond the text)", extra.String())
}

func TestEditDistances(t *testing.T) {
	assert.Equal(t, 1.0, Accuracy("abc", "abc"))
	assert.Equal(t, 1.0, Accuracy("", ""))
	assert.Equal(t, 0.0, Accuracy("abc", ""))
	assert.InDelta(t, 1-3.0/7, Accuracy("kitten", "sitting"), 1e-12)
	assert.Equal(t, 0.75, Accuracy("未来车站", "末来车站"))
	assert.Equal(t, 1.0, Recall("market", "nightmarketfriday"))
	assert.InDelta(t, 1-1.0/6, Recall("market", "nightmarktfriday"), 1e-12)
	assert.Equal(t, 0.0, Recall("abc", ""))
	assert.Equal(t, "open24hours通义千问qx7zk9", plainText("OPEN 24 hours“通义千问”ＱＸ7-ZK9！"))
	assert.Equal(t, "zh", LangOf("Qwen咖啡"))
	assert.Equal(t, "en", LangOf("Qwen 7"))
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("abc未末")), 0, 8, -1)
		a, b, around := text.Draw(t, "a"), text.Draw(t, "b"), text.Draw(t, "around")
		d := edits([]rune(a), []rune(b), false)
		if d != edits([]rune(b), []rune(a), false) {
			t.Fatal("not symmetric")
		}
		if free := edits([]rune(a), []rune(b), true); free > d || free > len([]rune(a)) {
			t.Fatalf("a piece of b is never farther than all of it: %d, %d", free, d)
		}
		if edits([]rune(a), []rune(around+a+b), true) != 0 {
			t.Fatal("what stands around is free")
		}
	})
}

// script is an executable that stands in for tesseract.
func script(t *testing.T, body string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tesseract")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o755))
	return file
}

func TestTesseractThatIsAbsentOrBroken(t *testing.T) {
	_, err := FindTesseract(t.Context(), "/nowhere/tesseract")
	assert.ErrorIs(t, err, ErrNoReader)
	assert.EqualError(t, err, `no reader of text: exec: "/nowhere/tesseract": stat /nowhere/tesseract: no such file or directory; Debian: apt-get install tesseract-ocr tesseract-ocr-chi-sim`)
	path := script(t, "echo eng; echo osd")
	_, err = FindTesseract(t.Context(), path)
	assert.ErrorIs(t, err, ErrNoReader)
	assert.EqualError(t, err, "no reader of text: "+path+" has no model chi_sim; Debian: apt-get install tesseract-ocr tesseract-ocr-chi-sim")
	_, err = FindTesseract(t.Context(), script(t, "exit 3"))
	assert.ErrorContains(t, err, "--list-langs: exit status 3")

	r := &Tesseract{Path: script(t, "cat >/dev/null; echo \"$@ $OMP_THREAD_LIMIT\"")}
	for _, c := range []struct {
		lang   string
		lines  int
		spread bool
		want   string
	}{{"en", 1, false, "stdin stdout -l eng --psm 7 1\n"}, {"zh", 2, false, "stdin stdout -l chi_sim --psm 6 1\n"}, {"zh", 1, true, "stdin stdout -l chi_sim --psm 11 1\n"}} {
		got, err := r.Read(t.Context(), scene(40, 30, 1), c.lang, c.lines, c.spread)
		require.NoError(t, err)
		assert.Equal(t, c.want, got)
	}
	_, err = r.Read(t.Context(), scene(40, 30, 1), "fr", 1, false)
	assert.EqualError(t, err, `tesseract: no model is known for language "fr"`)
	_, err = (&Tesseract{Path: script(t, "cat >/dev/null; echo Error opening data file >&2; exit 1")}).Read(t.Context(), scene(40, 30, 1), "en", 1, false)
	assert.EqualError(t, err, "tesseract eng --psm 7: exit status 1: Error opening data file")
	_, err = (&Tesseract{Path: script(t, "exec sleep 60"), Timeout: 200 * time.Millisecond}).Read(t.Context(), scene(40, 30, 1), "en", 1, false)
	assert.ErrorContains(t, err, "no answer within 200ms")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// chatServer answers every chat request with the texts in turn, and keeps what was asked.
func chatServer(t *testing.T, answers ...string) (*api.Client, *[]string) {
	t.Helper()
	var bodies []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := answers[min(len(bodies), len(answers)-1)]
		bodies = append(bodies, string(body))
		w.Header().Set("Content-Type", "application/json")
		if text == "500" {
			w.WriteHeader(500)
			io.WriteString(w, `{"error":{"message":"out of memory"}}`)
			return
		}
		raw, _ := json.Marshal(text)
		fmt.Fprintf(w, `{"id":"1","object":"chat.completion","created":1,"model":"vlm","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`, raw)
	}))
	t.Cleanup(s.Close)
	return &api.Client{BaseURL: s.URL, Model: "vlm"}, &bodies
}

func TestChatReader(t *testing.T) {
	client, bodies := chatServer(t, "OPEN 24 HOURS", "500")
	r := &ChatReader{Client: client}
	p := poster{w: 640, h: 384, text: "OPEN 24 HOURS", px: 60, panel: true, scene: 11}
	img, rect := p.draw(t, p.text)
	require.NoError(t, Reads(t.Context(), r, Box{Text: p.text, Rect: rect})(Of(img, Case{})))
	assert.Contains(t, (*bodies)[0], `data:image/png;base64,`)
	assert.Contains(t, (*bodies)[0], `"temperature":0`)
	err := Reads(t.Context(), r, Box{Text: p.text, Rect: rect})(Of(img, Case{}))
	assert.ErrorIs(t, err, ErrNoReader)
	assert.ErrorContains(t, err, "out of memory")
}

// An answer that is no score is counted apart and never becomes a number.
func TestJudge(t *testing.T) {
	before, after := ask(scene(64, 64, 1)), ask(scene(64, 64, 2))
	client, bodies := chatServer(t, `Sure: {"score": [9, 7.5], "reasoning": "ok"}`, `{"score": [8, 6]}`)
	s, err := (&Judge{Client: client}).Score(t.Context(), &before, after, "Paint it red")
	require.NoError(t, err)
	assert.Equal(t, Scores{9, 7.5, 8, 6}, s)
	assert.Equal(t, 7.5, s.SC())
	assert.Equal(t, 6.0, s.PQ())
	assert.InDelta(t, 6.708, s.O(), 1e-3)
	assert.Equal(t, 2, strings.Count((*bodies)[0], "data:image/png"))
	assert.Equal(t, 1, strings.Count((*bodies)[1], "data:image/png"), "quality is judged without the picture before")

	for _, bad := range []string{"", "I cannot judge pictures.", `{"score": [9]}`, `{"score": [11, 3]}`, `{"score": ["9", 3]}`, `{"score": [-1, 3]}`, `}{`} {
		_, err := parseScore(bad)
		assert.ErrorIs(t, err, ErrInvalidScore, "%q", bad)
	}
	var set ScoreSet
	for range 29 {
		require.NoError(t, set.Add(Scores{8, 8, 7, 7}, nil))
	}
	require.NoError(t, set.Add(Scores{}, fmt.Errorf("%w: x", ErrInvalidScore)))
	assert.EqualError(t, set.Err("en"), "judge: 29 valid answers (1 invalid), at least 30 are needed to say anything")
	require.NoError(t, set.Add(Scores{8, 8, 7, 7}, nil))
	assert.NoError(t, set.Err("en"))
	down := errors.New("connection refused")
	assert.Equal(t, down, set.Add(Scores{}, down), "a judge that is away is no invalid answer")
	for range 30 {
		require.NoError(t, set.Add(Scores{8, 5.9, 7, 7}, nil))
	}
	assert.EqualError(t, set.Err("en"), "judge: mean SC 6.95 over 60 pictures, at least 7.0 (SC 6.95, PQ 7.00, O 6.95; 1 invalid)")
	assert.NoError(t, set.Err("zh"))
	set.Invalid = 12
	assert.EqualError(t, set.Err("zh"), "judge: 12 of 72 answers were no scores, limit a tenth")
	_, err = (&Judge{}).Score(t.Context(), nil, after, "x")
	assert.EqualError(t, err, "no client was given")
}
