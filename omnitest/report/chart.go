package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Chart is one picture of a result, apart from how it is drawn: HTML draws it as SVG, the room plot as PNG and SVG.
type Chart struct {
	ID      string // "throughput-concurrency"; unique in a page
	Title   string
	X, Y    Axis
	CDF     bool // distribution functions: Y is a share
	Lines   []Line
	Missing []string // what is not drawn, and why

	rowless bool // no row of the result could ever have a point here
}

// Axis names a quantity and its unit, "throughput" and "req/s".
type Axis struct{ Name, Unit string }

// Title is the axis' text: "throughput (req/s)".
func (a Axis) Title() string {
	if a.Unit == "" {
		return a.Name
	}
	return a.Name + " (" + a.Unit + ")"
}

// Line is one series of a chart. Where a point has no value the line has a gap.
type Line struct {
	Label  string // "in 512, p99"
	Color  int    // lines of one task share a colour, 0..7
	Dashed bool
	Points []Point // by ascending X; the median where a point was measured more than once
	Runs   []Point // each measurement, where there are repeats
}

// Point is one measurement. Invalid: the client was late itself, the value says more about it than about the server.
type Point struct {
	X       float64
	Y       metrics.Value
	Invalid bool
}

// maxLines is how many lines one chart shows: as many as there are colours that can be told apart.
const maxLines = 8

// what is one quantity of a row that a chart shows.
type what struct {
	label  string // of its lines, beside the task's; "": the only quantity of the chart
	dashed bool
	value  func(Row) metrics.Value
}

var (
	requestRate = []what{{value: func(r Row) metrics.Value { return r.Summary.RequestRate }}}
	tokenRate   = []what{{value: func(r Row) metrics.Value { return r.Summary.OutputTokenRate }}}
)

func latency(dist func(Row) metrics.Dist, per float64) []what {
	return []what{
		{label: "mean", value: func(r Row) metrics.Value { return dist(r).Mean.Per(per) }},
		{label: "p99", dashed: true, value: func(r Row) metrics.Value { return dist(r).P99.Per(per) }},
	}
}

// Charts are the pictures of a result. Those that were asked for (throughput and latency over concurrency, throughput and
// memory over batch size) are always among them; without rows to draw they say so (a page says it once). Others come where there
// is data.
func Charts(r Result) []Chart {
	conc := sweep{rows: pick(r, Online, func(row Row) bool { return row.Concurrency > 0 && row.Load.Rate == 0 }), axis: Axis{Name: "concurrency", Unit: "requests"},
		x: func(row Row) float64 { return float64(row.Concurrency) }, none: "no online row at a concurrency"}
	rate := sweep{rows: pick(r, Online, func(row Row) bool { return row.Load.Rate > 0 }), axis: Axis{Name: "planned rate", Unit: "req/s"},
		x: func(row Row) float64 { return row.Load.Rate }, none: "no row at a request rate"}
	batch := sweep{rows: pick(r, Offline, func(row Row) bool { return row.Batch > 0 }), axis: Axis{Name: "batch", Unit: "requests"},
		x: func(row Row) float64 { return float64(row.Batch) }, none: "no offline row with a batch size"}
	ttft := latency(func(r Row) metrics.Dist { return r.Summary.TTFT }, 1e3)
	tpot := latency(func(r Row) metrics.Dist { return r.Summary.TPOT }, 1)
	e2el := latency(func(r Row) metrics.Dist { return r.Summary.E2EL }, 1e3)

	all := []Chart{
		conc.chart("throughput-concurrency", "Throughput over concurrency", Axis{"throughput", "req/s"}, requestRate),
		conc.chart("tokens-concurrency", "Output tokens over concurrency", Axis{"throughput", "tokens/s"}, tokenRate),
		conc.chart("latency-concurrency", "Time to first token over concurrency", Axis{"TTFT", "s"}, ttft),
		conc.chart("tpot-concurrency", "Time per output token over concurrency", Axis{"TPOT", "ms"}, tpot),
		conc.chart("e2el-concurrency", "End-to-end latency over concurrency", Axis{"E2EL", "s"}, e2el),
		batch.chart("throughput-batch", "Throughput over batch size", Axis{"throughput", "req/s"}, requestRate),
		batch.chart("tokens-batch", "Output tokens over batch size", Axis{"throughput", "tokens/s"}, tokenRate),
		batch.chart("memory-batch", "GPU memory over batch size", Axis{"GPU memory, peak", "GB"}, []what{{value: func(r Row) metrics.Value { return r.GPUMemory.Per(gb) }}}),
		batch.chart("rss-batch", "Host memory over batch size", Axis{"resident memory, peak", "GB"}, []what{{value: func(r Row) metrics.Value { return r.memoryRSS().Per(gb) }}}),
	}
	if len(rate.rows) > 0 {
		all = append(all,
			rate.chart("throughput-rate", "Throughput over request rate", Axis{"throughput", "req/s"}, requestRate),
			rate.chart("latency-rate", "Time to first token over request rate", Axis{"TTFT", "s"}, ttft),
			rate.chart("e2el-rate", "End-to-end latency over request rate", Axis{"E2EL", "s"}, e2el))
	}
	for _, mode := range []Mode{Offline, Online} {
		for _, figure := range []string{"TTFT", "TPOT", "ITL", "E2EL"} {
			if c, drawn := distributions(r, mode, figure); drawn {
				all = append(all, c)
			}
		}
	}
	return all
}

// sweep is a set of rows that differ in one number of their plan.
type sweep struct {
	rows []Row
	axis Axis
	x    func(Row) float64
	none string // what there is not, when rows is empty
}

func pick(r Result, mode Mode, keep func(Row) bool) []Row {
	var rows []Row
	for _, row := range r.Rows {
		if row.Mode == mode && keep(row) {
			rows = append(rows, row)
		}
	}
	return rows
}

func (s sweep) chart(id, title string, y Axis, quantities []what) Chart {
	c := Chart{ID: id, Title: title, X: s.axis, Y: y}
	if len(s.rows) == 0 {
		c.Missing, c.rowless = []string{s.none + ": nothing to draw"}, true
		return c
	}
	tasks := taskLabels(s.rows)
	var lacking absences
	for n, task := range inOrder(tasks) {
		for _, q := range quantities {
			l := Line{Label: join(task, q.label), Color: n % maxLines, Dashed: q.dashed}
			at := map[float64][]Point{}
			drawn := false
			for i, row := range s.rows {
				if tasks[i] != task {
					continue
				}
				v := q.value(row)
				at[s.x(row)] = append(at[s.x(row)], Point{X: s.x(row), Y: v, Invalid: row.invalid()})
				if !v.OK() {
					lacking.add(l.Label, s.x(row), v.Reason())
				}
				drawn = drawn || v.OK()
			}
			l.Points, l.Runs = medians(at)
			if drawn {
				c.Lines = append(c.Lines, l)
			}
		}
	}
	c.Missing = lacking.lines(s.axis.Name)
	c.limit()
	return c
}

func (c *Chart) limit() {
	if len(c.Lines) > maxLines {
		c.Missing = append(c.Missing, fmt.Sprintf("not drawn for lack of room: %s, see the tables", plural(len(c.Lines)-maxLines, "line")))
		c.Lines = c.Lines[:maxLines]
	}
}

// medians makes one point of all that were measured at the same X, and gives the single runs where there are repeats.
func medians(at map[float64][]Point) (points, runs []Point) {
	for _, x := range slices.Sorted(maps.Keys(at)) {
		p := Point{X: x, Y: at[x][0].Y}
		var ys []float64
		for _, run := range at[x] {
			if y, ok := run.Y.Get(); ok {
				ys = append(ys, y)
			}
			p.Invalid = p.Invalid || run.Invalid
		}
		if len(ys) > 0 {
			slices.Sort(ys)
			p.Y = metrics.Of(metrics.Percentile(ys, 50))
		}
		if len(at[x]) > 1 {
			runs = append(runs, at[x]...)
		}
		points = append(points, p)
	}
	return points, runs
}

// taskLabels names each row by what distinguishes it from the others, the swept number apart: "in 512", "1376x768", "text". It
// takes no more words than that needs: labels stand beside their lines.
func taskLabels(rows []Row) []string {
	part := func(format string, v any, there bool) string {
		if !there {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	pictures := slices.ContainsFunc(rows, func(r Row) bool { return r.OutputSize != "" })
	full := make([]string, len(rows))
	parts := make([][]string, len(rows))
	for i, r := range rows {
		size := r.OutputSize
		if size == "" && pictures {
			size = "text"
		}
		parts[i] = []string{size, part("edit %s", r.InputSize, r.InputSize != ""), part("in %d", r.PromptTokens, r.PromptTokens > 0),
			part("out %d", r.OutputTokens, r.OutputTokens > 0), part("%d steps", r.Steps, r.Steps > 0), r.Load.Arrivals,
			part("cap %d", r.Concurrency, r.Load.Rate > 0 && r.Concurrency > 0)}
		full[i] = strings.Join(parts[i], "|")
	}
	labels := make([]string, len(rows))
	for k := 0; k < len(parts[0]) && len(inOrder(labels)) < len(inOrder(full)); k++ {
		more := make([]string, len(rows))
		for i := range rows {
			more[i] = join(labels[i], parts[i][k])
		}
		if len(inOrder(more)) > len(inOrder(labels)) {
			labels = more
		}
	}
	return labels
}

// fewest values that make a distribution function: of fewer the table says all there is.
const fewest = 8

// distributions is the chart of one latency's distribution functions, a line per row of a mode.
func distributions(r Result, mode Mode, figure string) (Chart, bool) {
	unit, per := "s", 1e3
	if figure == "TPOT" || figure == "ITL" {
		unit, per = "ms", 1
	}
	c := Chart{ID: strings.ToLower(figure) + "-cdf-" + string(mode), Title: "Distribution of " + figure + ", " + string(mode), X: Axis{figure, unit},
		Y: Axis{"share of requests at most", "%"}, CDF: true}
	if figure == "ITL" {
		c.Y.Name = "share of gaps at most"
	}
	lacking, few := 0, 0
	seen := map[string]int{}
	for _, row := range pick(r, mode, func(Row) bool { return true }) {
		i := slices.IndexFunc(row.Curves, func(c Curve) bool { return c.Figure == figure })
		switch {
		case i < 0:
			lacking++
			continue
		case row.Curves[i].N < fewest:
			few++
			continue
		}
		curve := row.Curves[i]
		seen[row.Name]++
		l := Line{Label: row.Name, Color: len(c.Lines) % maxLines}
		if seen[row.Name] > 1 {
			l.Label += " #" + strconv.Itoa(seen[row.Name])
		}
		if row.invalid() {
			l.Label = "✕ " + l.Label
		}
		for k := range curve.V {
			l.Points = append(l.Points, Point{X: curve.V[k] / per, Y: metrics.Of(100 * curve.Q[k]), Invalid: row.invalid()})
		}
		c.Lines = append(c.Lines, l)
	}
	if lacking > 0 {
		c.Missing = append(c.Missing, fmt.Sprintf("%s without a distribution of %s", plural(lacking, "row"), figure))
	}
	if few > 0 {
		c.Missing = append(c.Missing, fmt.Sprintf("%s with fewer than %d values", plural(few, "row"), fewest))
	}
	drawn := len(c.Lines) > 0
	c.limit()
	return c, drawn
}

// timelines are the charts of one row over its time, one per quantity with a line per stage.
func timelines(row Row, id string) []Chart {
	var all []Chart
	for _, s := range row.Timeline {
		unit, per := s.Unit, 1.0
		switch unit {
		case "bytes":
			unit, per = "GB", gb
		case "share":
			unit, per = "%", 0.01
		}
		i := slices.IndexFunc(all, func(c Chart) bool { return c.Y == Axis{s.Name, unit} })
		if i < 0 {
			i = len(all)
			all = append(all, Chart{ID: fmt.Sprintf("%s-time-%d", id, i), Title: strings.ToUpper(s.Name[:1]) + s.Name[1:] + " over time", X: Axis{"time", "s"}, Y: Axis{s.Name, unit}})
		}
		l := Line{Label: s.Stage, Color: len(all[i].Lines) % maxLines}
		gaps := map[string]int{}
		for k, v := range s.Value {
			l.Points = append(l.Points, Point{X: s.At[k], Y: v.Per(per)})
			if !v.OK() {
				gaps[cmp.Or(v.Reason(), "no reason given")]++
			}
		}
		for _, why := range slices.Sorted(maps.Keys(gaps)) {
			all[i].Missing = append(all[i].Missing, fmt.Sprintf("%s: not measured at %s: %s", s.title(), plural(gaps[why], "moment"), why))
		}
		all[i].Lines = append(all[i].Lines, l)
	}
	for i := range all {
		all[i].limit()
	}
	return all
}

func inOrder(all []string) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}
