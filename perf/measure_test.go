package perf

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/canary"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/report/progress"
)

// requestLimit is the deadline of one request.
const requestLimit = 5 * time.Minute

// mostConnections that are opened ahead for an open loop without a cap.
const mostConnections = 512

// task makes the requests of a row and judges their answers. Requests are numbered as load numbers its calls: below 0 are warm-ups.
type task interface {
	// prepare makes the requests from .. to-1 now, so that none is made while the clock runs. Every run has another seed.
	prepare(seed uint64, from, to int) error
	// call sends request i and keeps its answer.
	call(ctx context.Context, i int) (metrics.Sample, error)
	// observe says what the handoff window has to know about request i.
	observe(i int) handoff.Observation
	// judge looks at the answer to a request that succeeded, after the load. An error makes it a failed one: a rate of wrong
	// pictures is no rate.
	judge(i int) error
	// settle waits, when the load is over, for what is done with answers in the background; done gives back what the run held.
	settle() error
	done() error
	// tokens are those that the answers of this run have by the server's own count; not ok: not every answer told.
	tokens(from, to int) (n int, ok bool)
	// verdicts on the handoffs of the window.
	verdicts(e *handoff.Evidence) []handoff.Verdict
}

// point is one row to measure.
type point struct {
	set    string // the document it belongs to: "online", "prefill", "decode"
	row    report.Row
	plan   load.Plan // without its warm-up, which has a closed loop of its own
	warmup int
	client *api.Client
	stack  *omnitest.Stack
	window bool         // a handoff is to be proven
	stage  engine.Stage // whose counters the tokens are held against: "": decode
	task   task
}

// runs counts load runs: each has a seed of its own, as a prompt that was sent before is found in a prefix cache.
var runs atomic.Uint64

// measure is a benchmark: one iteration is one load run, and the runs of one benchmark are one row.
func measure(b *testing.B, p point) *tally {
	b.Helper()
	all := tally{point: &p, name: cleanName(b.Name())}
	p.row.Load.Seed = int64(set.seed + runs.Load())
	bar := progress.Start(os.Stderr, all.name, p.plan.Requests)
	defer bar.Stop()
	for b.Loop() {
		if err := all.run(b, bar); err != nil {
			b.Fatal(err)
		}
	}
	bar.Stop()
	all.finish(b)
	return &all
}

// run is one load run: window, warm-up, canary, connections, load, and then, off the path, the judgement of every answer.
func (t *tally) run(b *testing.B, bar *progress.Run) error {
	p, ctx := t.point, b.Context()
	if err := p.task.prepare(set.seed+runs.Add(1)-1, -p.warmup, p.plan.Requests); err != nil {
		return err
	}
	log, err := eventLog(b, p.set)
	if err != nil {
		return err
	}
	var w *handoff.Window
	if p.window || p.stage != "" {
		// The window is passive: two scrapes, no request of its own. Its cost stays outside the load's own clock.
		if w, err = handoff.Open(ctx, p.stack.Handoff()); err != nil && p.window {
			return err
		} else if err != nil {
			t.says("tokens were not held against the server's counters: %v", err)
		}
	}
	if p.warmup > 0 {
		warm := load.Plan{Concurrency: min(p.warmup, cmp.Or(p.plan.Concurrency, p.warmup)), Requests: p.warmup, Limit: requestLimit}
		_, result, err := load.Collect(ctx, warm, func(ctx context.Context, i int) (metrics.Sample, error) { return p.task.call(ctx, i-p.warmup) })
		if err != nil {
			return fmt.Errorf("warm-up: %w", err)
		}
		if result.Failed > 0 {
			t.says("%d of %d warm-up requests failed", result.Failed, result.Sent)
		}
	}
	meter := meterOf(p.stack)
	bird, err := canary.Start(ctx, canary.Options{Client: p.client})
	if err != nil {
		return err
	}
	if err := meter.Start(ctx, 50*time.Millisecond); err != nil {
		return err
	}
	connected, err := p.client.Connect(ctx, p.connections())
	if err != nil {
		t.says("connections: %v", err)
	}
	release := load.HoldGC(0)
	samples, run, err := load.Converse(ctx, p.plan, load.Sessions{}, func(ctx context.Context, turn load.Turn[metrics.Sample]) (metrics.Sample, error) {
		s, err := p.task.call(ctx, turn.Index)
		s.Due, s.Queue = turn.Due, turn.Queue
		if lost := log.Add(t.name, &s); lost != nil && err == nil {
			err = lost
		}
		bar.Done(err != nil)
		return s, err
	})
	release()
	t.hardware(meter.Stop(), run.Began, len(samples))
	t.client(bird.Stop(run, samples...))
	t.connected = max(t.connected, connected.Took)
	if err != nil {
		t.says("%v", err)
		b.Error(err)
	}
	if err := p.task.settle(); err != nil {
		t.says("%v", err)
	}
	for i := range samples {
		s := &samples[i]
		s.Abandoned = run.Calls[i].Leaving && run.Calls[i].State != load.Failed
		if s.Err = run.Calls[i].Err; s.Err != nil || s.Abandoned {
			continue
		}
		if s.Err = p.task.judge(i); s.Err != nil {
			// The log has it as it came. Under this name it has what is wrong with it.
			if err := log.Add(t.name+"#refused", s); err != nil {
				return err
			}
		}
	}
	if w != nil {
		for i := -p.warmup; i < len(samples); i++ {
			w.Observe(p.task.observe(i))
		}
		e, err := w.Close(ctx)
		if err != nil {
			return err
		}
		if p.window {
			t.judged(b, e)
		}
		if err := t.counted(e); err != nil {
			b.Error(err)
		}
	}
	t.add(samples, run)
	return p.task.done()
}

// connections that the run can need at once.
func (p *point) connections() int {
	n := p.plan.Requests
	if p.plan.Concurrency > 0 {
		n = min(n, p.plan.Concurrency)
	}
	return min(n, mostConnections)
}

// judged keeps the window, its verdicts, and what the window knows of the time between the stages.
func (t *tally) judged(b *testing.B, e *handoff.Evidence) {
	b.Helper()
	verdicts := t.point.task.verdicts(e)
	t.windows = append(t.windows, report.HandoffWindow("", e, verdicts...))
	for _, v := range verdicts {
		t.worst(v)
		if err := v.Err(); err != nil {
			b.Error(err)
		}
	}
	t.records = append(t.records, e.Flow.Records...)
}

// counted holds the output tokens of a run by the answers' own count against the counter of the stage that generated them.
func (t *tally) counted(e *handoff.Evidence) error {
	n, told := t.point.task.tokens(-t.point.warmup, t.point.plan.Requests)
	dialect, stage := handoff.Known(e.Dialect), &e.Decode
	if t.point.stage == engine.Prefill {
		stage = &e.Prefill
	}
	if !told || dialect == nil {
		return nil
	}
	generated, ok := stage.Delta(dialect.Generated)
	if !ok {
		t.says("output tokens were not held against the server's: its counter is %s", stage.Told(dialect.Generated))
		return nil
	}
	t.tokens = append(t.tokens, tokenCount{float64(n), generated})
	err := metrics.TokensAgree("output", metrics.Of(float64(n)), generated)
	if err != nil {
		t.says("%v", err)
	}
	return err
}

// cleanName is the row's name: the benchmark's without "Benchmark" and the words before the first slash.
func cleanName(name string) string {
	if _, rest, found := strings.Cut(name, "/"); found {
		return rest
	}
	return strings.TrimPrefix(name, "Benchmark")
}
