package offline

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// Reference is the reference stack's engines in this process: text by the AR engine alone, or pictures by both. The zero
// value works and starts what a batch needs with the first one. A batch is either all text or all pictures. Its figures are
// a toy model's. Safe for concurrent use.
type Reference struct {
	Faults     refstack.Faults // those of the DiT that lie in the picture itself apply
	Timing     refstack.Timing
	PlanTokens int // at most this many tokens of plan for a picture; 0: 4096
	Pictures   int // rendered at once; 0: 1

	mu       sync.Mutex
	pictures *refstack.Offline
	text     *ar.Server
	stop     context.CancelFunc
	ended    chan struct{} // closed when the text engine has ended
	runErr   error         // why, readable then
	closed   bool
}

var _ Engine = (*Reference)(nil)

// Generate runs a batch. The reference has no margins and no token ids to give, and cannot ignore its end token.
func (r *Reference) Generate(ctx context.Context, jobs []Job) ([]Result, error) {
	if err := validate(jobs); err != nil {
		return nil, err
	}
	pictures := 0
	for i, j := range jobs {
		switch {
		case j.PromptIDs != nil, j.IgnoreEOS, j.Margins:
			return nil, fmt.Errorf("offline: job %d of %d: the reference engine takes no PromptIDs, IgnoreEOS and Margins: %w", i, len(jobs), errors.ErrUnsupported)
		case j.Picture != nil && j.MaxTokens != 0:
			return nil, fmt.Errorf("offline: job %d of %d: the length of a plan is Reference.PlanTokens, not MaxTokens: %w", i, len(jobs), errors.ErrUnsupported)
		case j.Picture != nil:
			pictures++
		}
	}
	switch {
	case len(jobs) == 0:
		return nil, nil
	case pictures == 0:
		return r.texts(ctx, jobs)
	case pictures < len(jobs):
		return nil, fmt.Errorf("offline: %d of %d jobs ask for a picture; a batch is all text or all pictures: %w", pictures, len(jobs), errors.ErrUnsupported)
	}
	return r.paint(ctx, jobs)
}

func (r *Reference) texts(ctx context.Context, jobs []Job) ([]Result, error) {
	engine, err := r.startText()
	if err != nil {
		return nil, err
	}
	batch := make([]ar.Prompt, len(jobs))
	for i, j := range jobs {
		batch[i] = ar.Prompt{Text: j.Prompt, MaxTokens: j.MaxTokens}
	}
	outputs, err := engine.Generate(ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("offline: %w", err)
	}
	results := make([]Result, len(jobs))
	for i, o := range outputs {
		results[i] = Result{
			Text: o.Text, PromptTokens: o.PromptTokens, OutputTokens: o.CompletionTokens, CachedTokens: -1, FinishReason: o.FinishReason,
			FirstToken: o.FirstToken, LastToken: o.End, End: o.End, Clock: EngineClock,
		}
	}
	return results, nil
}

func (r *Reference) paint(ctx context.Context, jobs []Job) ([]Result, error) {
	r.mu.Lock()
	if r.pictures == nil {
		r.pictures = &refstack.Offline{Faults: r.Faults, Timing: r.Timing, PlanTokens: r.PlanTokens, Pictures: r.Pictures}
	}
	engine, closed := r.pictures, r.closed
	r.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	batch := make([]refstack.OfflineJob, len(jobs))
	for i, j := range jobs {
		p := j.Picture
		batch[i] = refstack.OfflineJob{
			Prompt: j.Prompt, W: p.W, H: p.H, Steps: p.Steps, Seed: p.Seed, TrueCFG: p.TrueCFG, Inputs: p.Inputs, Mask: p.Mask,
		}
	}
	painted, err := engine.Generate(ctx, batch)
	if err != nil {
		return nil, err
	}
	results := make([]Result, len(jobs))
	for i, p := range painted {
		results[i] = Result{
			Text: p.Plan, PromptTokens: p.PromptTokens, OutputTokens: p.PlanTokens, CachedTokens: -1,
			FirstToken: p.FirstToken, LastToken: p.PlanEnd, End: p.End, Clock: EngineClock, Picture: p.Image,
		}
	}
	return results, nil
}

var errClosed = errors.New("offline: already closed")

// startText gives the running text engine. refstack.Offline has one too, but none that makes text without a picture.
func (r *Reference) startText() (*ar.Server, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	if r.text != nil {
		return r.text, nil
	}
	// One engine plays both legs, so it takes the planted times of both.
	timing := r.Timing.Decode
	timing.PrefillPerToken = r.Timing.Prefill.PrefillPerToken
	timing.Jitter = max(r.Timing.Prefill.Jitter, r.Timing.Decode.Jitter)
	timing.GrowPerRequest += r.Timing.Prefill.GrowPerRequest
	timing.BurnPerRequest += r.Timing.Prefill.BurnPerRequest
	engine, err := ar.New(ar.Config{Timing: timing})
	if err != nil {
		return nil, fmt.Errorf("offline: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.text, r.stop, r.ended = engine, stop, make(chan struct{})
	go func() {
		defer close(r.ended)
		r.runErr = engine.Run(ctx)
	}()
	return engine, nil
}

// Close ends the engines and waits for them; a batch in flight fails. It returns the death of an engine, if one died.
func (r *Reference) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var errs []error
	if r.pictures != nil {
		errs = append(errs, r.pictures.Close())
	}
	if r.text != nil {
		r.stop()
		<-r.ended
		errs = append(errs, r.runErr)
	}
	return errors.Join(errs...)
}
