package offline

import (
	"fmt"
	"math"
	"time"
)

// protocol is the version of the language that runner.py and this package speak; see the head of runner.py.
const protocol = 1

type hello struct {
	Protocol int
	PID      int
	Python   string
}

type loadRequest struct {
	ID    int            `json:"id"`
	Op    string         `json:"op"`
	Model string         `json:"model"`
	Args  map[string]any `json:"args,omitempty"`
}

type loadAnswer struct {
	Engine, Version string
	Took            float64
}

type generateRequest struct {
	ID   int       `json:"id"`
	Op   string    `json:"op"`
	Jobs []wireJob `json:"jobs"`
}

type wireJob struct {
	Prompt    string `json:"prompt,omitempty"`
	PromptIDs []int  `json:"prompt_ids,omitempty"`
	MaxTokens int    `json:"max_tokens"`
	IgnoreEOS bool   `json:"ignore_eos,omitempty"`
	Margins   bool   `json:"margins,omitempty"`
}

type generateAnswer struct {
	Took    *float64
	Results []wireResult
}

// wireResult has pointers where null and 0 mean different things.
type wireResult struct {
	Text         *string    `json:"text"`
	TokenIDs     []int      `json:"token_ids"`
	PromptTokens *int       `json:"prompt_tokens"`
	CachedTokens *int       `json:"cached_tokens"`
	FinishReason string     `json:"finish_reason"`
	FirstToken   *float64   `json:"first_token"`
	LastToken    *float64   `json:"last_token"`
	Clock        Clock      `json:"clock"`
	Margins      []*float64 `json:"margins"`
}

type closeRequest struct {
	ID int    `json:"id"`
	Op string `json:"op"`
}

// reply is what all answers have in common.
type reply struct {
	ID    *int       `json:"id"`
	Error *exception `json:"error"`
}

type exception struct {
	Type      string   `json:"type"`
	Message   string   `json:"message"`
	Traceback []string `json:"traceback"`
}

// result checks what came for one job and brings it into our terms. An engine that lies must not come out as a fast one.
func (w *wireResult) result(j *Job) (Result, error) {
	switch {
	case w.Text == nil || w.PromptTokens == nil || w.TokenIDs == nil || w.LastToken == nil:
		return Result{}, fmt.Errorf("text, token_ids, prompt_tokens or last_token is missing")
	case j.PromptIDs != nil && *w.PromptTokens != len(j.PromptIDs):
		return Result{}, fmt.Errorf("prompt_tokens is %d, %d were sent", *w.PromptTokens, len(j.PromptIDs))
	case len(w.TokenIDs) > j.MaxTokens:
		return Result{}, fmt.Errorf("%d output tokens, max_tokens was %d", len(w.TokenIDs), j.MaxTokens)
	case w.FinishReason == "":
		return Result{}, fmt.Errorf("no finish_reason: the text is not complete")
	case j.Margins && len(w.Margins) != len(w.TokenIDs):
		return Result{}, fmt.Errorf("%d margins for %d tokens", len(w.Margins), len(w.TokenIDs))
	case w.Clock != EngineClock && w.Clock != BatchClock:
		return Result{}, fmt.Errorf("clock is %q", w.Clock)
	case *w.LastToken < 0 || w.FirstToken != nil && (*w.FirstToken < 0 || *w.FirstToken > *w.LastToken):
		return Result{}, fmt.Errorf("first token at %v s, last at %v s", value(w.FirstToken), *w.LastToken)
	}
	r := Result{
		Text: *w.Text, TokenIDs: w.TokenIDs, PromptTokens: *w.PromptTokens, OutputTokens: len(w.TokenIDs), CachedTokens: -1,
		FinishReason: w.FinishReason, FirstToken: NotMeasured, LastToken: seconds(*w.LastToken), Clock: w.Clock,
	}
	r.End = r.LastToken
	if w.CachedTokens != nil {
		r.CachedTokens = *w.CachedTokens
	}
	if w.FirstToken != nil {
		r.FirstToken = seconds(*w.FirstToken)
	}
	if j.Margins {
		r.Margins = make([]float64, len(w.Margins))
		for i, m := range w.Margins {
			r.Margins[i] = value(m)
		}
	}
	return r, nil
}

// value of a number that may be null, which is NaN.
func value(f *float64) float64 {
	if f == nil {
		return math.NaN()
	}
	return *f
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
