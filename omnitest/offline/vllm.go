package offline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// VLLM is vllm.LLM in a Python process of its own, which starts with Load or with the first batch. Safe for concurrent use;
// batches run one after the other. An engine that died stays dead: the next batch fails, and a new VLLM is due.
type VLLM struct {
	Python string         // of the environment that vLLM is installed in; "": python3 in PATH
	Model  string         // folder, or name on a hub
	Args   map[string]any // of vllm.LLM: "dtype", "max_model_len", "enforce_eager", "tensor_parallel_size" ...
	Env    []string       // added to our own environment, later entries win
	// Log gets everything that Python and vLLM print; "": runner.log in a new temporary folder, which stays as evidence.
	Log string
	// Limits: for start and load together, for a batch (a caller's earlier deadline wins), for an orderly end.
	LoadTimeout  time.Duration // 0: 10 minutes
	BatchTimeout time.Duration // 0: 10 minutes
	StopGrace    time.Duration // 0: 20 s, as vLLM stops its workers one after the other

	mu      sync.Mutex    // never held while waiting
	loading chan struct{} // capacity 1; full while somebody starts the process
	run     *runner
	loaded  *Loaded
	closed  bool
}

var _ Engine = (*VLLM)(nil)

// Loaded is what is known of an engine that is ready.
type Loaded struct {
	Engine, Version string // "vllm", "0.32.0"
	Python          string // version
	// Took is from before the process was started to ready; Load is the part in which the model was loaded, by Python's clock.
	Took, Load time.Duration
}

// Load starts the engine and waits until it can take batches. When it already runs, Load gives what the first one gave. A
// load that failed leaves nothing running and may be tried again.
func (v *VLLM) Load(ctx context.Context) (Loaded, error) {
	_, loaded, err := v.start(ctx)
	return loaded, err
}

func (v *VLLM) start(ctx context.Context) (*runner, Loaded, error) {
	v.mu.Lock()
	if v.loading == nil {
		v.loading = make(chan struct{}, 1)
	}
	v.mu.Unlock()
	select {
	case v.loading <- struct{}{}:
		defer func() { <-v.loading }()
	case <-ctx.Done():
		return nil, Loaded{}, &Error{Kind: kindOf(ctx), Op: "load", Message: "waiting for a load that is under way: " + context.Cause(ctx).Error(), cause: ctx.Err()}
	}
	v.mu.Lock()
	run, loaded, closed := v.run, v.loaded, v.closed
	v.mu.Unlock()
	switch {
	case closed:
		return nil, Loaded{}, &Error{Kind: Closed, Op: "load", Message: "the engine was closed"}
	case loaded != nil:
		return run, *loaded, nil
	}

	ctx, cancel := limited(ctx, cmp.Or(v.LoadTimeout, 10*time.Minute))
	defer cancel()
	began := time.Now()
	run, err := launch(v.Python, v.Model, v.Env, v.Log)
	if err != nil {
		return nil, Loaded{}, err
	}
	v.mu.Lock()
	v.run, closed = run, v.closed // known now, so that Close can end a load that takes minutes
	v.mu.Unlock()
	if closed {
		run.fail(Closed, "the engine was closed")
	}
	python, err := run.connect(ctx)
	var a loadAnswer
	if err == nil {
		err = run.call(ctx, "load", func(id int) any { return loadRequest{id, "load", v.Model, v.Args} }, &a)
	}
	if err != nil {
		if stopErr := run.stop(0); stopErr != nil {
			err = fmt.Errorf("%w; and then: %w", err, stopErr)
		}
		v.mu.Lock()
		v.run = nil
		v.mu.Unlock()
		return nil, Loaded{}, err
	}
	loaded = &Loaded{Engine: a.Engine, Version: a.Version, Python: python, Took: time.Since(began), Load: seconds(a.Took)}
	v.mu.Lock()
	v.loaded = loaded
	v.mu.Unlock()
	return run, *loaded, nil
}

// Generate runs a batch, and loads the engine before the first. It makes text only. A batch whose caller went away or whose
// time ran out is not stopped in the engine, since vllm.LLM cannot; the next batch waits for its end.
func (v *VLLM) Generate(ctx context.Context, jobs []Job) ([]Result, error) {
	if err := validate(jobs); err != nil {
		return nil, err
	}
	wire := make([]wireJob, len(jobs))
	for i, j := range jobs {
		if j.Picture != nil {
			return nil, fmt.Errorf("offline: job %d of %d asks for a picture, and vllm.LLM makes text only: %w", i, len(jobs), errors.ErrUnsupported)
		}
		wire[i] = wireJob{j.Prompt, j.PromptIDs, cmp.Or(j.MaxTokens, defaultMaxTokens), j.IgnoreEOS, j.Margins}
	}
	if len(jobs) == 0 {
		return nil, nil
	}
	run, _, err := v.start(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := limited(ctx, cmp.Or(v.BatchTimeout, 10*time.Minute))
	defer cancel()
	var a generateAnswer
	if err := run.call(ctx, "generate", func(id int) any { return generateRequest{id, "generate", wire} }, &a); err != nil {
		return nil, err
	}
	if len(a.Results) != len(jobs) {
		return nil, run.fail(Protocol, "%d results for %d jobs", len(a.Results), len(jobs)).in("generate")
	}
	results := make([]Result, len(jobs))
	for i := range a.Results {
		job := jobs[i]
		job.MaxTokens = wire[i].MaxTokens
		if results[i], err = a.Results[i].result(&job); err != nil {
			return nil, run.fail(Protocol, "result %d of %d: %v", i, len(jobs), err).in("generate")
		}
	}
	return results, nil
}

// PID of the Python process, whose children are the engine's workers; 0 before Load. For a hw.Meter.
func (v *VLLM) PID() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run == nil {
		return 0
	}
	return v.run.process.PID()
}

// LogPath is the log of the running engine, "" before Load.
func (v *VLLM) LogPath() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run == nil {
		return ""
	}
	return v.run.process.LogPath()
}

// Close ends the engine and everything that it started. A load or batch in flight fails at once. The error is the engine's
// death, if it died before, or what could not be stopped. Further calls do nothing.
func (v *VLLM) Close() error {
	v.mu.Lock()
	run, again := v.run, v.closed
	v.closed = true
	v.mu.Unlock()
	if again || run == nil {
		return nil
	}
	grace := cmp.Or(v.StopGrace, 20*time.Second)
	died := run.end(grace)
	return errors.Join(died, run.stop(grace))
}

// limited bounds a call. The cause tells our limit from the caller's deadline.
func limited(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, errLimit(limit))
}

// kindOf a context's end.
func kindOf(ctx context.Context) Kind {
	if errors.Is(ctx.Err(), context.Canceled) {
		return Canceled
	}
	return Timeout
}

// errLimit is the context cause of a call that outlived its limit.
type errLimit time.Duration

func (e errLimit) Error() string { return "limit of " + time.Duration(e).String() + " reached" }
