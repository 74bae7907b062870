package textcheck

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Needle is a fact hidden in a long text.
type Needle struct {
	Depth float64 // where: 0 the beginning, 1 the end
	Text  string  // the sentence that is hidden
	Want  string  // what an answer that found it contains
}

// Haystack is a long prompt with needles in it.
type Haystack struct {
	Filler   []string // sentences, taken in turn
	Bytes    int      // of the whole prompt without Question, at least
	Needles  []Needle
	Question string // asked at the end; "": none, as for a model that repeats its prompt
}

// Prompt puts the haystack together. A needle stands between two sentences, as near to its depth as they allow.
func (h Haystack) Prompt() string {
	needles := slices.Clone(h.Needles)
	slices.SortStableFunc(needles, func(a, b Needle) int {
		switch {
		case a.Depth < b.Depth:
			return -1
		case a.Depth > b.Depth:
			return 1
		}
		return 0
	})
	total := h.Bytes
	for _, n := range needles {
		total -= len(n.Text) + 1
	}
	var b strings.Builder
	for i, filler := 0, 0; ; i++ {
		for len(needles) > 0 && (float64(filler) >= needles[0].Depth*float64(total) || filler >= total) {
			b.WriteString(needles[0].Text + " ")
			needles = needles[1:]
		}
		if filler >= total || len(h.Filler) == 0 {
			break
		}
		s := h.Filler[i%len(h.Filler)] + " "
		b.WriteString(s)
		filler += len(s)
	}
	for _, n := range needles { // no filler at all
		b.WriteString(n.Text + " ")
	}
	return strings.TrimRight(b.String(), " ") + h.Question
}

// Asked is one needle that was looked for.
type Asked struct {
	Depth float64
	Found bool
}

// Found looks for the needles in an answer, without regard to case and white space.
func (h Haystack) Found(answer string) []Asked {
	all, answer := make([]Asked, len(h.Needles)), folded(answer)
	for i, n := range h.Needles {
		all[i] = Asked{n.Depth, n.Want != "" && strings.Contains(answer, folded(n.Want))}
	}
	return all
}

func folded(s string) string { return strings.Join(strings.Fields(strings.ToLower(s)), " ") }

// RecallRow is how many needles were found at one depth.
type RecallRow struct {
	Depth float64  `json:"depth"`
	Found int      `json:"found"`
	Asked int      `json:"asked"`
	Share Interval `json:"share"` // by Wilson
}

// Recall is the table by depth, shallow first.
type Recall []RecallRow

// NewRecall counts needles by their depths.
func NewRecall(all []Asked) Recall {
	var r Recall
	for _, a := range all {
		i := slices.IndexFunc(r, func(row RecallRow) bool { return row.Depth == a.Depth })
		if i < 0 {
			i = len(r)
			r = append(r, RecallRow{Depth: a.Depth})
		}
		r[i].Asked++
		if a.Found {
			r[i].Found++
		}
	}
	slices.SortFunc(r, func(a, b RecallRow) int { return int(math.Copysign(1, a.Depth-b.Depth)) })
	for i := range r {
		r[i].Share = Wilson(r[i].Found, r[i].Asked)
	}
	return r
}

// String is one line per depth.
func (r Recall) String() string {
	var b strings.Builder
	b.WriteString("depth   found      share (95 %)")
	for _, row := range r {
		fmt.Fprintf(&b, "\n%4.0f %%  %3d of %-3d  %.3f to %.3f", 100*row.Depth, row.Found, row.Asked, row.Share.Low, row.Share.High)
	}
	return b.String()
}

// NeedleMissing is the largest share of needles that may be missing at any depth. A language model of 7 billion parameters finds
// nearly all within its trained length, so 0.1 is a proposal for gates; the reference stack, which repeats its prompt, finds all.
const NeedleMissing = 0.1

// Needles judges the worst depth by the share that is missing there.
func Needles(r Recall, b Bounds) Result {
	x := b.ask("needle-missing", "<=", or(b.NeedleMissing, NeedleMissing))
	if len(r) == 0 {
		return x.unmeasured("no needle was asked for")
	}
	worst := r[0]
	missing := func(row RecallRow) float64 { return 1 - float64(row.Found)/float64(row.Asked) }
	for _, row := range r[1:] {
		if missing(row) > missing(worst) {
			worst = row
		}
	}
	x.Value = missing(worst)
	x.Note = fmt.Sprintf("at depth %.0f %% %d of %d needles were found (95 %%: %.2f to %.2f)", 100*worst.Depth, worst.Found, worst.Asked, worst.Share.Low, worst.Share.High)
	return x
}
