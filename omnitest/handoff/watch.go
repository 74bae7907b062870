package handoff

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// plain is the client for scrapes and the ledger where the api.Client brings none: no proxy from the environment.
var plain = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second}}

// scrapeLimit bounds one scrape: an engine that hangs still accepts connections.
const scrapeLimit = 10 * time.Second

// watcher scrapes one stage again and again and keeps what must not be lost between scrapes: every fall of a counter.
// Comparing only the first with the last scrape would miss a restart whose counters have grown past the old ones.
type watcher struct {
	stage       string // "prefill", "decode"
	url         string
	client      *http.Client
	dialect     *Dialect // with the labels of this stage
	series      []Series // what is kept, with those labels
	names       []string // and under which name each of them is
	settle      time.Duration
	sparing     bool // Source.Sparing
	first, last *prom.Snapshot
	falls       []prom.Fall
	fell        [2]*prom.Snapshot // the pages before and after the first fall
	alternates  bool              // and a later one was like the former again
	odd         []prom.Oddity     // of all pages, each series once
}

func newWatcher(stage string, e Endpoint, s Source) *watcher {
	w := &watcher{stage: stage, url: e.metricsURL(), client: plain}
	if e.API != nil && e.API.HTTP != nil {
		w.client = e.API.HTTP
	}
	w.speak(s)
	return w
}

// speak makes it read the source's dialect from here on. The pages that it has stay.
func (w *watcher) speak(s Source) {
	d := s.dialect()
	w.dialect, w.settle, w.sparing, w.names = d.staged(w.stage), s.settle(), s.Sparing, nil
	kept := (*Dialect).prefillSeries
	if w.stage == "decode" {
		kept = (*Dialect).decodeSeries
	}
	w.series = kept(w.dialect)
	for _, x := range kept(d) {
		w.names = append(w.names, x.String())
	}
}

// begin makes the latest scrape the start of the window.
func (w *watcher) begin() { w.first, w.falls, w.odd = w.last, nil, w.last.Oddities() }

func (w *watcher) scrape(ctx context.Context) (*prom.Snapshot, error) {
	if w.url == "" {
		return nil, fmt.Errorf("%s: no metrics URL given", w.stage)
	}
	ctx, cancel := context.WithTimeout(ctx, scrapeLimit)
	defer cancel()
	s, err := prom.Scrape(ctx, w.client, w.url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.stage, err)
	}
	if w.last != nil && len(w.falls) == 0 {
		if w.falls = prom.Resets(w.last, s); len(w.falls) > 0 {
			w.fell = [2]*prom.Snapshot{w.last, s}
		}
	}
	for _, o := range s.Oddities() {
		if !slices.ContainsFunc(w.odd, func(x prom.Oddity) bool { return x.Series == o.Series }) && len(w.odd) < mostOdd {
			w.odd = append(w.odd, o)
		}
	}
	w.last = s
	return s, nil
}

// recovers looks whether counters that fell stand where they stood before: a restarted engine cannot do that while it is idle,
// two engines behind one URL do it with every second page or so. It tries a few times and gives no verdict of its own.
func (w *watcher) recovers(ctx context.Context) {
	for range 4 {
		if w.fell[0] == nil || w.alternates || w.sparing || sleep(ctx, w.settle) != nil {
			return
		}
		s, err := w.scrape(ctx)
		if err != nil {
			return // the next one to scrape says so
		}
		w.alternates = prom.Alternates(w.fell[0], w.fell[1], s)
	}
}

// errBusy is a stage that did not become quiet in time.
type errBusy struct {
	stage, state string
	within       time.Duration
}

func (e *errBusy) Error() string {
	return fmt.Sprintf("%s never got idle within %v: %s", e.stage, e.within, e.state)
}

// quiet waits until nothing runs or waits and no counter moved between two scrapes. It returns early, without error, when
// a counter fell: the window is spoiled and waiting cannot mend it.
func (w *watcher) quiet(ctx context.Context, within time.Duration) error {
	if w.sparing {
		return w.once(ctx)
	}
	deadline := time.Now().Add(within)
	var before *prom.Snapshot
	for failures := 0; ; {
		s, err := w.scrape(ctx)
		state := ""
		switch {
		case err != nil:
			if failures++; failures == 3 || ctx.Err() != nil {
				return err // three in a row: not a hiccup, the stage is gone
			}
			state, before = err.Error(), nil
		default:
			failures = 0
			var busy bool
			state, busy = w.load(s)
			switch {
			case len(w.falls) > 0:
				return nil
			case busy:
				before = nil
			case before != nil && w.same(before, s):
				return nil
			default:
				state, before = "its counters still move", s
			}
		}
		if !time.Now().Before(deadline) {
			return &errBusy{w.stage, state, within}
		}
		if err := sleep(ctx, w.settle); err != nil {
			return fmt.Errorf("%s: waiting for idle: %w", w.stage, err)
		}
	}
}

// once is quiet for a Sparing source: what there is to see after one settling time.
func (w *watcher) once(ctx context.Context) error {
	if err := sleep(ctx, w.settle); err != nil {
		return fmt.Errorf("%s: waiting for idle: %w", w.stage, err)
	}
	s, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	if state, busy := w.load(s); busy {
		return &errBusy{w.stage, state, w.settle}
	}
	return nil
}

// load says what the gauges tell. An absent gauge tells nothing; the counters must then decide alone.
func (w *watcher) load(s *prom.Snapshot) (state string, busy bool) {
	running, _ := s.Sum(w.dialect.Running.Name, w.dialect.Running.Labels)
	waiting, _ := s.Sum(w.dialect.Waiting.Name, w.dialect.Waiting.Labels)
	return fmt.Sprintf("%.0f running, %.0f waiting", running, waiting), running+waiting > 0
}

func (w *watcher) same(a, b *prom.Snapshot) bool {
	for _, x := range w.series {
		va, oka := a.Sum(x.Name, x.Labels)
		vb, okb := b.Sum(x.Name, x.Labels)
		if va != vb || oka != okb {
			return false
		}
	}
	return true
}

// delta is the change of a series from the start of the window to the latest scrape.
func (w *watcher) delta(x Series) (float64, bool) {
	if w.first == nil || w.last == nil || x.Name == "" {
		return 0, false
	}
	v, state := prom.Delta(w.first, w.last, x.Name, x.Labels)
	return v, state == prom.Present
}

// ledger turns the scrapes into the stage's part of the evidence.
func (w *watcher) ledger(problem error) Stage {
	s := Stage{MetricsURL: w.url, Counters: make(map[string]Counter, len(w.series))}
	var busy *errBusy
	if problem != nil && !errors.As(problem, &busy) {
		// The stage is gone: its last page is from before, and its differences would read as zeros that nobody measured.
		return Stage{MetricsURL: w.url, Problem: problem.Error()}
	}
	for i, x := range w.series {
		v, state := prom.Delta(w.first, w.last, x.Name, x.Labels)
		s.Counters[w.names[i]] = Counter{state, v}
	}
	s.Page = w.page()
	for _, f := range w.falls {
		s.Resets = append(s.Resets, f.String())
	}
	if problem != nil {
		s.Problem = problem.Error()
	}
	s.UsageBefore, s.UsageAfter = w.usage(w.first), w.usage(w.last)
	return s
}

func (w *watcher) usage(s *prom.Snapshot) *float64 {
	if v, ok := s.Sum(w.dialect.Usage.Name, w.dialect.Usage.Labels); ok {
		return &v
	}
	return nil
}

// both runs f on two watchers at once and joins their errors, prefill's first.
func both(p, d *watcher, f func(*watcher) error) (perr, derr error) {
	done := make(chan struct{})
	go func() { defer close(done); perr = f(p) }()
	derr = f(d)
	<-done
	return perr, derr
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
