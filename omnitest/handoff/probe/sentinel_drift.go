package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
)

// checksUnderLoad is how often Drift asks its sentinels while it loads the stack: what comes with load alone does not hit every
// request. loadCompared is how many answers of the load itself are held against prefill alone afterwards.
const (
	checksUnderLoad = 3
	loadCompared    = 32
)

// Drift asks sentinels before, during and after a load that it makes itself: the highest Concurrency (nil: 8) of requests at
// once, fresh prompts of Tokens tokens, for as long as the sentinels are asked three times. Afterwards up to 32 answers of the
// load are held against prefill alone as well. See Sentinels for what is compared, and Check for the verdict.
//
// With an Entry it sends 1 + 5 x 3 = 16 requests per sentinel (Rounds, 0: 4), by direct legs 27; besides as many for the load
// as go in that time, each with its own direct legs where there is no entry, and up to 32 controls. It leaves them all in the
// prefix caches.
//
// A load request that fails is an error, unless the answers refute.
func Drift(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	x := &Sentinels{source: s, options: o}
	if err := x.ask(ctx, p); err != nil {
		return p.result, fmt.Errorf("drift: %w", err)
	}
	var phases []sentinelPhase
	check := func(name string) error {
		phase, err := x.check(ctx, p, name)
		if n := len(phases); n > 0 && phases[n-1].name == name {
			phases[n-1].checks = append(phases[n-1].checks, phase.checks...)
		} else {
			phases = append(phases, phase)
		}
		return err
	}
	if err := check("before"); err != nil {
		return p.result, fmt.Errorf("drift: %w", err)
	}
	lanes := slices.Max(p.levels(8))
	load := p.startLoad(ctx, lanes)
	for range checksUnderLoad {
		if err = check("during load"); err != nil {
			break
		}
	}
	load.end()
	if err == nil {
		err = check("after")
	}
	if err == nil {
		var compared sentinelPhase
		compared, err = load.compare(ctx, p)
		phases = append(phases, compared)
	}
	if err == nil && len(load.failed) > 0 {
		err = fmt.Errorf("%d of %d requests of the load failed: %w", len(load.failed), len(load.failed)+len(load.made), load.failed[0])
	}
	v := x.judge(phases)
	v.Numbers["load.requests"] = float64(len(load.made))
	if err != nil && v.State != handoff.StateRefuted {
		return p.result, fmt.Errorf("drift: %w", err)
	}
	v.Notes = append(v.Notes, fmt.Sprintf("load: %d requests, %d at once", len(load.made), lanes))
	p.result.Verdict = v
	return p.result, nil
}

// pressure is the load of a Drift.
type pressure struct {
	stop  chan struct{}
	lanes sync.WaitGroup

	mu     sync.Mutex
	made   []pressed
	failed []error
}

type pressed struct {
	request api.CompletionRequest
	got     *api.Text
}

// startLoad keeps lanes requests under way until the load is ended. A lane gives up at its first failure: it would hammer an
// engine that refuses at once.
func (p *probe) startLoad(ctx context.Context, lanes int) *pressure {
	l := &pressure{stop: make(chan struct{})}
	for lane := range lanes {
		l.lanes.Go(func() {
			for {
				r := p.fresh(p.Tokens)
				t, err := p.through(ctx, p.Entry != nil, fmt.Sprintf("load %d", lane+1), r)
				l.mu.Lock()
				if err != nil {
					l.failed = append(l.failed, err)
				} else {
					l.made = append(l.made, pressed{r, t})
				}
				l.mu.Unlock()
				select {
				case <-l.stop:
					return
				default:
				}
				if err != nil {
					return
				}
			}
		})
	}
	return l
}

func (l *pressure) end() {
	close(l.stop)
	l.lanes.Wait()
}

// compare holds answers of the load against prefill alone, evenly over its length.
func (l *pressure) compare(ctx context.Context, p *probe) (sentinelPhase, error) {
	phase := sentinelPhase{name: "of the load itself"}
	if len(l.made) == 0 {
		return phase, errors.Join(append([]error{errors.New("no request of the load was answered")}, l.failed...)...)
	}
	n := min(loadCompared, len(l.made))
	for i := range n {
		x := l.made[i*len(l.made)/n]
		control, err := p.alone(ctx, fmt.Sprintf("control of load answer %d", i+1), x.request)
		if err != nil {
			return phase, err
		}
		phase.checks = append(phase.checks, sentinelCheck{fmt.Sprintf("answer %d", i+1), part(control, x.got)})
	}
	return phase, nil
}
