package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	gohtml "html"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

var update = flag.Bool("update", false, "write testdata/report/sweep.json anew from demo")

// The stored document is the demonstration of this package; e2e opens its page in a browser, the room plot draws it.
func TestStoredSweep(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "report", "sweep.json")
	if *update {
		p, err := report.Write(t.TempDir(), demo())
		require.NoError(t, err)
		raw, err := os.ReadFile(p.JSON)
		require.NoError(t, err)
		var flat bytes.Buffer
		require.NoError(t, json.Compact(&flat, raw))
		require.NoError(t, os.WriteFile(path, append(flat.Bytes(), '\n'), 0o644))
	}
	back, err := report.Read(path)
	require.NoError(t, err)
	want := demo()
	want.Schema = report.Schema
	// Times of the demonstration come through math functions, whose last bit may differ between processors.
	near := cmp.Comparer(func(a, b float64) bool { return a == b || abs(a-b) <= 1e-9*max(abs(a), abs(b)) })
	values := cmp.Comparer(func(a, b metrics.Value) bool {
		x, ok := a.Get()
		y, ok2 := b.Get()
		return ok == ok2 && a.Reason() == b.Reason() && (x == y || abs(x-y) <= 1e-9*max(abs(x), abs(y)))
	})
	assert.Empty(t, cmp.Diff(want, back, near, values), "go test ./omnitest/report -update writes it anew")
}

func abs(v float64) float64 { return max(v, -v) }

func html(t *testing.T, r report.Result) string {
	t.Helper()
	raw, err := report.HTML(r)
	require.NoError(t, err)
	return string(raw)
}

// section is the element with this id, tags and all, with its entities resolved.
func section(t *testing.T, page, id string) string {
	t.Helper()
	at := strings.Index(page, `id="`+id+`"`)
	require.Positive(t, at, "no element %q", id)
	rest := page[at:]
	end := len(rest)
	for _, close := range []string{"</figure>", "</section>", "</details>"} {
		if i := strings.Index(rest, close); i >= 0 {
			end = min(end, i)
		}
	}
	return gohtml.UnescapeString(rest[:end])
}

// The page is one file that asks for nothing and holds what the document says.
func TestPage(t *testing.T) {
	page := html(t, demo())
	assert.NotContains(t, page, "<script")
	assert.NotContains(t, page, "@import")
	assert.NotRegexp(t, `(?i)(src|href)="(?:https?:)?//`, page)
	assert.NotContains(t, page, "ZgotmplZ", "html/template refused a value")
	assert.Contains(t, page, `content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"`)
	for _, text := range []string{"<h1>reference stack (simulated)</h1>", "<b>simulated</b>", "<b>INVALID-CLIENT</b>", "in 1 of 15 rows the client was late itself", "<b>handoff refuted</b>",
		"vllm/benchmarks/serve.py@009e6d4a", "-max-concurrency=1,2,4,16,32", "poisson, seed 7", "bfloat16", "v0.7.0", "AMD EPYC", "5m0s"} {
		assert.Contains(t, page, text)
	}
	assert.Contains(t, section(t, page, "errors"), "connection reset by <peer> & others")
	assert.Contains(t, section(t, page, "handoff"), "decode computed 1361 of 1361 prompt tokens itself (iteration_tokens +2723, bytes 0)")
	assert.Contains(t, section(t, page, "client"), "conc=32/task=text: event lateness p99 3.9 ms, limit 1.1 ms (5 % of the median ITL)")
	assert.Contains(t, page, "residual is below zero in 5 rows, down to -38.00 ms: the stages overlapped by so much")
	assert.Contains(t, page, "dit not measured, no picture was asked for, in 15 rows")
	assert.Contains(t, page, "decode GPU memory: not measured at 6 moments: NVML timed out")
	assert.Contains(t, page, "n too small: a p90 needs 36 requests, a p95 72, a p99 368; the maximum stands beside it")

	for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1) {
		require.NoError(t, xml.Unmarshal([]byte(svg), new(struct{})), "well formed")
		assert.NotContains(t, svg, "NaN")
		assert.NotContains(t, svg, "Inf")
	}
}

// A row of an invalid client is marked in every view: tables, charts, distributions, benchmark lines, vLLM's keys.
func TestInvalidClientIsMarkedEverywhere(t *testing.T) {
	r := demo()
	mark := func(verdict string) (marks int, page string) {
		for i := range r.Rows {
			if r.Rows[i].Name == "conc=32/task=text" {
				r.Rows[i].Client.Verdict = verdict
			}
		}
		page = html(t, r)
		return strings.Count(page, "INVALID-CLIENT"), page
	}
	_, page := mark(metrics.ClientInvalid)
	for _, id := range []string{"throughput-concurrency", "tokens-concurrency", "latency-concurrency", "tpot-concurrency", "e2el-concurrency"} {
		assert.Contains(t, section(t, page, id), "✕ INVALID-CLIENT: the client was late itself, the figure is not the server", id)
		assert.Contains(t, section(t, page, id), `class="cross `, id)
		assert.Contains(t, section(t, page, id), "at concurrency 32, INVALID-CLIENT</title>", id)
	}
	assert.Contains(t, section(t, page, "ttft-cdf-online"), "✕ conc=32/task=text")
	assert.Contains(t, page, `<tr class="invalid"><td class="word">conc=32/task=text ✕ INVALID-CLIENT</td>`)
	assert.Contains(t, page, "<summary>conc=32/task=text ✕ INVALID-CLIENT</summary>")
	assert.Contains(t, report.Table(r), "| INVALID-CLIENT |")
	assert.Contains(t, report.CSV(r), ",INVALID-CLIENT\n")
	var bad report.Row
	for _, row := range r.Rows {
		if row.Name == "conc=32/task=text" {
			bad = row
		}
	}
	assert.Contains(t, report.Metrics(bad), report.Metric{Unit: "client-invalid", Value: 1, Better: "lower"})
	keys, err := report.VLLMJSON(r, bad)
	require.NoError(t, err)
	assert.Equal(t, "INVALID-CLIENT", keys["omnitest_client"])

	marks, page := mark(metrics.ClientValid)
	assert.Zero(t, marks, "and nothing is marked without cause")
	assert.NotContains(t, page, `class="cross `)
	assert.NotContains(t, page, `<tr class="invalid">`)
	assert.NotContains(t, report.Table(r)+report.CSV(r), "INVALID-CLIENT")
}

func TestTiles(t *testing.T) {
	r := example()
	for i := range r.Rows {
		r.Rows[i].Client, r.Rows[i].Errors = metrics.ClientError{}, nil
	}
	page := html(t, r)
	assert.Contains(t, page, "<b>client error not measured</b>")
	assert.Contains(t, page, "<b>handoff refuted</b>", "the rows' own verdicts count where no window was kept")
	assert.Contains(t, page, "<b>1 of 13 requests failed</b>")
	r.Rows[0].Client.Verdict = metrics.ClientValid
	assert.Contains(t, html(t, r), "<b>client partly measured</b><span>valid in 1 of 3 rows, not measured in the others</span>")
	r.Rows = r.Rows[:1]
	r.Simulated, r.Stack = false, report.Stack{}
	page = html(t, r)
	for _, want := range []string{"<b>client valid</b>", "<b>handoff proven</b><span>in 1 row</span>", "<b>1 request</b>", "<b>real engines</b>"} {
		assert.Contains(t, page, want)
	}
	r.Rows[0].Verdicts[0].Verdict = "inconclusive"
	assert.Contains(t, html(t, r), "<b>handoff inconclusive</b>")
	page = html(t, report.Result{Target: "x"})
	for _, want := range []string{"<b>no requests</b>", "<b>handoff not judged</b>", "No rows: nothing was measured", "no online row at a concurrency: nothing to draw", "No request failed.", "date not recorded"} {
		assert.Contains(t, page, want)
	}
}

// A table with the columns of a full record is set small and inside a box that scrolls and shows that it does: none of its
// columns is cut off unseen.
func TestWideTablesAreWhole(t *testing.T) {
	page := html(t, demo())
	tables := regexp.MustCompile(`(?s)(.{20})<table([^>]*)>(.*?)</thead>`).FindAllStringSubmatch(page, -1)
	require.NotEmpty(t, tables)
	dense := 0
	for _, m := range tables {
		assert.Equal(t, `<div class="scroll">`, m[1])
		wide := strings.Count(m[3], "<th")-1 > 12 // thead apart
		assert.Equal(t, wide, m[2] == ` class="dense"`, m[3])
		if wide {
			dense++
		}
	}
	assert.Equal(t, 2, dense, "offline and online")
	assert.Contains(t, page, ".scroll { overflow-x: auto;")
	assert.Contains(t, page, "linear-gradient(to left, var(--axis), transparent) right / 12px 100% no-repeat scroll", "a shadow at the edge behind which there is more")
}

// Whatever an engine writes into a name or an error stays text.
func TestForeignTextStaysText(t *testing.T) {
	r := demo()
	const evil = `"><script>alert(1)</script>&<b>`
	r.Target = evil
	for i := range r.Rows {
		row := &r.Rows[i]
		row.Name, row.Summary.Failures = evil, []string{evil}
		for k := range row.Stages {
			row.Stages[k].Stage = evil
		}
		for k := range row.Timeline {
			row.Timeline[k].Stage, row.Timeline[k].Unit = evil, evil
		}
		row.Load.Arrivals = evil
		row.OutputSize = evil
	}
	page := html(t, r)
	assert.NotContains(t, page, "<script")
	assert.NotContains(t, page, "&<b>")
}

func TestTheoryIsShownWhereThereIsOne(t *testing.T) {
	r := demo()
	assert.NotContains(t, html(t, r), `id="theory"`)
	r.Rows[0].Theory = &report.Theory{Source: "roofline, H100", Bounds: []report.Bound{{Figure: "TPOT", Unit: "ms", Value: metrics.Of(10), Measured: metrics.Of(25)}, {Figure: "TTFT", Unit: "ms"}}}
	s := section(t, html(t, r), "theory")
	assert.Contains(t, s, "<td>10.00</td><td>25.00</td><td>2.500</td>")
	assert.Contains(t, s, `<td class="none">not measured</td>`)
}

func TestDetailThatCannotBeDrawnIsRefused(t *testing.T) {
	for want, spoil := range map[string]func(*report.Row){
		`client verdict "fine", want "valid", "INVALID-CLIENT" or "not measured"`: func(r *report.Row) { r.Client.Verdict = "fine" },
		`curve TTFT: 2 shares and 1 values, want as many, each ascending`:         func(r *report.Row) { r.Curves = []report.Curve{{Figure: "TTFT", Q: []float64{0, 1}, V: []float64{3}}} },
		`curve ITL: 2 shares and 2 values, want as many, each ascending`: func(r *report.Row) {
			r.Curves = []report.Curve{{Figure: "ITL", Q: []float64{0, 1}, V: []float64{3, 2}}}
		},
		`series decode CPU: 2 times and 1 values, want as many, times ascending`: func(r *report.Row) {
			r.Timeline = []report.Series{{Stage: "decode", Name: "CPU", At: []float64{0, 1}, Value: make([]metrics.Value, 1)}}
		},
		`series in flight: 2 times and 2 values, want as many, times ascending`: func(r *report.Row) {
			r.Timeline = []report.Series{{Name: "in flight", At: []float64{2, 1}, Value: make([]metrics.Value, 2)}}
		},
	} {
		r := example()
		spoil(&r.Rows[1])
		_, err := report.Write(t.TempDir(), r)
		require.EqualError(t, err, `report: result refused: row 1 "batch=4/prompt=2560": `+want)
	}
}
