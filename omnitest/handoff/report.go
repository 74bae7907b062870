package handoff

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	reportWidth   = 120 // characters: a terminal beside an editor
	reportAll     = 16  // so many requests are all shown
	reportWorst   = 12  // of more than that, so many: the worst
	reportReasons = 10
)

// Report is the window for a person: a line per request (its ticket, the bytes, who computed which tokens, when its legs ran,
// what became of its answer), a line of the counted sums, and then the verdict of Proven with its reasons. It is at most 120
// characters wide. Of more than 16 requests it shows the 12 worst.
func (e *Evidence) Report() string {
	v := Proven(e)
	lines := e.lines(v)
	var b strings.Builder
	e.reportHead(&b, v, lines)
	if len(lines) > 0 {
		shown := lines
		if len(lines) > reportAll {
			shown = slices.Clone(lines)
			slices.SortStableFunc(shown, func(a, b Line) int { return badness(b) - badness(a) })
			shown = shown[:reportWorst]
		}
		e.reportTable(&b, shown, lines)
	}
	reportVerdict(&b, v)
	return b.String()
}

func (e *Evidence) reportHead(b *strings.Builder, v Verdict, lines []Line) {
	accused := 0
	for _, l := range lines {
		if l.State == StateRefuted {
			accused++
		}
	}
	fmt.Fprintf(b, "handoff window %s: %d request%s", v.State, len(lines), plural(float64(len(lines))))
	if accused > 0 && len(lines) > 1 {
		fmt.Fprintf(b, " (%d refuted by name)", accused)
	}
	fmt.Fprintf(b, ", %s, block %d, opened %s for %.2f s\n", printable(e.d().Name), e.BlockSize, e.Opened.Format("15:04:05.000"), e.Closed.Sub(e.Opened).Seconds())
}

// badness orders lines for a reader who sees only the first: accused ones, then those without a right answer, then the rest.
func badness(l Line) int {
	n := 0
	if l.Answer != "as wanted" {
		n = 1
	}
	if l.Carried != "" && l.Carried != "same" {
		n += 2
	}
	if l.State == StateRefuted {
		n += 4
	}
	return n
}

// column is one column of the table. Texts are cut where the table would get too wide, figures never.
type column struct {
	over, title string
	text        bool
	cell        func(Line) string
	sum         string
}

func (e *Evidence) reportTable(b *strings.Builder, shown, all []Line) {
	columns := e.reportColumns(all)
	rows := make([][]string, 0, len(shown)+3)
	over, titles, sums := []string{}, []string{}, []string{}
	for _, x := range columns {
		over, titles, sums = append(over, x.over), append(titles, x.title), append(sums, x.sum)
	}
	rows = append(rows, over, titles)
	for _, l := range shown {
		cells := make([]string, len(columns))
		for i, x := range columns {
			cells[i] = x.cell(l)
		}
		rows = append(rows, cells)
	}
	rows = append(rows, sums)

	widths := columnWidths(columns, rows)
	for i, row := range rows {
		if i == len(rows)-1 && len(all) > len(shown) {
			fmt.Fprintf(b, "  ... and %s\n", others(all, shown))
		}
		line := "  "
		for j, cell := range row {
			cell = cutMiddle(cell, widths[j])
			pad := strings.Repeat(" ", widths[j]-len([]rune(cell)))
			if columns[j].text {
				line += cell + pad
			} else {
				line += pad + cell
			}
			if j < len(row)-1 {
				line += "  "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	reportLegend(b, rows)
}

func (e *Evidence) reportColumns(all []Line) []column {
	c := newCase(e)
	computed, known := c.computed()
	sum := func(v float64, ok bool) string {
		if !ok {
			return "-"
		}
		return fmt.Sprintf("%.0f", v)
	}
	local := func(s *Stage, x Series) string { return sum(s.get(x)) }
	moved, counted := e.Decode.get(c.d.Bytes)
	bytes := "-"
	if counted {
		bytes = bytesText(moved)
	}
	columns := []column{
		{"", "request", true, func(l Line) string { return printable(l.Request) }, "as counted"},
		{"", "answer", true, func(l Line) string { return l.Answer }, ""},
		{"prompt", "tokens", false, func(l Line) string { return figure(l.PromptTokens) }, local(&e.Decode, c.d.PromptTokens)},
		{"prefill", "computed", false, func(l Line) string { return figure(l.PrefillComputed) }, local(&e.Prefill, c.d.LocalCompute)},
		{"decode", "had", false, func(l Line) string { return figure(l.DecodeHad) }, local(&e.Decode, c.d.LocalHit)},
		{"", "took", false, func(l Line) string { return figure(l.DecodeTook) }, local(&e.Decode, c.d.External)},
		{"", "self", false, func(l Line) string { return figure(l.DecodeComputed) }, sum(computed, known)},
		{"", "ticket", true, ticketText, ""},
		{"", "blocks", false, func(l Line) string { return figure(l.Blocks) }, ""},
		{"", "bytes", false, shareText, bytes},
	}
	for _, stage := range []struct {
		name string
		leg  func(Line) *Leg
	}{{"prefill", func(l Line) *Leg { return l.Prefill }}, {"decode", func(l Line) *Leg { return l.Decode }}, {"dit", func(l Line) *Leg { return l.DiT }}} {
		if slices.ContainsFunc(all, func(l Line) bool { return stage.leg(l) != nil }) {
			columns = append(columns, column{stage.name, "ms", false, func(l Line) string { return legText(stage.leg(l)) }, ""})
		}
	}
	return columns
}

func columnWidths(columns []column, rows [][]string) []int {
	widths, total := make([]int, len(columns)), 0
	for j := range columns {
		for _, row := range rows {
			widths[j] = max(widths[j], len([]rune(row[j])))
		}
		total += widths[j] + 2
	}
	for total > reportWidth { // take from the widest text
		widest := -1
		for j, x := range columns {
			if x.text && widths[j] > 6 && (widest < 0 || widths[j] > widths[widest]) {
				widest = j
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	return widths
}

// reportLegend explains the signs that the table uses.
func reportLegend(b *strings.Builder, rows [][]string) {
	has := func(sign func(string) bool) bool {
		return slices.ContainsFunc(rows[2:], func(row []string) bool { return slices.ContainsFunc(row, sign) })
	}
	var signs []string
	if has(func(s string) bool { return strings.HasPrefix(s, "~") }) {
		signs = append(signs, "~ a share of the counted sum, by blocks")
	}
	if has(func(s string) bool { return s == "-" }) {
		signs = append(signs, "- not told, or only as a sum")
	}
	if len(signs) > 0 {
		b.WriteString("  (" + strings.Join(signs, "; ") + ")\n")
	}
}

// others sums up the lines that are not shown: "212 more: 200 as wanted, 12 not compared".
func others(all, shown []Line) string {
	counts := map[string]int{}
	for _, l := range all {
		counts[l.Answer]++
	}
	for _, l := range shown {
		counts[l.Answer]--
	}
	var parts []string
	for _, l := range all {
		if n := counts[l.Answer]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, l.Answer))
			delete(counts, l.Answer)
		}
	}
	return fmt.Sprintf("%d more: %s", len(all)-len(shown), strings.Join(parts, ", "))
}

// reportVerdict prints the verdict, each kind of reason once, as Verdict.String tells them.
func reportVerdict(b *strings.Builder, v Verdict) {
	wrap(b, "", fmt.Sprintf("%s: the claim that %s", v.State, v.Claim))
	reasons := v.grouped()
	for i, r := range reasons {
		if i == reportReasons {
			fmt.Fprintf(b, "  and %d kinds of reasons more\n", len(reasons)-i)
			break
		}
		mark := map[State]string{StateRefuted: "  against: ", StateInconclusive: "  in doubt: ", StateProven: "  "}[r.State]
		wrap(b, mark, r.Text)
	}
	for _, note := range v.Notes {
		wrap(b, "  note: ", note)
	}
	if v.Evidence != "" {
		b.WriteString("  evidence " + v.Evidence + "\n") // never broken: a path is copied
	}
}

// wrap writes text in lines of reportWidth; what follows the first is indented as far as the first one's mark.
func wrap(b *strings.Builder, mark, text string) {
	line, start := mark, true
	for word := range strings.FieldsSeq(printable(text)) {
		for r := []rune(word); ; {
			room := reportWidth - len([]rune(line)) - 1
			if start {
				room++
			}
			if len(r) <= room {
				word = string(r)
				break
			}
			if !start {
				b.WriteString(line + "\n")
				line, start = strings.Repeat(" ", len(mark)), true
				continue
			}
			b.WriteString(line + string(r[:room]) + "\n") // one word that is longer than a line
			r, line = r[room:], strings.Repeat(" ", len(mark))
		}
		if !start {
			line += " "
		}
		line, start = line+word, false
	}
	b.WriteString(line + "\n")
}

func figure(n *int) string {
	if n == nil {
		return "-"
	}
	return strconv.Itoa(*n)
}

func shareText(l Line) string {
	switch {
	case l.Bytes == nil:
		return "-"
	case l.Share:
		return "~" + bytesText(*l.Bytes)
	}
	return bytesText(*l.Bytes)
}

// ticketText is the end of the ticket's id, which is random where its beginning repeats the request's, and how it was carried.
func ticketText(l Line) string {
	id := printable(l.Ticket)
	if i := strings.LastIndexByte(id, '-'); i >= 0 && len(id)-i > 4 {
		id = id[i+1:]
	}
	switch {
	case id == "" && l.Carried == "":
		return "-"
	case l.Carried == "same" || l.Carried == "":
		return id
	}
	return strings.TrimSpace(id + " " + printable(l.Carried))
}

func legText(l *Leg) string {
	switch {
	case l == nil:
		return "-"
	case l.EndMS == 0:
		return fmt.Sprintf("%.0f-", l.StartMS)
	}
	return fmt.Sprintf("%.0f-%.0f", l.StartMS, l.EndMS)
}

// cutMiddle keeps both ends of a text: ids often differ in the last characters only.
func cutMiddle(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	head := (most - 2) / 2
	return string(r[:head]) + ".." + string(r[len(r)-(most-2-head):])
}

// printable keeps what an engine or a client wrote from breaking the lines of a report.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
