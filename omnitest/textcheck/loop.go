package textcheck

import (
	"fmt"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/api"
)

// Loop is the repetition in which a text ends. Places and lengths are in characters. Of a text of more than 65,536 only the last
// so many are looked at and counted.
type Loop struct {
	Start  int     `json:"start"`  // where the first of the repeated pieces begins
	Length int     `json:"length"` // of the text
	Period int     `json:"period"` // 0: no loop
	Times  float64 `json:"times"`  // how often the piece is there, whole and in part
	Share  float64 `json:"share"`  // of the text that only repeats: everything behind the first piece
	Piece  string  `json:"piece"`  // what is repeated
	Near   bool    `json:"near"`   // repeated with changes
}

// String gives `"ab" 40 times from character 11 of 91 to the end`.
func (l Loop) String() string {
	if l.Period == 0 {
		return "no loop"
	}
	near := ""
	if l.Near {
		near = " with changes"
	}
	return fmt.Sprintf("%s %.3g times%s from character %d of %d to the end", Quote(l.Piece), l.Times, near, l.Start, l.Length)
}

// LoopShare and NearLoopShare are how much of an answer may only repeat. Measured on 12,017 windows of 1,600 characters from the
// sources of Go 1.26 (code, tables, prose): an exact loop above 0.15 in 11 of them, all literal data such as "\x00\x00", a near
// one above 0.6 in 28 (0.2 %), tables and generated code. Of the texts under testdata/healthy, cut anywhere as max_tokens would,
// none has an exact loop, and the worst near loop is 0.34 (the head of a table). Real vLLM with random weights does loop: 11 of 58
// recorded answers, shares 0.45 to 0.98 (TestRecordedAnswers).
const (
	LoopShare     = 0.15
	NearLoopShare = 0.6
)

const (
	loopPeriod = 256 // the longest piece that is looked for: a paragraph
	loopTimes  = 3   // a piece that is there twice is a refrain
	loopLeast  = 24  // characters that only repeat; below that "hahahaha" and "......" are style

	loopMost = 1 << 16 // characters that are looked at, from the end: bounds the time and, with 100 bytes each, the memory

	nearRun   = 8    // characters in a row that must have been there before to count as repeated
	nearReach = 512  // how far back
	nearShare = 0.95 // of the characters of the end that are repeated, to call it a near loop
)

// ending gives the characters of a text, of a very long one the last.
func ending(text string) []rune {
	if over := len(text) - utf8.UTFMax*loopMost; over > 0 {
		text = text[over:]
	}
	r := []rune(text)
	return r[max(0, len(r)-loopMost):]
}

// FindLoop finds the exact loop in which a text ends, that which repeats most of it. The last piece may be cut: so do answers
// that reach max_tokens.
func FindLoop(text string) Loop {
	r := ending(text)
	n := len(r)
	best := Loop{Length: n}
	for p := 1; p <= min(loopPeriod, n/loopTimes); p++ {
		s := n - p
		for s > 0 && r[s-1] == r[s-1+p] {
			s--
		}
		repeats := n - s - p
		if repeats < max(loopLeast, (loopTimes-1)*p) || float64(repeats) <= best.Share*float64(n) {
			continue
		}
		best.Start, best.Period, best.Times = s, p, float64(n-s)/float64(p)
		best.Share, best.Piece = float64(repeats)/float64(n), string(r[s:s+p])
	}
	return best
}

// FindNearLoop finds the end of a text that is put together from what stood shortly before: a loop that counts up, changes a
// word or loses one. A character is repeated if it ends a run of 8 that is in the 512 characters before, or goes on as that run did
// behind a change of less than 8; from Start on 95 % are.
func FindNearLoop(text string) Loop {
	r := ending(text)
	n := len(r)
	repeated := make([]int, n) // distance to the same character before; 0: not repeated
	last := map[string]int{}   // where a run ended last
	for end := nearRun; end <= n; end++ {
		run := string(r[end-nearRun : end])
		if at, seen := last[run]; seen && end-at <= nearReach {
			repeated[end-1] = end - at
		} else if d, i := latest(repeated[end-nearRun:end-1]), end-1; d > 0 && r[i] == r[i-d] {
			repeated[i] = -d // goes on behind a change
		}
		last[run] = end
	}
	for i, d := range repeated {
		repeated[i] = max(d, -d)
	}
	best, count := Loop{Length: n, Near: true}, 0
	for s := n - 1; s >= 0; s-- {
		if repeated[s] > 0 {
			count++
			if at := n - s; at >= loopLeast && float64(count) >= nearShare*float64(at) {
				best.Start, best.Share = s, float64(at)/float64(n)
			}
		}
	}
	if best.Share == 0 {
		return Loop{Length: n, Near: true}
	}
	distances, most := map[int]int{}, 0
	for _, d := range repeated[best.Start:] {
		if d == 0 {
			continue
		}
		distances[d]++
		if distances[d] > most || distances[d] == most && d < best.Period {
			most, best.Period = distances[d], d
		}
	}
	best.Times = 1 + float64(n-best.Start)/float64(best.Period)
	best.Start = max(0, best.Start-nearRun+1-best.Period) // where the first piece stood
	best.Piece = string(r[best.Start:min(n, best.Start+best.Period)])
	return best
}

// latest is the distance of the last whole run among these characters; 0: none.
func latest(repeated []int) int {
	for i := len(repeated) - 1; i >= 0; i-- {
		if repeated[i] > 0 {
			return repeated[i]
		}
	}
	return 0
}

// Repetition judges one text by the larger excess of its exact and its near loop.
func Repetition(text string, b Bounds) Result {
	exact, near := FindLoop(text), FindNearLoop(text)
	r := b.ask("repetition-loop", "<=", or(b.Loop, LoopShare))
	r.Value, r.Note = exact.Share, exact.String()
	if utf8.RuneCountInString(text) == 0 {
		return r.unmeasured("empty answer")
	}
	if bound := or(b.NearLoop, NearLoopShare); r.OK() && near.Share > bound {
		r.Name, r.Value, r.Bound, r.Note = "near-repetition-loop", near.Share, bound, near.String()
	}
	return r
}

// NoLoop is a check of answers: none ends in a repetition. Not for a prompt that asks for one, nor for a model that repeats its
// prompt if that does.
func NoLoop(b Bounds) func(*api.Text) error {
	return func(t *api.Text) error {
		return eachChoice(t, func(c api.Choice) error { return Repetition(c.Text, b).Err() })
	}
}

// eachChoice gives the first failure among the choices of an answer, with the choice where there are several.
func eachChoice(t *api.Text, check func(api.Choice) error) error {
	if t == nil || len(t.Choices) == 0 {
		return fmt.Errorf("%w: an answer without choices", ErrNotMeasured)
	}
	for i, c := range t.Choices {
		if err := check(c); err != nil {
			if len(t.Choices) > 1 {
				return fmt.Errorf("choice %d: %w", i, err)
			}
			return err
		}
	}
	return nil
}
