package perf

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/eventlog"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/report/plot"
)

// results are the documents of this run: offline, online, prefill and decode each measure something else under the same names. A
// document is rewritten after every row, so that a run which is killed keeps what it had.
var results kept

type kept struct {
	sync.Mutex
	sets    map[string]*document
	invalid []string // rows whose figures the client spoilt
}

// document is one set of rows with its files.
type document struct {
	report.Result
	dir   string
	log   *eventlog.Writer
	paths report.Paths
}

// open gives the document of a set, begun by whoever comes first.
func (k *kept) open(b *testing.B, name string) (*document, error) {
	k.Lock()
	defer k.Unlock()
	if d := k.sets[name]; d != nil {
		return d, nil
	}
	d := &document{dir: filepath.Join(outDir(b), name)}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	// A log is never written over: those of earlier runs stay until somebody removes them.
	d.EventLog = fmt.Sprintf("events-%s-%d.omni", time.Now().UTC().Format("20060102T150405"), os.Getpid())
	var err error
	if d.log, err = eventlog.Create(filepath.Join(d.dir, d.EventLog)); err != nil {
		return nil, err
	}
	if k.sets == nil {
		k.sets = map[string]*document{}
	}
	k.sets[name] = d
	return d, nil
}

func eventLog(b *testing.B, set string) (*eventlog.Writer, error) {
	d, err := results.open(b, set)
	if err != nil {
		return nil, err
	}
	return d.log, nil
}

// spoilt remembers a row for the end of the run.
func (k *kept) spoilt(row, why string) {
	k.Lock()
	defer k.Unlock()
	k.invalid = append(k.invalid, row+": "+why)
}

// close ends the logs, draws the charts and says where everything is.
func (k *kept) close() error {
	k.Lock()
	defer k.Unlock()
	for _, name := range slices.Sorted(maps.Keys(k.sets)) {
		d := k.sets[name]
		if err := d.log.Close(); err != nil {
			return err
		}
		if d.paths == (report.Paths{}) {
			continue // no row came to its end
		}
		if _, err := plot.Write(filepath.Join(d.dir, "charts"), d.Result); err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr, "omnitest: results:", d.paths.HTML, d.paths.Table, d.paths.JSON)
	}
	for _, text := range k.invalid {
		fmt.Fprintln(os.Stderr, "omnitest:", text)
	}
	return nil
}

// keep adds the row and its handoff windows to the document and reports its figures as the benchmark's metrics.
func (t *tally) keep(b *testing.B) {
	b.Helper()
	row := *t.row()
	row.Theory = set.theory.beside(&row, t.point.stack == nil || t.point.stack.Simulated())
	b.ReportMetric(0, "ns/op") // time per load run: says nothing
	for _, m := range slices.Concat(report.Metrics(row), askedMetrics(row)) {
		b.ReportMetric(m.Value, m.Unit)
	}
	d, err := results.open(b, t.point.set)
	if err != nil {
		b.Fatal(err)
	}
	results.Lock()
	defer results.Unlock()
	d.describe(t.point)
	d.Rows = append(d.Rows, row)
	for i, w := range t.windows {
		w.Name = fmt.Sprintf("%s window %d", row.Name, i+1)
		d.Handoff = append(d.Handoff, w)
	}
	if d.paths, err = report.Write(d.dir, d.Result); err != nil {
		b.Fatal(err)
	}
	if set.saveResult || set.saveDetailed {
		if err := t.saveVLLM(d); err != nil {
			b.Fatal(err)
		}
	}
}

// describe fills in what all rows of the document have in common.
func (d *document) describe(p *point) {
	if d.Target != "" {
		return
	}
	d.Target, d.Simulated, d.Stack.Stages = "reference stack (simulated)", true, map[string]report.Stage{"offline": {Engine: "reference", Simulated: true, DType: dtype(true)}}
	if p.stack != nil {
		d.Target, d.Simulated, d.Stack.Stages = p.stack.Target(), p.stack.Simulated(), stages(p.stack)
	}
	d.Plan = report.Plan{Profile: set.definition.Name, Source: set.definition.Source, Warmup: p.warmup, LimitS: requestLimit.Seconds()}
	if p.set == "offline" {
		d.Plan.Profile, d.Plan.Source = offlineProfile.Name, offlineProfile.Source
	}
	d.Provenance.Flags = set.flags
}

// askedMetrics are the percentiles of -metric-percentiles that a benchmark line does not have anyway.
func askedMetrics(row report.Row) []report.Metric {
	var all []report.Metric
	for _, name := range set.names {
		for _, a := range distOf(&row.Summary, name).Asked {
			if v, ok := a.Value.Get(); ok && !usual(a.P) {
				all = append(all, report.Metric{Unit: askedUnit(a.P, name), Value: math.Round(v * 1e6), Better: "lower"})
			}
		}
	}
	return all
}

func usual(p float64) bool { return p == 50 || p == 99 }

func askedUnit(p float64, figure string) string {
	return "p" + strconv.FormatFloat(p, 'f', -1, 64) + "-" + figure + "-ns"
}

// unitLines are those of package report and of the percentiles that were asked for.
func unitLines() []string {
	lines := report.UnitLines()
	for _, name := range set.names {
		for _, p := range set.asked {
			if !usual(p) {
				lines = append(lines, "Unit "+askedUnit(p, name)+" better=lower")
			}
		}
	}
	return lines
}

func distOf(s *metrics.Summary, figure string) metrics.Dist {
	return map[string]metrics.Dist{"ttft": s.TTFT, "tpot": s.TPOT, "itl": s.ITL, "e2el": s.E2EL}[figure]
}

// saveVLLM writes the row under the keys of `vllm bench serve --save-result`.
func (t *tally) saveVLLM(d *document) error {
	row := t.row()
	profile := set.definition
	if t.point.set == "offline" {
		return nil // vllm bench serve knows no such run
	}
	model := ""
	for _, stage := range []string{"dit", "prefill", "decode"} {
		if m := d.Stack.Stages[stage].Model; m != "" {
			model = m
		}
	}
	keys := metrics.VLLMJSON(profile, t.samples, t.wall, metrics.VLLMRun{
		Date: time.Now(), Label: set.label, Model: model, RequestRate: row.Load.Rate, Burstiness: row.Load.Burstiness,
		MaxConcurrency: row.Concurrency, Percentiles: set.asked, SLOs: set.slos,
		Metadata: map[string]string{"omnitest_target": d.Heading(), "omnitest_row": row.Name, "omnitest_client": row.Client.Verdict},
	})
	if !set.saveDetailed {
		for _, key := range []string{"input_lens", "output_lens", "ttfts", "itls", "start_times", "queue_times", "latencies", "generated_texts", "errors"} {
			delete(keys, key)
		}
	}
	for key := range keys {
		if figure, found := strings.CutSuffix(key, "_ms"); found {
			if i := strings.LastIndex(figure, "_"); i >= 0 && !slices.Contains(set.names, figure[i+1:]) {
				delete(keys, key) // --percentile-metrics leaves out all figures of a name, the mean too
			}
		}
	}
	dir := set.resultDir
	if dir == "" {
		dir = filepath.Join(d.dir, "vllm")
	}
	n := 0
	for i := range d.Rows {
		if d.Rows[i].Name == row.Name {
			n++ // with -count a row comes again
		}
	}
	file := fmt.Sprintf("%s-%d.json", strings.NewReplacer("/", "_", "=", "-").Replace(row.Name), n)
	return report.WriteJSON(filepath.Join(dir, file), keys)
}

// outDir is OMNITEST_OUT, or out/ in the module's root: results are made to be kept, unlike the evidence of a green test.
func outDir(b *testing.B) string {
	b.Helper()
	if os.Getenv(omnitest.EnvOut) != "" {
		return omnitest.OutDir(b)
	}
	dir, err := filepath.Abs("../out/perf")
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

// stages describes a running stack for the document.
func stages(s *omnitest.Stack) map[string]report.Stage {
	all := map[string]report.Stage{}
	for _, stage := range []engine.Stage{engine.Proxy, engine.Prefill, engine.Decode, engine.DiT} {
		in := s.Instance(stage)
		if in == nil {
			continue
		}
		told := report.Stage{Engine: in.Kind, Version: in.Version, Model: in.Model, Simulated: in.Simulated}
		if stage == engine.Prefill || stage == engine.Decode || !in.Simulated && stage == engine.DiT {
			told.DType = dtype(in.Simulated)
		}
		all[string(stage)] = told
	}
	return all
}

// dtype is what an engine was started with, as far as it is known: the reference engines keep their KV in bfloat16, of all others
// -dtype tells.
func dtype(simulated bool) string {
	if set.dtype == "" && simulated {
		return "bfloat16"
	}
	return set.dtype
}

// pids are the processes of each stage; 0 for a stage that was attached by URL and cannot be measured from here.
func pids(s *omnitest.Stack) map[engine.Stage]int {
	all := s.PIDs()
	for stage := range stages(s) {
		if _, ours := all[engine.Stage(stage)]; !ours {
			all[engine.Stage(stage)] = 0
		}
	}
	return all
}
