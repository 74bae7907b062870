package report

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Window is one handoff window of a run: what was concluded from it and what became of each request.
type Window struct {
	Name      string             `json:"name"` // the test's or the row's
	Opened    time.Time          `json:"opened"`
	Seconds   float64            `json:"seconds"`
	Dialect   string             `json:"dialect"`    // "nixl"
	BlockSize int                `json:"block_size"` // tokens
	Verdicts  []Verdict          `json:"verdicts"`   // named by their claims; the worst is the window's
	Numbers   map[string]float64 `json:"numbers,omitempty"`
	Requests  []handoff.Line     `json:"requests"`
	Evidence  string             `json:"evidence,omitempty"` // path of the saved evidence, relative to the document; "": not kept
}

// HandoffWindow takes a window from its evidence. Without verdicts it is judged by handoff.Proven.
func HandoffWindow(name string, e *handoff.Evidence, verdicts ...handoff.Verdict) Window {
	if len(verdicts) == 0 {
		verdicts = []handoff.Verdict{handoff.Proven(e)}
	}
	w := Window{Name: name, Opened: e.Opened, Seconds: e.Closed.Sub(e.Opened).Seconds(), Dialect: e.Dialect, BlockSize: e.BlockSize,
		Numbers: map[string]float64{}, Requests: e.Lines()}
	for _, v := range verdicts {
		told := Verdict{Name: v.Claim, Verdict: v.State.String()}
		for _, r := range v.Reasons {
			told.Reasons = append(told.Reasons, r.Text)
		}
		if len(told.Reasons) == 0 {
			told.Reasons = []string{"nothing was judged"}
		}
		w.Verdicts = append(w.Verdicts, told)
		for k, n := range v.Numbers {
			w.Numbers[k] = n
		}
	}
	return w
}

// verdict is the worst of a window: refuted outranks doubt, doubt outranks proof. Without any nothing is proven.
func (w Window) verdict() string {
	has := func(word string) bool {
		return slices.ContainsFunc(w.Verdicts, func(v Verdict) bool { return v.Verdict == word })
	}
	switch {
	case has("refuted"):
		return "refuted"
	case has("inconclusive") || !has("proven"):
		return "inconclusive"
	}
	return "proven"
}

func (w Window) check() error {
	if len(w.Verdicts) == 0 {
		return errors.New("no verdict")
	}
	for _, v := range w.Verdicts {
		if !slices.Contains([]string{"proven", "refuted", "inconclusive"}, v.Verdict) {
			return fmt.Errorf("verdict %q, want proven, refuted or inconclusive", v.Verdict)
		}
	}
	return nil
}

// handoffTable is the section of the windows: a row each, and under the table why those that are not proven are not.
func handoffTable(b *strings.Builder, r Result) {
	fmt.Fprintf(b, "## handoff: %s\n\n", clean(r.Heading()))
	rows := [][]string{{"window", "verdict", "requests", "prompt tokens", "from prefill", "computed by decode", "bytes"}}
	proven := 0
	for _, w := range r.Handoff {
		number := func(name string) string {
			if n, ok := w.Numbers[name]; ok {
				return strconv.FormatFloat(n, 'f', -1, 64)
			}
			return metrics.NotMeasured
		}
		if w.verdict() == "proven" {
			proven++
		}
		rows = append(rows, []string{clean(w.Name), w.verdict(), strconv.Itoa(len(w.Requests)), number("decode.prompt_tokens"), number("decode.external_tokens"),
			number("decode.computed_tokens"), number("decode.bytes")})
	}
	markdown(b, rows, 2)
	fmt.Fprintf(b, "\n- proven in %d of %s\n", proven, plural(len(r.Handoff), "window"))
	for _, w := range r.Handoff {
		for _, v := range w.Verdicts {
			if v.Verdict != "proven" {
				fmt.Fprintf(b, "- %s: %s: %s: %s\n", clean(w.Name), clean(v.Name), clean(v.Verdict), clean(strings.Join(v.Reasons, "; ")))
			}
		}
	}
}

// markdown writes a table, the first row as its head; the first `left` columns are words and align left.
func markdown(b *strings.Builder, rows [][]string, left int) {
	for i, row := range rows {
		cells, rule := make([]string, len(row)), make([]string, len(row))
		for j, cell := range row {
			width := 3
			for _, other := range rows {
				width = max(width, len([]rune(other[j])))
			}
			pad := strings.Repeat(" ", width-len([]rune(cell)))
			cells[j], rule[j] = pad+cell, strings.Repeat("-", width-1)+":"
			if j < left {
				cells[j], rule[j] = cell+pad, strings.Repeat("-", width)
			}
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(b, "| %s |\n", strings.Join(rule, " | "))
		}
	}
}
