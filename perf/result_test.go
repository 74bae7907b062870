package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// results are the documents of this run, one for each mode because the modes define their figures differently. A document
// is rewritten after every point, so that a run which is killed keeps what it had.
var results struct {
	sync.Mutex
	docs  map[report.Mode]*report.Result
	paths []report.Paths
}

// keep adds a row and its handoff windows to the document and reports its figures as the benchmark's metrics.
func keep(b *testing.B, row report.Row, doc report.Result, windows ...report.Window) {
	b.Helper()
	_, name, _ := strings.Cut(b.Name(), "/")
	row.Name = name
	b.ReportMetric(0, "ns/op") // time per load run: says nothing
	for _, m := range report.Metrics(row) {
		b.ReportMetric(m.Value, m.Unit)
	}

	results.Lock()
	defer results.Unlock()
	if results.docs == nil {
		results.docs = map[report.Mode]*report.Result{}
	}
	kept, again := results.docs[row.Mode]
	if !again {
		kept = &doc
		results.docs[row.Mode] = kept
	}
	kept.Rows = append(kept.Rows, row)
	for i, w := range windows {
		w.Name = fmt.Sprintf("%s window %d", name, i+1)
		kept.Handoff = append(kept.Handoff, w)
	}
	paths, err := report.Write(filepath.Join(outDir(b), string(row.Mode)), *kept)
	if err != nil {
		b.Fatal(err)
	}
	if !again {
		results.paths = append(results.paths, paths)
	}
}

// document begins the result of a profile's rows.
func document(p metrics.Profile, target string, simulated bool, stages map[string]report.Stage) report.Result {
	return report.Result{
		Target: target, Simulated: simulated, Stack: report.Stack{Stages: stages},
		Plan: report.Plan{Profile: p.Name, Source: p.Source, LimitS: requestLimit.Seconds()},
	}
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
		if in := s.Instance(stage); in != nil {
			all[string(stage)] = report.Stage{Engine: in.Kind, Version: in.Version, Model: in.Model, Simulated: in.Simulated}
		}
	}
	return all
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

// tally pools the load runs of one benchmark: with a longer -benchtime a point is run more than once.
type tally struct {
	samples  []metrics.Sample
	wall     time.Duration
	peak     int
	inFlight float64 // mean, weighted by time
	handoff  *handoff.Verdict
	windows  []report.Window
}

func (t *tally) add(samples []metrics.Sample, run load.Result) {
	t.samples = append(t.samples, samples...)
	t.inFlight += run.MeanInFlight * run.Wall.Seconds()
	t.wall += run.Wall
	t.peak = max(t.peak, run.Peak)
}

// judged keeps the window, and of all the point's windows the worst verdict: refuted, else inconclusive, else proven.
func (t *tally) judged(e *handoff.Evidence, v handoff.Verdict) {
	t.windows = append(t.windows, report.HandoffWindow("", e, v))
	rank := map[handoff.State]int{handoff.StateProven: 0, handoff.StateInconclusive: 1, handoff.StateRefuted: 2}
	if t.handoff == nil || rank[v.State] > rank[t.handoff.State] {
		t.handoff = &v
	}
}

func (t *tally) verdicts() []report.Verdict {
	if t.handoff == nil {
		return nil
	}
	verdict := report.Verdict{Name: "handoff", Verdict: t.handoff.State.String()}
	for _, r := range t.handoff.Reasons {
		verdict.Reasons = append(verdict.Reasons, r.Text)
	}
	return []report.Verdict{verdict}
}

// row fills in what the samples say. A failed request fails the benchmark: rates over the rest would look like success.
func (t *tally) row(b *testing.B, profile metrics.Profile, row report.Row) report.Row {
	b.Helper()
	row.Summary = metrics.Summarize(profile, t.samples, t.wall)
	row.Requests, row.PeakInFlight, row.Verdicts = len(t.samples), t.peak, t.verdicts()
	// Prompts are cut to bytes; how many tokens that is only the engine's own count tells.
	if tokens, told := row.Summary.InputTokens.Get(); told && row.Summary.OK > 0 {
		row.PromptTokens = int(tokens) / row.Summary.OK
	}
	if t.wall > 0 {
		row.MeanInFlight = t.inFlight / t.wall.Seconds()
	}
	if row.Summary.Failed > 0 {
		b.Errorf("%d of %d requests failed: %s", row.Summary.Failed, row.Summary.Requests, strings.Join(row.Summary.Failures, "; "))
	}
	return row
}
