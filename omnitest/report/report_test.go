package report_test

import (
	"encoding/csv"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// summary is what a run of n equal requests gives: first token at 200 ms, then 20 ms a token.
func summary(n, failed, images int) metrics.Summary {
	var all []metrics.Sample
	for i := range n {
		if i < failed {
			all = append(all, metrics.Sample{Exchange: api.Exchange{Status: 503}})
			continue
		}
		s := metrics.Sample{Exchange: api.Exchange{Status: 200, End: 3 * time.Second}, InputTokens: 512, OutputTokens: 11}
		for t := range 11 {
			s.Exchange.Events = append(s.Exchange.Events, api.Event{At: time.Duration(200+20*t) * time.Millisecond, Text: "y"})
		}
		if images > 0 {
			s.Exchange.Events, s.InputTokens, s.OutputTokens = nil, -1, -1
			s.Images, s.Pixels = images, int64(images)*1376*768
		}
		all = append(all, s)
	}
	return metrics.Summarize(metrics.VLLM, all, 4*time.Second)
}

func window(peak int64) hw.Window {
	s := hw.Series{PID: 7, Samples: 4, PeakRSS: peak, MeanRSS: peak, CPUSeconds: 1.25, Processes: 1}
	return hw.Window{WallS: 4, IntervalMS: 250, Stages: map[string]hw.Series{"decode": s}, Total: s}
}

func example() report.Result {
	attached := hw.Series{Absent: hw.AttachedByURL}
	return report.Result{
		Created: time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC), Target: "reference stack", Simulated: true,
		Stack:       report.Stack{Name: "reference", Stages: map[string]report.Stage{"decode": {Engine: "reference", Simulated: true}}},
		Plan:        report.Plan{Profile: "vllm", Source: metrics.VLLM.Source, Warmup: 1, LimitS: 300},
		Environment: report.Environment{Go: "go1.26.8", OS: "linux", Arch: "amd64", CPUs: 2, MaxProcs: 2},
		Rows: []report.Row{
			{Name: "batch=1/prompt=512", Mode: report.Offline, Batch: 1, Requests: 1, PromptTokens: 512, OutputSize: "1376x768", Summary: summary(1, 0, 0),
				Hardware: window(123_456_789), GPUMemory: metrics.Of(71.25e9), Verdicts: []report.Verdict{{Name: "handoff", Verdict: "proven"}}},
			{Name: "batch=4/prompt=2560", Mode: report.Offline, Batch: 4, Requests: 4, PromptTokens: 2560, OutputSize: "1376x768", Summary: summary(4, 1, 0),
				Hardware:  hw.Window{Stages: map[string]hw.Series{"dit": attached}, Total: hw.Series{Absent: "dit " + hw.AttachedByURL}},
				GPUMemory: metrics.Absent("no NVML in this build"), Verdicts: []report.Verdict{{Name: "handoff", Verdict: "refuted", Reasons: []string{"bytes 0"}}}},
			{Name: "conc=2", Mode: report.Online, Concurrency: 2, Requests: 8, Summary: summary(8, 0, 1), PeakInFlight: 2, MeanInFlight: 1.75,
				Client:   metrics.ClientError{Verdict: metrics.ClientInvalid, Reasons: []string{"event lateness p99 4.1 ms, limit 1 ms (5 % of the median ITL)"}},
				Hardware: window(1_500_000_000), Errors: []string{"2 of 10 calls not sent: context\ncanceled | <html>"}},
		},
	}
}

// The tables are literal: these are the users' own columns, in their order.
func TestTable(t *testing.T) {
	want := `## offline: reference stack (simulated)

| prompt tokens |   output | batch | mean TTFT (s) | mean TPOT (s) |  req/s | tokens/s | GPU memory (GB) | memory RSS (GB) | mean E2EL (s) |
| ------------: | -------: | ----: | ------------: | ------------: | -----: | -------: | --------------: | --------------: | ------------: |
|           512 | 1376x768 |     1 |        0.2000 |       0.02000 | 0.2500 |    2.750 |           71.25 |          0.1235 |        0.4000 |
|          2560 | 1376x768 |     4 |        0.2000 |       0.02000 | 0.7500 |    8.250 |    not measured |    not measured |        0.4000 |

Definitions: profile vllm. Rates are over the whole duration, tokens/s counts output tokens, 1 GB = 10^9 bytes.

- GPU memory (GB) not measured in 1 row: no NVML in this build
- memory RSS (GB) not measured in 1 row: dit attached by URL
- batch=4/prompt=2560: 1 of 4 requests failed and entered no figure: 1x HTTP 503
- batch=4/prompt=2560: handoff refuted: bytes 0
- handoff proven in 1 of 2 rows

## online: reference stack (simulated)

| concurrency | total requests | mean TTFT (s) | mean TPOT (s) | req/s |     tokens/s | GPU memory (GB) | memory RSS (GB) | mean E2EL (s) | images/s |         client |
| ----------: | -------------: | ------------: | ------------: | ----: | -----------: | --------------: | --------------: | ------------: | -------: | -------------: |
|           2 |              8 |  not measured |  not measured | 2.000 | not measured |    not measured |           1.500 |         3.000 |    2.000 | INVALID-CLIENT |

Definitions: profile vllm. Rates are over the whole duration, tokens/s counts output tokens, 1 GB = 10^9 bytes.

- mean TTFT (s) not measured in 1 row: the answer was not streamed
- mean TPOT (s) not measured in 1 row: the answer was not streamed
- tokens/s not measured in 1 row: the answers did not tell their output tokens
- conc=2: INVALID-CLIENT, its figures say more about the client than about the server: event lateness p99 4.1 ms, limit 1 ms (5 % of the median ITL)
- conc=2: 2 of 10 calls not sent: context canceled \| &lt;html>
`
	assert.Empty(t, cmp.Diff(want, report.Table(example())))
}

// Foreign text is one cell, one line and no HTML in the tables, whatever it holds.
func TestForeignTextStaysInItsCell(t *testing.T) {
	const evil = "a|b\\|c\n| d | <img src=x onerror=alert(1)>\r\n## head, \"q\""
	before, r := report.Table(example()), example()
	r.Handoff = []report.Window{{Name: evil, Verdicts: []report.Verdict{{Name: evil, Verdict: evil, Reasons: []string{evil}}}}}
	r.Target = evil
	for i := range r.Rows {
		row := &r.Rows[i]
		row.Name, row.OutputSize, row.Summary.Profile, row.Errors = evil, evil, evil, []string{evil}
		row.Client.Verdict, row.Summary.RequestRate = evil, metrics.Absent(evil)
		row.Theory = &report.Theory{Source: evil, Absent: evil, Notes: []string{evil}}
	}
	table := report.Table(r)
	assert.NotContains(t, table, "<")
	assert.Contains(t, table, "| a\\|b\\\\\\|c \\| d \\| &lt;img src=x onerror=alert(1)> ## head, \"q\" |")
	heads := func(s string) (n int) {
		for line := range strings.Lines(s) {
			if strings.HasPrefix(line, "## ") {
				n++
			}
		}
		return n
	}
	assert.Equal(t, heads(before)+1, heads(table), "the handoff's and none from the text")
	columns := 0 // as GitHub splits a line: a backslash takes the next sign along
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := 0
		for i := 0; i < len(line); i++ {
			switch line[i] {
			case '\\':
				i++
			case '|':
				n++
			}
		}
		if columns == 0 {
			columns = n
		}
		assert.Equal(t, columns, n, line)
	}

	text := report.CSV(r)
	assert.Equal(t, 1+len(r.Rows), strings.Count(text, "\n"), "a line a row")
	lines, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	require.NoError(t, err)
	assert.Equal(t, `a|b\|c | d | <img src=x onerror=alert(1)> ## head, "q"`, lines[1][0])
}

// A verdict that was asked of some rows only: those of the others are not missing. A cap that holds the schedule back is told.
func TestNotesOfTheTable(t *testing.T) {
	handoff, payload := report.Verdict{Name: "handoff", Verdict: "proven"}, report.Verdict{Name: "payload", Verdict: "proven"}
	r := example()
	r.Rows[0].Verdicts, r.Rows[1].Verdicts = []report.Verdict{handoff}, []report.Verdict{handoff, payload}
	table := report.Table(r)
	assert.Contains(t, table, "\n- handoff proven in 2 of 2 rows\n")
	assert.Contains(t, table, "\n- payload proven in 1 of 1 row, not asked of 1\n")
	assert.NotContains(t, table, "free slot")

	row := &r.Rows[2]
	row.Load, row.Summary.E2EL.Mean = report.Load{Arrivals: "poisson", Rate: 20}, metrics.Of(300)
	row.Summary.ClientQueue.Mean, row.Summary.E2ELFromSchedule.Mean = metrics.Of(2500), metrics.Of(2801)
	assert.Contains(t, report.Table(r), "\n- conc=2: a request waited 2.500 s (mean) for a free slot before it was sent: the schedule was not kept, and from its due time the mean E2EL is 2.801 s\n")
	row.Summary.ClientQueue.Mean = metrics.Of(2)
	assert.NotContains(t, report.Table(r), "free slot", "less than 1 % of the latency")
}

func TestTableNamesItsTargetAlways(t *testing.T) {
	r := example()
	r.Target = "Reference stack (SIMULATED)"
	assert.Contains(t, report.Table(r), "## online: Reference stack (SIMULATED)\n", "said once is enough")
	r.Target, r.Simulated = "qwen on 8 x H100", false
	assert.Contains(t, report.Table(r), "## offline: qwen on 8 x H100\n")
	assert.NotContains(t, report.Table(r), "imulated")
	r.Rows = nil
	assert.Equal(t, "## qwen on 8 x H100\n\nNo rows: nothing was measured.\n", report.Table(r))
}

func TestDeadStageIsNamedUnderTheTable(t *testing.T) {
	r := example()
	r.Rows[0].Hardware.Total.Ended = "process 7 ended before 1.20 s of the window"
	assert.Contains(t, report.Table(r), "- batch=1/prompt=512: memory RSS is without what died: process 7 ended before 1.20 s of the window\n")
}

func TestCSV(t *testing.T) {
	lines, err := csv.NewReader(strings.NewReader(report.CSV(example()))).ReadAll()
	require.NoError(t, err)
	want := [][]string{
		{"target", "simulated", "profile", "mode", "name", "requests", "failed", "prompt tokens", "input", "output", "steps", "batch", "rate (req/s)", "concurrency", "total requests",
			"mean TTFT (s)", "mean TPOT (s)", "req/s", "tokens/s", "GPU memory (GB)", "memory RSS (GB)", "mean E2EL (s)", "images/s", "goodput (req/s)", "client"},
		{"reference stack", "true", "vllm", "offline", "batch=1/prompt=512", "1", "0", "512", "", "1376x768", "", "1", "", "", "", "0.2", "0.02", "0.25", "2.75", "71.25", "0.123456789", "0.4", "", "", ""},
		{"reference stack", "true", "vllm", "offline", "batch=4/prompt=2560", "4", "1", "2560", "", "1376x768", "", "4", "", "", "", "0.2", "0.02", "0.75", "8.25", "", "", "0.4", "", "", ""},
		{"reference stack", "true", "vllm", "online", "conc=2", "8", "0", "", "", "", "", "", "", "2", "8", "", "", "2", "", "", "1.5", "3", "2", "", "INVALID-CLIENT"},
	}
	assert.Empty(t, cmp.Diff(want, lines))
}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "results")
	p, err := report.Write(dir, example())
	require.NoError(t, err)
	back, err := report.Read(p.JSON)
	require.NoError(t, err)
	want := example()
	want.Schema = report.Schema
	assert.Equal(t, "omnitest", back.Provenance.Tool)
	want.Provenance = back.Provenance // filled in by Write
	assert.Empty(t, cmp.Diff(want, back))

	table, err := os.ReadFile(p.Table)
	require.NoError(t, err)
	assert.Equal(t, string(table), report.Table(back), "the table can be made again from the document alone")
	sheet, err := os.ReadFile(p.CSV)
	require.NoError(t, err)
	assert.Equal(t, string(sheet), report.CSV(back))

	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 4, "no temporary files stay")
	doc, err := os.ReadFile(p.JSON)
	require.NoError(t, err)
	assert.Contains(t, string(doc), `"gpu_memory_bytes": "not measured: no NVML in this build"`)
	assert.NotContains(t, string(doc), "null")
}

func TestWriteFillsInWhatItKnows(t *testing.T) {
	r := example()
	r.Created, r.Environment = time.Time{}, report.Environment{}
	p, err := report.Write(t.TempDir(), r)
	require.NoError(t, err)
	back, err := report.Read(p.JSON)
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), back.Created, time.Minute)
	assert.Equal(t, report.Here(), back.Environment)
}

func TestMisleadingResultsAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(*report.Result){
		"no target: figures must say what they were measured on":                         func(r *report.Result) { r.Target = " " },
		"stage decode is simulated, the document says that nothing is":                   func(r *report.Result) { r.Simulated = false },
		`target "simulated stack" is simulated, the document says that it is not`:        func(r *report.Result) { r.Target, r.Simulated, r.Stack.Stages = "simulated stack", false, nil },
		`row 1 "batch=4/prompt=2560": mode "", want "offline" or "online"`:               func(r *report.Result) { r.Rows[1].Mode = "" },
		`row 2 "conc=2": 9 requests planned, 8 in the summary: some are unaccounted for`: func(r *report.Result) { r.Rows[2].Requests = 9 },
		`row 1 "batch=4/prompt=2560": 4 requests, but 3 ok, 0 failed and 0 abandoned`:    func(r *report.Result) { r.Rows[1].Summary.Failed = 0 },
		`row 0 "batch=1/prompt=512": profile "vllm-omni" in a result of profile "vllm"`:  func(r *report.Result) { r.Rows[0].Summary.Profile = "vllm-omni" },
	} {
		r := example()
		spoil(&r)
		dir := t.TempDir()
		_, err := report.Write(dir, r)
		require.EqualError(t, err, "report: result refused: "+want)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Empty(t, left)
	}
}

func TestWriteToAnImpossiblePlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := report.Write(filepath.Join(file, "results"), example())
	require.ErrorContains(t, err, "report: mkdir")
}

// A document that the first version of this room wrote is read by every later one: what it had is there, and what it did not
// have is not measured.
func TestFirstDocumentIsStillRead(t *testing.T) {
	r, err := report.Read(filepath.Join("..", "..", "testdata", "report", "v1-first.json"))
	require.NoError(t, err)
	require.Len(t, r.Rows, 3)
	assert.Equal(t, metrics.ClientError{}, r.Rows[0].Client)
	assert.Nil(t, r.Rows[0].Theory)
	assert.Empty(t, r.Rows[0].Stages)
	assert.False(t, r.Rows[0].ConnectS.OK())
	then, err := os.ReadFile(filepath.Join("..", "..", "testdata", "report", "v1-first.md"))
	require.NoError(t, err)
	assert.Empty(t, cmp.Diff(string(then), report.Table(r)), "its table is the one of the day")
	page, err := report.HTML(r)
	require.NoError(t, err)
	assert.Contains(t, string(page), "client error not measured")
	_, err = report.Write(t.TempDir(), r)
	require.NoError(t, err, "and it can be written again")
}

func TestReadIsStrictAboutTheSchemaOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "result.json")
	read := func(text string) (report.Result, error) {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return report.Read(path)
	}
	for text, want := range map[string]string{
		`{"schema":"omnitest.result/v2"}`: `schema "omnitest.result/v2" was written by a newer version, this one reads up to "omnitest.result/v1"`,
		`{"schema":"omnitest.result/v0"}`: `schema "omnitest.result/v0", want "omnitest.result/v1"`,
		`{"schema":"vllm.bench/v1"}`:      `schema "vllm.bench/v1", want "omnitest.result/v1"`,
		`{"schema":"omnitest.result/vX"}`: `schema "omnitest.result/vX", want "omnitest.result/v1"`,
		`{"mean_ttft_ms": 3}`:             `schema "", want "omnitest.result/v1"`,
		`<html>`:                          `is not a result: invalid character '<'`,
		`{"schema":"omnitest.result/v1","rows":[{"gpu_memory_bytes":"12"}]}`: `figure "12": want a number or "not measured" with a reason`,
	} {
		_, err := read(text)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
	r, err := read(`{"schema":"omnitest.result/v1.4","target":"x","theory":{"roofline":1},"rows":[{"name":"a","new":[1]}]}`)
	require.NoError(t, err)
	assert.Equal(t, "a", r.Rows[0].Name)
	assert.False(t, r.Rows[0].Summary.TTFT.Mean.OK(), "an old document without a figure has it not measured")
	assert.False(t, r.Rows[0].GPUMemory.OK())
	_, err = report.Read(filepath.Join(t.TempDir(), "none.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestDocumentKeys(t *testing.T) {
	raw, err := json.Marshal(example())
	require.NoError(t, err)
	var doc struct {
		Rows []map[string]json.RawMessage `json:"rows"`
	}
	require.NoError(t, json.Unmarshal(raw, &doc))
	var sum map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(doc.Rows[0]["summary"], &sum))
	env, err := json.Marshal(report.Here())
	require.NoError(t, err)
	var keys map[string]any
	require.NoError(t, json.Unmarshal(env, &keys))
	assert.Subset(t, []string{"go", "os", "arch", "cpus", "gomaxprocs", "cpu", "kernel"}, slices.Collect(maps.Keys(keys)), "no host or user name")
	for _, key := range []string{"profile", "wall_s", "requests", "ok", "failed", "ttft", "tpot", "itl", "e2el", "request_throughput", "output_throughput", "total_token_throughput"} {
		assert.Contains(t, sum, key)
	}
}
