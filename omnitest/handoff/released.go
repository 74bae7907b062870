package handoff

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// Usage is how the KV pools stood while the stack was idle.
type Usage struct {
	Prefill, Decode Pool
}

// Pool is one engine's share of a Usage.
type Pool struct {
	Usage   float64 // kv_cache_usage_perc, 0..1
	Expired float64 // tickets that expired since the engine started; -1: not told
}

// ReadUsage waits until both stages are idle and notes how full their KV pools are. A stage that does not tell how many
// requests run and wait and how full its pool is gives an error.
func ReadUsage(ctx context.Context, s Source) (Usage, error) {
	p, d := newWatcher("prefill", s.Prefill, s), newWatcher("decode", s.Decode, s)
	perr, derr := both(p, d, func(w *watcher) error { return w.quiet(ctx, s.idleWithin()) })
	if err := errors.Join(perr, derr); err != nil {
		return Usage{}, fmt.Errorf("read KV usage: %w", err)
	}
	var b Usage
	b.Prefill, perr = p.pool(p.last)
	b.Decode, derr = d.pool(d.last)
	if err := errors.Join(perr, derr); err != nil {
		return Usage{}, fmt.Errorf("read KV usage: %w", err)
	}
	return b, nil
}

func (w *watcher) pool(s *prom.Snapshot) (Pool, error) {
	// A load that nobody told is not 0: an engine without these gauges would look idle and empty for ever.
	for _, x := range []Series{w.dialect.Usage, w.dialect.Running, w.dialect.Waiting} {
		if _, ok := s.Sum(x.Name, x.Labels); !ok {
			return Pool{}, fmt.Errorf("%s: series absent: %s", w.stage, x)
		}
	}
	usage, _ := s.Sum(w.dialect.Usage.Name, w.dialect.Usage.Labels)
	p := Pool{Usage: usage, Expired: -1}
	if n, ok := s.Sum(w.dialect.Expired.Name, w.dialect.Expired.Labels); ok && w.dialect.Expired.Name != "" {
		p.Expired = n
	}
	return p, nil
}

// Load is what one stage tells of itself at one moment, without waiting for anything.
type Load struct {
	Running, Waiting float64 // requests
	Pool
	Finished float64 // requests since the engine started; -1: not told
	Bytes    float64 // that decode's connector has counted since the engine started; -1: not told
}

// ReadLoad scrapes one stage, "prefill" or "decode", once. Like ReadUsage it gives an error where a gauge is missing.
func ReadLoad(ctx context.Context, s Source, stage string) (Load, error) {
	e := s.Prefill
	if stage == "decode" {
		e = s.Decode
	}
	w := newWatcher(stage, e, s)
	page, err := w.scrape(ctx)
	if err != nil {
		return Load{}, fmt.Errorf("read load: %w", err)
	}
	l := Load{Bytes: -1, Finished: -1}
	if l.Pool, err = w.pool(page); err != nil {
		return Load{}, fmt.Errorf("read load: %w", err)
	}
	l.Running, _ = page.Sum(w.dialect.Running.Name, w.dialect.Running.Labels)
	l.Waiting, _ = page.Sum(w.dialect.Waiting.Name, w.dialect.Waiting.Labels)
	if n, ok := page.Sum(w.dialect.Finished.Name, w.dialect.Finished.Labels); ok && w.dialect.Finished.Name != "" {
		l.Finished = n
	}
	if n, ok := page.Sum(w.dialect.Bytes.Name, w.dialect.Bytes.Labels); ok && w.dialect.Bytes.Name != "" {
		l.Bytes = n
	}
	return l, nil
}

// Leak is a KV pool that did not come back to its baseline in time.
type Leak struct {
	Stage            string
	Usage, Baseline  float64 // 0..1
	Running, Waiting float64
	Expired          float64 // tickets that expired meanwhile, on prefill; -1: not told
	Within           time.Duration
}

func (l *Leak) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s did not release its KV blocks within %v: usage %.4f, baseline %.4f (%+.4f), %.0f running, %.0f waiting",
		l.Stage, l.Within, l.Usage, l.Baseline, l.Usage-l.Baseline, l.Running, l.Waiting)
	if l.Expired >= 0 {
		fmt.Fprintf(&b, ", %.0f ticket%s expired meanwhile", l.Expired, plural(l.Expired))
	}
	return b.String()
}

// usageSlack forgives rounding of the gauge; one block of an 8,192-block pool is 1.2e-4.
const usageSlack = 1e-6

// BlocksReleased waits until nothing runs or waits on prefill and decode and both KV pools are back at the baseline. Give it
// the lease and a margin: until the lease ends, prefill rightly keeps the blocks of a ticket that nobody pulled. The error
// joins one *Leak per stage that still holds on.
func BlocksReleased(ctx context.Context, s Source, b Usage, within time.Duration) error {
	p, d := newWatcher("prefill", s.Prefill, s), newWatcher("decode", s.Decode, s)
	perr := make(chan error, 1)
	go func() { perr <- p.released(ctx, b.Prefill, within) }()
	derr := d.released(ctx, b.Decode, within)
	return errors.Join(<-perr, derr)
}

func (w *watcher) released(ctx context.Context, base Pool, within time.Duration) error {
	for deadline := time.Now().Add(within); ; {
		last := !time.Now().Before(deadline)
		s, err := w.scrape(ctx)
		if err != nil {
			return fmt.Errorf("blocks released: %w", err)
		}
		now, err := w.pool(s)
		if err != nil {
			return fmt.Errorf("blocks released: %w", err)
		}
		running, _ := s.Sum(w.dialect.Running.Name, w.dialect.Running.Labels)
		waiting, _ := s.Sum(w.dialect.Waiting.Name, w.dialect.Waiting.Labels)
		if running+waiting == 0 && now.Usage <= base.Usage+usageSlack {
			return nil
		}
		if last {
			l := &Leak{w.stage, now.Usage, base.Usage, running, waiting, -1, within}
			if w.stage == "prefill" && now.Expired >= 0 && base.Expired >= 0 {
				l.Expired = now.Expired - base.Expired
			}
			return l
		}
		if err := sleep(ctx, w.settle); err != nil {
			return fmt.Errorf("blocks released: %s: %w", w.stage, err)
		}
	}
}
