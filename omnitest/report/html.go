package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

//go:embed page.css
var pageStyle string

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// HTML is the result as one page: verdicts, tables, charts. The page is complete in itself. It has no script, and a
// content security policy under which a browser asks nobody for anything.
func HTML(r Result) ([]byte, error) {
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, r.page()); err != nil {
		return nil, fmt.Errorf("report: page: %w", err)
	}
	return b.Bytes(), nil
}

type page struct {
	Heading, Created string
	Style            template.CSS
	Tiles            []tile
	Tables           []table
	Groups           []chartGroup
	NoCharts         []string // groups that no row could have a point in, a line each
	Latencies        []table  // long: folded
	Stages           *stagesFigure
	Details          []detail
	Ends             []table
	Facts            [][2]string
	Stack            table
}

type tile struct{ Class, Head, Text string }

type table struct {
	ID, Title, Empty string
	Head             []cell
	Rows             []tableRow
	Notes            []string
}

// Dense tables have so many columns that a window of 1200 px shows them all only in small print.
func (t table) Dense() bool { return len(t.Head) > 12 }

type tableRow struct {
	Invalid bool
	Cells   []cell
}

type cell struct {
	Text, Class string
	Word        bool // of a heading: words below it
}

type chartGroup struct {
	Title  string
	Charts []drawn
}

type drawn struct {
	ID, Title string
	SVG       template.HTML
	Notes     []string
}

type stagesFigure struct {
	Keys  []string
	SVG   []template.HTML
	Notes []string
	Table table
}

type detail struct {
	ID, Name string
	Open     bool
	Charts   []drawn
	Hardware table
}

func (r Result) page() page {
	p := page{Heading: r.Heading(), Created: r.Created.UTC().Format("2 January 2006 15:04 UTC"), Style: template.CSS(pageStyle), Tiles: r.tiles()}
	if r.Created.IsZero() {
		p.Created = "date not recorded"
	}
	for _, mode := range []Mode{Offline, Online} {
		if rows := pick(r, mode, func(Row) bool { return true }); len(rows) > 0 {
			p.Tables = append(p.Tables, recordTable(mode, rows))
			p.Latencies = append(p.Latencies, latencyTable(mode, rows))
		}
	}
	if len(p.Tables) == 0 {
		p.Tables = []table{{Title: "No rows: nothing was measured", Head: []cell{{Text: "row", Word: true}}}}
	}
	groups := []chartGroup{{Title: "Over concurrency"}, {Title: "Over batch size"}, {Title: "Over request rate"}, {Title: "Distributions"}}
	for _, c := range Charts(r) {
		to := 0
		switch {
		case strings.HasSuffix(c.ID, "-batch"):
			to = 1
		case strings.HasSuffix(c.ID, "-rate"):
			to = 2
		case c.CDF:
			to = 3
		}
		if c.rowless {
			if line := groups[to].Title + ": " + c.Missing[0]; !slices.Contains(p.NoCharts, line) {
				p.NoCharts = append(p.NoCharts, line)
			}
			continue
		}
		groups[to].Charts = append(groups[to].Charts, c.drawn())
	}
	p.Groups = slices.DeleteFunc(groups, func(g chartGroup) bool { return len(g.Charts) == 0 })
	p.Stages = stagesOf(r.Rows)
	busiest := -1
	for i, row := range r.Rows {
		if len(row.Timeline) > 0 && (busiest < 0 || row.Requests > r.Rows[busiest].Requests) {
			busiest = i
		}
	}
	for i, row := range r.Rows {
		id := fmt.Sprintf("row-%d", i+1)
		d := detail{ID: id, Name: row.mark(), Hardware: hardwareTable(row)}
		for _, c := range timelines(row, id) {
			d.Charts = append(d.Charts, c.drawn())
		}
		if len(d.Charts) == 0 && len(d.Hardware.Rows) == 0 {
			continue
		}
		d.Open = i == busiest // so that one sees what is inside
		p.Details = append(p.Details, d)
	}
	p.Ends = []table{clientTable(r.Rows), errorTable(r.Rows), windowTable(r.Handoff)}
	if t := theoryTable(r.Rows); len(t.Rows) > 0 {
		p.Ends = append(p.Ends, t)
	}
	p.Facts, p.Stack = r.facts(), r.stackTable()
	return p
}

// mark is the row's name, with what disqualifies it.
func (r Row) mark() string {
	if r.invalid() {
		return r.Name + " ✕ " + metrics.ClientInvalid
	}
	return r.Name
}

// drawn is the chart with what stands below it.
func (c Chart) drawn() drawn {
	d := drawn{ID: c.ID, Title: c.Title, SVG: c.svg(), Notes: slices.Clone(c.Missing)}
	invalid, repeats := false, false
	for _, l := range c.Lines {
		repeats = repeats || len(l.Runs) > 0
		invalid = invalid || slices.ContainsFunc(l.Points, func(p Point) bool { return p.Invalid })
	}
	if repeats {
		d.Notes = append([]string{"The line joins medians; small points are single runs."}, d.Notes...)
	}
	if invalid {
		text := "✕ INVALID-CLIENT: the client was late itself, the figure is not the server's."
		if c.CDF {
			text = "Some of these rows are INVALID-CLIENT: the client was late itself, see the table of the client's own error."
		}
		d.Notes = append([]string{text}, d.Notes...)
	}
	return d
}

// tiles are the verdicts at the head of the page.
func (r Result) tiles() []tile {
	what := tile{"", "real engines", "no stage is simulated"}
	if r.Simulated {
		what = tile{"doubt", "simulated", "Some stage is the reference stack: these figures say something about the tests, nothing about a GPU."}
	}
	return []tile{what, r.clientTile(), r.handoffTile(), r.requestTile()}
}

func (r Result) clientTile() tile {
	of := map[string]int{}
	for _, row := range r.Rows {
		of[row.client()]++
	}
	n := len(r.Rows)
	switch {
	case of[metrics.ClientInvalid] > 0:
		return tile{"bad", metrics.ClientInvalid, fmt.Sprintf("in %d of %s the client was late itself; marked in every table and chart", of[metrics.ClientInvalid], plural(n, "row"))}
	case n > 0 && of[metrics.ClientValid] == n:
		return tile{"good", "client valid", fmt.Sprintf("its own error stayed within the limits in %s", plural(n, "row"))}
	case of[metrics.ClientValid] > 0:
		return tile{"doubt", "client partly measured", fmt.Sprintf("valid in %d of %s, not measured in the others", of[metrics.ClientValid], plural(n, "row"))}
	}
	return tile{"doubt", "client error not measured", "how late the client itself was is not known"}
}

func (r Result) handoffTile() tile {
	of := map[string]int{}
	n := 0
	for _, w := range r.Handoff {
		of[w.verdict()]++
		n++
	}
	noun := "window"
	if n == 0 {
		noun = "row"
		for _, row := range r.Rows {
			for _, v := range row.Verdicts {
				if v.Name == "handoff" {
					of[v.Verdict]++
					n++
				}
			}
		}
	}
	switch {
	case n == 0:
		return tile{"doubt", "handoff not judged", "no window over the engines' counters was kept"}
	case of["refuted"] > 0:
		return tile{"bad", "handoff refuted", fmt.Sprintf("in %d of %s decode did not use the KV cache of prefill", of["refuted"], plural(n, noun))}
	case of["proven"] == n:
		return tile{"good", "handoff proven", "in " + plural(n, noun)}
	}
	return tile{"doubt", "handoff inconclusive", fmt.Sprintf("proven in %d of %s", of["proven"], plural(n, noun))}
}

func (r Result) requestTile() tile {
	total, failed := 0, 0
	for _, row := range r.Rows {
		total, failed = total+row.Summary.Requests, failed+row.Summary.Failed
	}
	switch {
	case total == 0:
		return tile{"doubt", "no requests", "nothing was measured"}
	case failed > 0:
		return tile{"bad", fmt.Sprintf("%d of %s failed", failed, plural(total, "request")), "failed ones entered no figure; see errors"}
	}
	return tile{"good", plural(total, "request"), "all succeeded, in " + plural(len(r.Rows), "row")}
}

// facts are the provenance of the figures.
func (r Result) facts() [][2]string {
	known := func(s string) string {
		if s == "" {
			return "not recorded"
		}
		return s
	}
	p, e := r.Provenance, r.Environment
	revision := known(p.Revision)
	if p.Modified {
		revision += ", with changes"
	}
	facts := [][2]string{
		{"definitions", join("profile "+known(r.Plan.Profile), r.Plan.Source)},
		{"warm-up", plural(r.Plan.Warmup, "request") + " before each row, in no figure"},
		{"measured by", strings.TrimSpace(known(p.Tool) + " " + p.Version)},
		{"revision", revision},
		{"flags", known(strings.Join(p.Flags, " "))},
		{"client machine", join(known(e.CPU), plural(e.CPUs, "CPU"), e.OS+"/"+e.Arch, e.Kernel)},
		{"client runtime", fmt.Sprintf("%s, GOMAXPROCS %d", known(e.Go), e.MaxProcs)},
		{"arrivals", r.arrivals()},
		{"raw events", known(r.EventLog)},
	}
	if r.Plan.LimitS > 0 {
		limit := time.Duration(r.Plan.LimitS * float64(time.Second))
		facts = append(facts, [2]string{"limit of a request", limit.String()})
	}
	return facts
}

// arrivals names the arrival processes of the rows with their seeds.
func (r Result) arrivals() string {
	var all []string
	for _, row := range r.Rows {
		l := row.Load
		text := "closed loop"
		if row.Mode == Offline {
			text = "offline batch"
		}
		if l.Arrivals != "" {
			text = l.Arrivals
			if l.Burstiness != 0 {
				text += fmt.Sprintf(" (burstiness %g)", l.Burstiness)
			}
		}
		if l.Seed != 0 {
			text += fmt.Sprintf(", seed %d", l.Seed)
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	if len(all) == 0 {
		return "not recorded"
	}
	return strings.Join(all, "; ")
}

func (r Result) stackTable() table {
	t := table{Head: words("stage", "engine", "version", "model", "dtype", "kind")}
	for _, role := range stageOrder(r.Stack.Stages) {
		s := r.Stack.Stages[role]
		kind := "real"
		if s.Simulated {
			kind = "simulated"
		}
		row := tableRow{}
		for _, text := range []string{role, s.Engine, s.Version, s.Model, s.DType, kind} {
			row.Cells = append(row.Cells, word(text))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
