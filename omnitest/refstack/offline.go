package refstack

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// Offline is the AR engine and the DiT in one process: batches in, pictures out, without HTTP, proxy or handoff. It is to
// the served stack what a script with the model is to a server. The zero value works and starts its engines with the first
// batch; Close ends them. It is safe for concurrent use.
type Offline struct {
	// Faults of the DiT that lie in the picture itself (blank, wrong-size ...) apply. All others need a wire or a second
	// engine and do nothing here.
	Faults Faults
	// Timing as in the served stack: Prefill for prompt tokens, Decode for steps, DiT for pictures.
	Timing     Timing
	PlanTokens int // at most this many tokens of plan; 0: 4096
	Pictures   int // rendered at once; 0: 1, one after the other as vLLM-Omni's offline API does (recorded from 0.26.0)

	mu     sync.Mutex
	pair   *offlinePair
	closed bool
}

// offlinePair is the running engines.
type offlinePair struct {
	ar     *ar.Server
	dit    *dit.Server
	stop   context.CancelFunc
	ended  chan struct{} // closed when the AR engine has ended
	runErr error         // why, readable then
}

// OfflineJob is one picture to make. Prompt is what the AR engine is given, and the DiT paints the plan that comes of it;
// the other fields go to the DiT as they are.
type OfflineJob dit.Job

// OfflineResult is one picture, what it was painted from, and when. FirstToken, PlanEnd and End count from the moment the
// batch was submitted, so End of the last one is the time of the batch; Stages holds the lengths of the DiT's own stages.
type OfflineResult struct {
	dit.Result
	Plan                     string
	PromptTokens, PlanTokens int
	FirstToken, PlanEnd, End time.Duration
}

// Generate runs a batch: all plans as one AR batch, then the pictures in the order of the jobs. Results have that order
// too. The first failure ends the batch, for there is no way to tell an incomplete one from a smaller one.
func (o *Offline) Generate(ctx context.Context, jobs []OfflineJob) ([]OfflineResult, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	engines, err := o.start()
	if err != nil {
		return nil, fmt.Errorf("offline: %w", err)
	}
	began := time.Now()
	results, err := engines.plan(ctx, jobs, o.PlanTokens)
	if err != nil {
		return nil, fmt.Errorf("offline: %w", err)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		rendering sync.WaitGroup
		room      = make(chan struct{}, max(o.Pictures, 1))
	)
	for i := range jobs {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		rendering.Go(func() {
			defer func() { <-room }()
			job := dit.Job(jobs[i])
			job.Prompt = results[i].Plan
			picture, err := engines.dit.Render(ctx, job)
			if err != nil {
				cancel(fmt.Errorf("offline: job %d of %d: dit: %w", i, len(jobs), err))
				return
			}
			results[i].Result, results[i].End = *picture, time.Since(began)
		})
	}
	rendering.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return results, nil
}

// plan runs the AR batch and fills in what it knows of each result.
func (e *offlinePair) plan(ctx context.Context, jobs []OfflineJob, tokens int) ([]OfflineResult, error) {
	if tokens == 0 {
		tokens = 4096 // as the proxy's; the engine shortens it to the context that is left
	}
	batch := make([]ar.Prompt, len(jobs))
	for i, j := range jobs {
		batch[i] = ar.Prompt{Text: j.Prompt, MaxTokens: tokens}
	}
	outputs, err := e.ar.Generate(ctx, batch)
	if err != nil {
		select {
		case <-e.ended:
			err = errors.Join(err, e.runErr)
		default:
		}
		return nil, err
	}
	results := make([]OfflineResult, len(jobs))
	for i, out := range outputs {
		if strings.TrimSpace(out.Text) == "" {
			return nil, fmt.Errorf("job %d of %d: the AR engine produced an empty plan (finish_reason %q)", i, len(jobs), out.FinishReason)
		}
		results[i] = OfflineResult{
			Plan: out.Text, PromptTokens: out.PromptTokens, PlanTokens: out.CompletionTokens,
			FirstToken: out.FirstToken, PlanEnd: out.End,
		}
	}
	return results, nil
}

// start gives the running engines, started by whoever comes first.
func (o *Offline) start() (*offlinePair, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, errors.New("already closed")
	}
	if o.pair != nil {
		return o.pair, nil
	}
	// One engine plays both legs, so it takes the planted times of both.
	timing := o.Timing.Decode
	timing.PrefillPerToken = o.Timing.Prefill.PrefillPerToken
	timing.Jitter = max(o.Timing.Prefill.Jitter, o.Timing.Decode.Jitter)
	timing.GrowPerRequest += o.Timing.Prefill.GrowPerRequest
	timing.BurnPerRequest += o.Timing.Prefill.BurnPerRequest
	engine, err := ar.New(ar.Config{Timing: timing})
	if err != nil {
		return nil, err
	}
	painter, err := dit.New(dit.Config{Faults: o.Faults.DiT, Timing: o.Timing.DiT})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	pair := &offlinePair{ar: engine, dit: painter, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(pair.ended)
		pair.runErr = engine.Run(ctx)
	}()
	o.pair = pair
	return pair, nil
}

// Close ends the engines and waits for them; a batch in flight fails. It returns the death of the AR engine, if it died.
func (o *Offline) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.pair == nil {
		return nil
	}
	o.pair.stop()
	<-o.pair.ended
	return o.pair.runErr
}
