package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/theory"
)

// Theory is what the hardware would allow, beside what was measured.
type Theory struct {
	Source string   `json:"source"`           // "qwen-image on H200, batch 1": model, GPU and what they were asked for
	Absent string   `json:"absent,omitempty"` // why nothing could be predicted
	Notes  []string `json:"notes,omitempty"`  // what had to be assumed
	Bounds []Bound  `json:"bounds"`
}

// Bound is one figure of a Theory.
type Bound struct {
	Figure   string        `json:"figure"` // "TTFT", "decode", "memory"
	Unit     string        `json:"unit"`
	Value    metrics.Value `json:"value"` // predicted
	Measured metrics.Value `json:"measured"`
	Ratio    metrics.Value `json:"ratio,omitzero"` // measured / predicted; the zero Value: of the two
	Off      bool          `json:"off,omitempty"`  // by more than theory.Tolerance
	Reason   string        `json:"reason,omitempty"`
}

// Beside keeps a prediction with the lines that theory.Compare made of it. With noRatio no comparison is drawn, and that is why:
// prediction and measurement are shown, the ratio is absent.
func Beside(source string, p *theory.Prediction, lines []theory.Comparison, noRatio string) *Theory {
	t := &Theory{Source: source, Notes: slices.Clone(p.Assumptions)}
	for _, c := range lines {
		why := strings.TrimPrefix(strings.TrimPrefix(c.Reason, metrics.NotMeasured), ": ") // a Value says that by itself
		b := Bound{Figure: c.Stage, Unit: c.Unit, Value: metrics.Of(c.Predicted), Off: c.Off, Reason: c.Reason}
		if c.Predicted <= 0 {
			b.Value = metrics.Absent(c.Reason)
		}
		per := 1.0
		if c.Unit == "bytes" {
			b.Unit, per = "GB", gb
		}
		b.Value, b.Measured, b.Ratio = b.Value.Per(per), metrics.Absent(why), metrics.Absent(why)
		if c.Measured != nil {
			b.Measured = metrics.Of(*c.Measured).Per(per)
		}
		if c.Ratio != nil {
			b.Ratio = metrics.Of(*c.Ratio)
		}
		if noRatio != "" {
			b.Ratio, b.Off, b.Reason = metrics.Absent(noRatio), false, noRatio
		}
		t.Bounds = append(t.Bounds, b)
	}
	return t
}

// ratio is measured / predicted.
func (b Bound) ratio() metrics.Value {
	if b.Ratio.OK() || b.Ratio.Reason() != "" {
		return b.Ratio
	}
	if v, ok := b.Value.Get(); ok && v != 0 {
		return b.Measured.Per(v)
	}
	return metrics.Absent("no prediction")
}

// off is the share by which a measurement misses its prediction, "+30 %", where that is more than theory.Tolerance.
func (b Bound) off() string {
	if v, ok := b.ratio().Get(); ok && b.Off {
		return fmt.Sprintf("off by %+.0f %%", 100*(v-1))
	}
	return ""
}

const theoryTitle = "Theory beside measurement"

// theoryTable says of every line why it is off by more than theory.Tolerance, or why there is no ratio.
func theoryTable(rows []Row) table {
	t := table{ID: "theory", Title: theoryTitle, Head: append(words("row", "figure"), append(numbers("predicted", "measured", "measured / predicted"), words("unit", "why", "source")...)...)}
	for _, r := range rows {
		if r.Theory == nil {
			continue
		}
		if why := r.Theory.Absent; why != "" {
			none := cell{Text: "not predicted", Class: "none"}
			t.Rows = append(t.Rows, tableRow{Invalid: r.invalid(), Cells: []cell{word(r.mark()), {}, none, none, none, {}, {Text: plain(why), Class: "word long"}, word(r.Theory.Source)}})
		}
		for _, b := range r.Theory.Bounds {
			ratio := number(b.ratio())
			if !b.ratio().OK() {
				ratio.Text = "none"
			}
			if b.Off {
				ratio.Class = "doubt"
			}
			t.Rows = append(t.Rows, tableRow{Invalid: r.invalid(), Cells: []cell{word(r.mark()), word(b.Figure), number(b.Value), number(b.Measured), ratio, word(b.Unit),
				{Text: plain(join(b.off(), b.Reason)), Class: "word long"}, word(r.Theory.Source)}})
		}
		for _, n := range r.Theory.Notes {
			if n = "assumed: " + n; !slices.Contains(t.Notes, n) {
				t.Notes = append(t.Notes, n)
			}
		}
	}
	return t
}

// theoryGrid is the same as Markdown, under the rows that it belongs to; nothing where no row has a Theory.
func theoryGrid(b *strings.Builder, rows []Row) {
	t := theoryTable(rows)
	if len(t.Rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n### %s\n\n", t.Title)
	line := func(cells []cell) {
		for _, c := range cells {
			fmt.Fprintf(b, "| %s ", clean(c.Text))
		}
		b.WriteString("|\n")
	}
	line(t.Head)
	for _, h := range t.Head {
		if h.Word {
			b.WriteString("| --- ")
		} else {
			b.WriteString("| ---: ")
		}
	}
	b.WriteString("|\n")
	for _, r := range t.Rows {
		line(r.Cells)
	}
	if len(t.Notes) > 0 {
		b.WriteByte('\n')
		for _, n := range t.Notes {
			fmt.Fprintf(b, "- %s\n", clean(n))
		}
	}
}
