package report_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

func chart(t *testing.T, r report.Result, id string) report.Chart {
	t.Helper()
	for _, c := range report.Charts(r) {
		if c.ID == id {
			return c
		}
	}
	require.Fail(t, "no chart "+id)
	return report.Chart{}
}

func labels(c report.Chart) []string {
	var all []string
	for _, l := range c.Lines {
		all = append(all, l.Label)
	}
	return all
}

// xy are the points of a line, "x=y", with "gap" and a trailing "!" of an invalid client.
func xy(l report.Line) string {
	var all []string
	for _, p := range l.Points {
		text := metrics.Of(p.X).String() + "=gap"
		if p.Y.OK() {
			text = metrics.Of(p.X).String() + "=" + p.Y.String()
		}
		if p.Invalid {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func online(conc int, rate metrics.Value) report.Row {
	return report.Row{Name: "r", Mode: report.Online, Concurrency: conc, Summary: metrics.Summary{RequestRate: rate}}
}

// Of a point that was measured more than once the line goes through the median, and the single runs are kept; a point that
// was not measured is a gap and is said.
func TestLinesOfASweep(t *testing.T) {
	r := report.Result{Target: "x", Rows: []report.Row{
		online(4, metrics.Of(40)), online(1, metrics.Of(10)), online(2, metrics.Absent("the run was cut short")), online(4, metrics.Of(44)), online(4, metrics.Of(99)),
	}}
	r.Rows[1].Client.Verdict = metrics.ClientInvalid
	c := chart(t, r, "throughput-concurrency")
	require.Len(t, c.Lines, 1)
	assert.Equal(t, "1=10! 2=gap 4=44", xy(c.Lines[0]))
	assert.Len(t, c.Lines[0].Runs, 3)
	assert.Equal(t, []string{"not measured at concurrency 2: the run was cut short"}, c.Missing)
	assert.Equal(t, "throughput (req/s)", c.Y.Title())
	page := html(t, r)
	assert.Contains(t, section(t, page, "throughput-concurrency"), "The line joins medians; small points are single runs.")
	path := regexp.MustCompile(`<path d="([^"]*)" class="line`).FindStringSubmatch(section(t, page, "throughput-concurrency"))
	require.NotNil(t, path)
	assert.Equal(t, 2, strings.Count(path[1], "M"), "two parts with the gap between them: %s", path[1])
}

// The pictures that were asked for are in every list of charts, and say why nothing can be drawn. A page says that once for a
// section that no row could have a point in, and draws no empty boxes.
func TestAskedChartsAreAlwaysThere(t *testing.T) {
	for id, want := range map[string]string{
		"throughput-concurrency": "no online row at a concurrency: nothing to draw", "latency-concurrency": "no online row at a concurrency: nothing to draw",
		"throughput-batch": "no offline row with a batch size: nothing to draw", "memory-batch": "no offline row with a batch size: nothing to draw",
	} {
		c := chart(t, report.Result{Target: "x"}, id)
		assert.Empty(t, c.Lines)
		assert.Equal(t, []string{want}, c.Missing)
	}

	const noBatch, noConc = `<p class="note">Over batch size: no offline row with a batch size: nothing to draw.</p>`, `<p class="note">Over concurrency: no online row at a concurrency: nothing to draw.</p>`
	only := func(mode report.Mode) string {
		r := demo()
		r.Rows = slices.DeleteFunc(r.Rows, func(row report.Row) bool { return row.Mode != mode })
		return html(t, r)
	}
	page := only(report.Online)
	assert.Equal(t, 1, strings.Count(page, noBatch))
	for _, never := range []string{"<h2>Over batch size</h2>", `id="throughput-batch"`, "Nothing to draw.", noConc} {
		assert.NotContains(t, page, never)
	}
	page = only(report.Offline)
	assert.Equal(t, 1, strings.Count(page, noConc))
	assert.NotContains(t, page, "<h2>Over concurrency</h2>")
	assert.NotContains(t, page, noBatch)
	assert.Contains(t, section(t, page, "rss-batch"), "Nothing to draw.", "rows there are: the box says why they have no point")
	page = html(t, demo())
	assert.NotContains(t, page, noBatch)
	assert.NotContains(t, page, noConc)
}

// Rows are told apart by as few words as that needs.
func TestTaskLabels(t *testing.T) {
	r := demo()
	assert.Equal(t, []string{"text", "1376x768"}, labels(chart(t, r, "throughput-concurrency")))
	assert.Equal(t, []string{"in 512", "in 2560"}, labels(chart(t, r, "throughput-batch")))
	assert.Equal(t, []string{"text, mean", "text, p99"}, labels(chart(t, r, "latency-concurrency")))
	assert.Equal(t, []string{""}, labels(chart(t, r, "throughput-rate")), "one task needs no name")
	assert.Equal(t, "in 2560: not measured at batch 2: NVML: driver not loaded", chart(t, r, "memory-batch").Missing[0])
	assert.Equal(t, "text, p99: not measured at concurrency 1, 2, 4: 24 to 96 requests, p99 needs 368; see max", chart(t, r, "latency-concurrency").Missing[0])
}

func TestMoreLinesThanColours(t *testing.T) {
	r := report.Result{Target: "x"}
	for i := range 10 {
		row := online(1, metrics.Of(float64(i)))
		row.PromptTokens = 100 + i
		r.Rows = append(r.Rows, row)
	}
	c := chart(t, r, "throughput-concurrency")
	assert.Len(t, c.Lines, 8)
	assert.Equal(t, []string{"not drawn for lack of room: 2 lines, see the tables"}, c.Missing)
}

// What Detail keeps of a run is what its samples say.
func TestDetail(t *testing.T) {
	began := time.Unix(100, 0)
	var samples []metrics.Sample
	for i := range 4 { // two lanes, each request 1 s: two in flight for 2 s
		s := metrics.Sample{Start: began.Add(time.Duration(i/2) * time.Second), InputTokens: 1, OutputTokens: 2, Exchange: api.Exchange{Status: 200, End: time.Second}}
		s.Exchange.Events = []api.Event{{At: time.Duration(100+100*i) * time.Millisecond, Text: "a"}, {At: time.Second, Text: "b"}}
		samples = append(samples, s)
	}
	samples[3].Exchange.Status = 503
	left := samples[0]
	left.Abandoned, left.Exchange.Events = true, nil
	samples = append(samples, left)
	var row report.Row
	row.Timeline = []report.Series{{Stage: "decode", Name: "CPU", Unit: "cores"}}
	row.Detail(metrics.VLLM, samples, 2*time.Second)
	require.Len(t, row.Curves, 4)
	assert.Equal(t, report.Curve{Figure: "TTFT", Unit: "ms", N: 3, Q: []float64{1.0 / 3, 2.0 / 3, 1}, V: []float64{100, 200, 300}}, row.Curves[0], "of the successes")
	byName := map[string]report.Series{}
	for _, s := range row.Timeline {
		byName[s.Name] = s
	}
	assert.Contains(t, byName, "CPU", "series that were there stay")
	sum := func(name string) (total float64) {
		s := byName[name]
		require.Len(t, s.Value, 20, name)
		for _, v := range s.Value {
			x, _ := v.Get()
			total += x * 0.1 // width of a bucket
		}
		return total
	}
	assert.InDelta(t, 5, sum("in flight"), 1e-9, "request seconds, with the one whose user left")
	assert.InDelta(t, 3, sum("completed"), 1e-9)
	assert.InDelta(t, 1, sum("failed"), 1e-9)
	assert.InDelta(t, 8, sum("events"), 1e-9)
	assert.Equal(t, 0.05, byName["in flight"].At[0])

	var many []metrics.Sample
	for i := range 500 {
		s := samples[0]
		s.Exchange.Events = []api.Event{{At: time.Duration(i) * time.Millisecond, Text: "a"}}
		many = append(many, s)
	}
	row = report.Row{}
	row.Detail(metrics.VLLM, many, time.Second)
	require.Len(t, row.Curves[0].V, 101)
	assert.Equal(t, 249.5, row.Curves[0].V[50])
	assert.Equal(t, 499.0, row.Curves[0].V[100])
	row = report.Row{}
	row.Detail(metrics.VLLM, nil, 0)
	assert.Empty(t, row.Curves)
	assert.Empty(t, row.Timeline)
}
