package audiocheck

import (
	"context"
	"errors"
	"math"
	"strings"
	"unicode"
)

// Transcriber hears: a speech recogniser behind an endpoint, a program, or a fake. wav is a whole file of 16 bit.
type Transcriber interface {
	Transcribe(ctx context.Context, wav []byte) (string, error)
}

// TranscriberFunc makes a Transcriber of a function.
type TranscriberFunc func(ctx context.Context, wav []byte) (string, error)

// Transcribe calls f.
func (f TranscriberFunc) Transcribe(ctx context.Context, wav []byte) (string, error) {
	return f(ctx, wav)
}

// ErrNoTranscriber is the cause of a transcript check without a tool: not measured, which is no pass. A suite skips such a
// test with its remedy and counts it.
var ErrNoTranscriber = errors.New("no transcriber: name an endpoint that serves /v1/audio/transcriptions")

// Transcript demands that a tool hears the text: 1 minus the edit distance over the length, of letters, digits and hanzi in
// lower case, is 0.9 or more. A short text of at most 15 characters is looked for inside what was heard, for recognisers
// add words to short clips. (vLLM-Omni's tests ask for a cosine of 0.9 and do the same with short texts.) A tool that fails
// is a failure of this check with the tool's error as its cause, never a pass.
func Transcript(ctx context.Context, tool Transcriber, text string) Check {
	return check("transcript", "speech does not say the text", func(s Sound, f *finding) {
		if tool == nil {
			f.prefix, f.cause = "speech was not transcribed", ErrNoTranscriber
			f.fail("there is no tool that hears")
			return
		}
		want := spoken(text)
		if len(want) == 0 {
			f.fail("the text %q has nothing to say", clip(text, 40))
			return
		}
		heard, err := tool.Transcribe(ctx, s.WAV())
		if err != nil {
			f.prefix, f.cause = "speech was not transcribed", err
			f.fail("the tool failed")
			return
		}
		likeness := Likeness(text, heard)
		m := Metric{Name: "transcript", Value: likeness, Bound: f.bounds.Transcript, Direction: ">=", Note: "likeness of texts, 1 is equal"}
		f.metrics = append(f.metrics, m)
		if !m.OK() {
			f.fail("heard %q, want %q, likeness %s, at least %s", clip(heard, 80), clip(text, 80), number(likeness), number(m.Bound))
		}
	})
}

const shortText = 15 // characters

// Likeness is 1 minus the edit distance of two texts over the length of the first, letters, digits and hanzi alone and in
// lower case; at least 0. The best part of heard counts where the text has at most 15 characters. A text without any of these
// characters gives NaN.
func Likeness(text, heard string) float64 {
	want, got := spoken(text), spoken(heard)
	if len(want) == 0 {
		return math.NaN()
	}
	return max(0, 1-float64(editDistance(want, got, len(want) <= shortText))/float64(len(want)))
}

// spoken is what of a text can be heard.
func spoken(text string) []rune {
	var out []rune
	for _, r := range strings.ToLower(text) {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			out = append(out, r)
		}
	}
	return out
}

// editDistance is Levenshtein's; with inside what stands in b before and after the best place costs nothing (Sellers 1980).
func editDistance(a, b []rune, inside bool) int {
	row := make([]int, len(b)+1)
	for j := range row {
		if !inside {
			row[j] = j
		}
	}
	for i, x := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range b {
			cost := diagonal
			if x != y {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	if !inside {
		return row[len(b)]
	}
	best := row[0]
	for _, v := range row {
		best = min(best, v)
	}
	return best
}
