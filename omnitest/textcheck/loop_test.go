package textcheck

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
)

// healthy are texts in which a good model may well answer: verse with a refrain, code, lists, tables, Chinese.
func healthy(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/healthy/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 11)
	texts := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		texts[filepath.Base(f)] = string(b)
	}
	return texts
}

func answerOf(text string) *api.Text { return &api.Text{Choices: []api.Choice{{Text: text}}} }

// Cut at any place, as max_tokens does, no healthy text ends in a loop.
func TestHealthyTextsHaveNoLoop(t *testing.T) {
	for name, text := range healthy(t) {
		worst := 0.0
		r := []rune(text)
		for end := 48; end <= len(r); end += 7 {
			assert.NoError(t, Repetition(string(r[:end]), Bounds{}).Err(), "%s cut at %d", name, end)
			worst = max(worst, FindNearLoop(string(r[:end])).Share)
			require.Zero(t, FindLoop(string(r[:end])).Share, "%s cut at %d", name, end)
		}
		t.Logf("%-20s worst near loop %.3f of %.1f allowed", name, worst, NearLoopShare)
	}
}

// A loop planted behind any of them is found where it begins.
func TestPlantedLoopsAreFound(t *testing.T) {
	for name, text := range healthy(t) {
		head := text
		if r := []rune(text); len(r) > 300 {
			head = string(r[:300])
		}
		n := utf8.RuneCountInString(head)
		for _, piece := range []string{"a", "ha ", "the sea, ", "我不知道。", "And then he said that he did not know what he had said then. ",
			strings.Repeat("A paragraph of some length, which says the same once more in other words. ", 2) + "\n"} {
			p := utf8.RuneCountInString(piece)
			loop := FindLoop(head + strings.Repeat(piece, 200/p+4))
			assert.Equal(t, p, loop.Period, "%s %q", name, piece)
			assert.InDelta(t, n, loop.Start, 8, "%s %q: a few characters before may happen to fit", name, piece)
			assert.ErrorContains(t, NoLoop(Bounds{})(answerOf(head+strings.Repeat(piece, 200/p+4))), "repetition-loop 0.", "%s %q", name, piece)
		}
	}
}

func TestLoopFailureTexts(t *testing.T) {
	err := NoLoop(Bounds{Key: "vllm/tiny"})(answerOf("The sea is blue" + strings.Repeat(", so blue", 10)))
	assert.EqualError(t, err, `repetition-loop 0.819, want <= 0.15 (vllm/tiny): " blue, so" 10.6 times from character 10 of 105 to the end`)

	var steps strings.Builder
	for i := range 30 {
		fmt.Fprintf(&steps, "Step %d: stir the soup slowly and taste it again before you go on. ", i+1)
	}
	err = NoLoop(Bounds{})(answerOf("How to cook: " + steps.String()))
	assert.EqualError(t, err, `near-repetition-loop 0.9543, want <= 0.6 (default): "1: stir the soup slowly and taste it again befor..." 29.7 times with changes from character 18 of 2014 to the end`)

	two := answerOf("fine")
	two.Choices = append(two.Choices, api.Choice{Text: strings.Repeat("ab", 50)})
	assert.EqualError(t, NoLoop(Bounds{})(two), `choice 1: repetition-loop 0.98, want <= 0.15 (default): "ab" 50 times from character 0 of 100 to the end`)

	assert.EqualError(t, NoLoop(Bounds{})(answerOf("")), "repetition-loop not measured: empty answer")
	assert.ErrorIs(t, NoLoop(Bounds{})(answerOf("")), ErrNotMeasured)
	assert.EqualError(t, NoLoop(Bounds{})(nil), "not measured: an answer without choices")
}

// Short or ended repetitions are no loop: laughter, a rule under a title, a refrain that is left again.
func TestWhatIsNoLoop(t *testing.T) {
	for _, text := range []string{"", "a", "hahahahahaha", "Wait......", "no no no no no", "Title\n" + strings.Repeat("=", 20) + "\n",
		strings.Repeat("ab", 100) + " and then he went home, which took him the better part of the evening."} {
		assert.Zero(t, FindLoop(text).Share, text)
	}
	assert.Equal(t, "no loop", FindLoop("abc").String())
}

// What is said of a loop holds for the text, whatever the text is.
func TestLoopProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.StringOfN(rapid.RuneFrom([]rune("ab 12好🍎")), 1, 40, -1)
		text := piece.Draw(t, "head") + strings.Repeat(piece.Draw(t, "piece"), rapid.IntRange(1, 60).Draw(t, "times")) + piece.Draw(t, "tail")
		r := []rune(text)
		l := FindLoop(text)
		for i := l.Start; l.Period > 0 && i+l.Period < len(r); i++ {
			if r[i] != r[i+l.Period] {
				t.Fatalf("%v of %q: character %d is not repeated", l, text, i)
			}
		}
		if l.Share < 0 || l.Share > 1 || l.Length != len(r) || l.Period > 0 && string(r[l.Start:l.Start+l.Period]) != l.Piece {
			t.Fatalf("%+v", l)
		}
		if n := FindNearLoop(text); n.Share < 0 || n.Share > 1 || n.Start < 0 || n.Start > len(r) || l.Share > NearLoopShare+.1 && len(r) > 100 && n.Share == 0 {
			t.Fatalf("%+v for %+v", n, l)
		}
	})
}

// A very long text is judged by its end.
func TestVeryLongText(t *testing.T) {
	l := FindLoop(strings.Repeat("x", 1<<20) + strings.Repeat("好🍎", loopMost/2))
	assert.Equal(t, Loop{Length: loopMost, Period: 2, Times: loopMost / 2, Share: float64(loopMost-2) / loopMost, Piece: "好🍎"}, l)
	assert.Equal(t, loopMost, FindNearLoop(strings.Repeat("x", 1<<20)).Length)
}

func BenchmarkRepetition(b *testing.B) {
	text := strings.Repeat("The tide came in and the tide went out. ", 10) + strings.Repeat("0123456789 abcdefgh", 180)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Repetition(text, Bounds{})
	}
}
