// Package offline runs a model in batches without a server: a list of jobs in, the list of results out, no HTTP, no proxy and
// no handoff between. It is the yardstick for the served stack (what does serving cost?) and the users' own first benchmark.
//
//	engine := &offline.VLLM{Python: "venv/bin/python", Model: "Qwen/Qwen3-8B"}
//	defer engine.Close()
//	results, err := engine.Generate(ctx, []offline.Job{{Prompt: "A red fox", MaxTokens: 64}})
//
// VLLM is vllm.LLM in a Python process; Reference is the reference stack's engines in this one. Decoding is greedy in both:
// what a batch gives must not depend on its size, and Same checks that.
package offline

import (
	"context"
	"fmt"
	"image"
	"time"
)

// Engine runs batches. Generate gives results in the order of the jobs, or an error for the whole batch: there is no way to
// tell an incomplete batch from a smaller one. It may be called from several goroutines; whether batches then overlap or
// wait for each other is the engine's business. Close ends the engine, and a batch in flight fails.
type Engine interface {
	Generate(ctx context.Context, jobs []Job) ([]Result, error)
	Close() error
}

// Job is one prompt to continue, by greedy decoding. Either Prompt or PromptIDs.
type Job struct {
	Prompt    string
	PromptIDs []int
	MaxTokens int  // 0: 16, as over HTTP
	IgnoreEOS bool // go on to MaxTokens, so that every run of a benchmark makes the same number of tokens
	Margins   bool // fill Result.Margins; costs time, so not in a measured batch
	// Picture asks for a picture: the text is then the plan that it is painted from. nil: text only.
	Picture *Picture
}

// Picture are the parameters of a picture. Zero sizes and steps mean the engine's own default.
type Picture struct {
	W, H    int // pixels
	Steps   int
	Seed    int64
	TrueCFG float64
	Inputs  []image.Image // none: generation; else an edit
	Mask    image.Image   // where an edit may change; nil: left to the model
}

// Result is what came of one job. Times count from the moment the batch was submitted, so that the largest End is the time
// of the batch.
type Result struct {
	Text         string
	TokenIDs     []int // nil: the engine doesn't tell
	PromptTokens int
	OutputTokens int       // with the end token, where one ended the text
	CachedTokens int       // of the prompt, found in a prefix cache; -1: the engine doesn't tell
	FinishReason string    // "stop", "length"; "": the engine doesn't tell
	Margins      []float64 // per output token, best minus second best in nats, NaN without a second; nil: not asked for

	FirstToken time.Duration // NotMeasured: the engine doesn't tell
	LastToken  time.Duration
	End        time.Duration // LastToken, or the picture's end
	Clock      Clock

	Picture *image.RGBA // nil: none was asked for
}

// NotMeasured stands for a time that is not known. It is never 0, which would be a very good time.
const NotMeasured time.Duration = -1

// Clock says what a result's times are.
type Clock string

const (
	// EngineClock: the engine noted the times of each request.
	EngineClock Clock = "engine"
	// BatchClock: only the batch as a whole was timed. FirstToken is NotMeasured, LastToken and End are the batch's end and
	// so an upper bound for every job but the slowest.
	BatchClock Clock = "batch"
)

// defaultMaxTokens of a job that names none, as vLLM's completions have it.
const defaultMaxTokens = 16

// validate finds what no engine could run.
func validate(jobs []Job) error {
	for i := range jobs {
		j := &jobs[i]
		switch {
		case j.Prompt == "" && len(j.PromptIDs) == 0:
			return fmt.Errorf("offline: job %d of %d has an empty prompt", i, len(jobs))
		case j.Prompt != "" && j.PromptIDs != nil:
			return fmt.Errorf("offline: job %d of %d has both Prompt and PromptIDs", i, len(jobs))
		case j.MaxTokens < 0:
			return fmt.Errorf("offline: job %d of %d: MaxTokens is %d", i, len(jobs), j.MaxTokens)
		}
	}
	return nil
}
