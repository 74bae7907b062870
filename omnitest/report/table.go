package report

import (
	"encoding/csv"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/metrics"
)

// column is one column of table and CSV. The measured ones carry the titles of the users' own record.
type column struct {
	title string
	value func(Row) metrics.Value // a figure; or
	text  func(Row) string        // part of the plan; "" where the row has none
	rare  bool                    // shown in the table only if some row has it
}

const gb = 1e9 // bytes; the table says so, as engines log GiB

var columns = []column{
	{title: "prompt tokens", text: func(r Row) string { return count(r.PromptTokens) }, rare: true},
	{title: "input", text: func(r Row) string { return r.InputSize }, rare: true},
	{title: "output", text: func(r Row) string { return r.OutputSize }, rare: true},
	{title: "steps", text: func(r Row) string { return count(r.Steps) }, rare: true},
	{title: "batch", text: func(r Row) string { return count(r.Batch) }, rare: true},
	{title: "rate (req/s)", text: func(r Row) string { return decimal(r.Load.Rate) }, rare: true},
	{title: "concurrency", text: func(r Row) string { return count(r.Concurrency) }, rare: true},
	{title: "total requests", text: func(r Row) string {
		if r.Mode == Offline {
			return ""
		}
		return strconv.Itoa(r.Requests)
	}, rare: true},
	{title: "mean TTFT (s)", value: func(r Row) metrics.Value { return r.Summary.TTFT.Mean.Per(1e3) }},
	{title: "mean TPOT (s)", value: func(r Row) metrics.Value { return r.Summary.TPOT.Mean.Per(1e3) }},
	{title: "req/s", value: func(r Row) metrics.Value { return r.Summary.RequestRate }},
	{title: "tokens/s", value: func(r Row) metrics.Value { return r.Summary.OutputTokenRate }},
	{title: "GPU memory (GB)", value: func(r Row) metrics.Value { return r.GPUMemory.Per(gb) }},
	{title: "memory RSS (GB)", value: func(r Row) metrics.Value { return r.memoryRSS().Per(gb) }},
	{title: "mean E2EL (s)", value: func(r Row) metrics.Value { return r.Summary.E2EL.Mean.Per(1e3) }},
	{title: "images/s", value: func(r Row) metrics.Value { return r.Summary.ImageRate }, rare: true},
	{title: "goodput (req/s)", value: goodput, rare: true},
	{title: "client", text: func(r Row) string { return r.Client.Verdict }, rare: true},
}

func goodput(r Row) metrics.Value {
	if r.Summary.Goodput == nil {
		return metrics.Absent("no objectives")
	}
	return r.Summary.Goodput.Rate
}

// Table is the result as Markdown: one table per mode, each under a heading that names the target and says where the
// figures are simulated. Reasons for what was not measured, failures and verdicts follow below their table. The
// handoff windows come last.
func Table(r Result) string {
	var b strings.Builder
	for _, mode := range []Mode{Offline, Online} {
		var rows []Row
		for _, row := range r.Rows {
			if row.Mode == mode {
				rows = append(rows, row)
			}
		}
		if len(rows) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "## %s: %s\n\n", mode, clean(r.Heading()))
		grid(&b, rows)
		fmt.Fprintf(&b, "\nDefinitions: profile %s. Rates are over the whole duration, tokens/s counts output tokens, 1 GB = 10^9 bytes.\n", clean(rows[0].Summary.Profile))
		if notes := notes(rows); len(notes) > 0 {
			b.WriteByte('\n')
			for _, n := range notes {
				fmt.Fprintf(&b, "- %s\n", clean(n))
			}
		}
		theoryGrid(&b, rows)
	}
	if b.Len() == 0 && len(r.Handoff) == 0 {
		fmt.Fprintf(&b, "## %s\n\nNo rows: nothing was measured.\n", clean(r.Heading()))
	}
	if len(r.Handoff) > 0 {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		handoffTable(&b, r)
	}
	return b.String()
}

// Heading is the target, with the word simulated where it applies. It stands over every view.
func (r Result) Heading() string {
	if r.Simulated && !strings.Contains(strings.ToLower(r.Target), "simulated") {
		return r.Target + " (simulated)"
	}
	return r.Target
}

func grid(b *strings.Builder, rows []Row) {
	lines := [][]string{nil, nil}
	for range rows {
		lines = append(lines, nil)
	}
	for _, c := range columns {
		if c.rare && !slices.ContainsFunc(rows, c.has) {
			continue
		}
		cells := []string{c.title, ""}
		for _, row := range rows {
			cells = append(cells, clean(c.cell(row)))
		}
		width := 0
		for _, cell := range cells {
			width = max(width, len([]rune(cell)))
		}
		for i, cell := range cells {
			if i == 1 {
				cell = strings.Repeat("-", width-1) + ":" // figures align right
			}
			lines[i] = append(lines[i], strings.Repeat(" ", width-len([]rune(cell)))+cell)
		}
	}
	for _, cells := range lines {
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
}

func (c column) has(r Row) bool {
	if c.text != nil {
		return c.text(r) != ""
	}
	return c.value(r).OK()
}

func (c column) cell(r Row) string {
	if c.text != nil {
		return c.text(r)
	}
	v, ok := c.value(r).Get()
	if !ok {
		return metrics.NotMeasured
	}
	return figure(v)
}

// notes say why cells are empty, what failed and what was concluded.
func notes(rows []Row) []string {
	var all []string
	for _, c := range columns {
		if c.value == nil || c.rare && !slices.ContainsFunc(rows, c.has) {
			continue
		}
		why := map[string]int{}
		var order []string
		for _, row := range rows {
			if v := c.value(row); !v.OK() && v.Reason() != "" {
				if why[v.Reason()] == 0 {
					order = append(order, v.Reason())
				}
				why[v.Reason()]++
			}
		}
		for _, reason := range order {
			all = append(all, fmt.Sprintf("%s not measured in %s: %s", c.title, plural(why[reason], "row"), reason))
		}
	}
	proven, asked := map[string]int{}, map[string]int{}
	var order []string
	for _, row := range rows {
		if row.invalid() {
			all = append(all, fmt.Sprintf("%s: %s, its figures say more about the client than about the server: %s", row.Name, metrics.ClientInvalid, strings.Join(row.Client.Reasons, "; ")))
		}
		if s := row.Summary; s.Failed > 0 {
			all = append(all, fmt.Sprintf("%s: %d of %s failed and entered no figure: %s", row.Name, s.Failed, plural(s.Requests, "request"), strings.Join(s.Failures, "; ")))
		}
		for _, e := range row.Errors {
			all = append(all, fmt.Sprintf("%s: %s", row.Name, e))
		}
		if ended := row.Hardware.Total.Ended; ended != "" {
			all = append(all, fmt.Sprintf("%s: memory RSS is without what died: %s", row.Name, ended))
		}
		if s := row.Summary; row.Load.Arrivals != "" {
			// The latencies above begin when a request was sent. Under a cap its user has waited before that.
			wait, queued := s.ClientQueue.Mean.Get()
			e2el, ok := s.E2EL.Mean.Get()
			if due, told := s.E2ELFromSchedule.Mean.Get(); queued && ok && told && wait > 0.01*e2el {
				all = append(all, fmt.Sprintf("%s: a request waited %s s (mean) for a free slot before it was sent: the schedule was not kept, and from its due time the mean E2EL is %s s",
					row.Name, figure(wait/1e3), figure(due/1e3)))
			}
		}
		for _, v := range row.Verdicts {
			asked[v.Name]++
			if v.Verdict != "proven" {
				all = append(all, fmt.Sprintf("%s: %s %s: %s", row.Name, v.Name, v.Verdict, strings.Join(v.Reasons, "; ")))
				continue
			}
			if proven[v.Name] == 0 {
				order = append(order, v.Name)
			}
			proven[v.Name]++
		}
	}
	for _, name := range order {
		of := plural(asked[name], "row")
		if asked[name] < len(rows) {
			of += fmt.Sprintf(", not asked of %d", len(rows)-asked[name]) // text does not go to the DiT
		}
		all = append(all, fmt.Sprintf("%s proven in %d of %s", name, proven[name], of))
	}
	return all
}

// CSV is the result with one line per row and every column, for spreadsheets and data frames. Figures have full
// precision; a cell is empty where nothing was measured. Line breaks in foreign text become spaces; its other signs stay as they
// are, in quotes where CSV needs them.
func CSV(r Result) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	head := []string{"target", "simulated", "profile", "mode", "name", "requests", "failed"}
	for _, c := range columns {
		head = append(head, c.title)
	}
	_ = w.Write(head) // a strings.Builder does not fail
	for _, row := range r.Rows {
		cells := []string{r.Target, strconv.FormatBool(r.Simulated), row.Summary.Profile, string(row.Mode), row.Name,
			strconv.Itoa(row.Requests), strconv.Itoa(row.Summary.Failed)}
		for _, c := range columns {
			cell := ""
			if c.text != nil {
				cell = c.text(row)
			} else if v, ok := c.value(row).Get(); ok {
				cell = strconv.FormatFloat(v, 'g', -1, 64)
			}
			cells = append(cells, cell)
		}
		for i := range cells {
			cells[i] = strings.Join(strings.Fields(cells[i]), " ")
		}
		_ = w.Write(cells)
	}
	w.Flush()
	return b.String()
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func decimal(v float64) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// figure has four significant digits and no exponent: 0.01907, 19.71, 1593.
func figure(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 3 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', max(0, min(digits, 12)), 64)
}

// escaped keeps the signs of foreign text from being read as Markdown: a cell's end, or the tag of a page that renders the table.
var escaped = strings.NewReplacer(`\`, `\\`, "|", `\|`, "<", "&lt;")

// clean makes one short line of foreign text (an engine's HTML error page) that neither breaks a table nor is HTML.
func clean(s string) string { return escaped.Replace(plain(s)) }
