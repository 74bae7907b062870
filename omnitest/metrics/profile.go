package metrics

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// Profile is a named set of metric definitions. Its name is written into every result, because the same word means
// different things in different tools.
type Profile struct {
	Name   string
	Source string // where the definitions were read
	// Measure gives the figures of one request. An error means that the profile counts the request as failed: it enters
	// no figure, only the number of failures.
	Measure func(s *Sample) (Figures, error)
}

// Figures are what one request measured.
type Figures struct {
	TTFT Value     // ms, time to first token
	TPOT Value     // ms per output token after the first
	E2EL Value     // ms, end-to-end latency
	ITL  []float64 // ms, inter-token latencies: gaps between consecutive events
}

// VLLM has the definitions of `vllm bench serve`, read from vllm/benchmarks/serve.py@009e6d4a and
// lib/endpoint_request_func.py@02cfb534, and checked against files that vLLM 0.32.0 wrote with --save-detailed:
//
//   - event: a message whose JSON has a non-empty "choices" list. Content is not looked at: a chat's role-only first chunk
//     counts, the closing usage message and [DONE] do not.
//   - TTFT: first event - start.
//   - ITL: the gap between consecutive events, one value per gap, pooled over all requests. A chunk of several tokens is
//     one event.
//   - E2EL: last event - start (vllm#55508: the usage message no longer extends it).
//   - TPOT: (E2EL - TTFT) / (output tokens - 1), only where there is more than one output token.
//   - success: HTTP 200 and at least one event. Failed requests are counted and enter nothing else.
//
// Beyond vLLM, which measures only streams: an answer that was not streamed (a picture, a plain completion) has an E2EL,
// its last byte - start, and neither TTFT, ITL nor TPOT.
//
// One known difference: vLLM counts output tokens itself with a tokenizer where the server sends no usage. This profile
// says "not measured" instead.
var VLLM = Profile{
	Name:    "vllm",
	Source:  "vllm/benchmarks/serve.py@009e6d4a, vllm/benchmarks/lib/endpoint_request_func.py@02cfb534",
	Measure: measureVLLM,
}

var (
	errNoEvent    = errors.New("HTTP 200, but no event carried choices")
	errNoResponse = errors.New("no response was read") // also the zero Sample, of a request that never came back
)

func measureVLLM(s *Sample) (Figures, error) {
	if s.Err != nil {
		return Figures{}, s.Err
	}
	x := &s.Exchange
	if x.Status == 0 {
		return Figures{}, errNoResponse
	}
	if x.Status != 200 {
		return Figures{}, fmt.Errorf("HTTP %d", x.Status)
	}
	if len(x.Events) == 0 {
		whole := Absent("the answer was not streamed")
		return Figures{TTFT: whole, TPOT: whole, E2EL: Of(ms(x.End))}, nil
	}

	var f Figures
	var first, last time.Duration
	events := 0
	for i := range x.Events {
		if !hasChoices(&x.Events[i]) {
			continue
		}
		at := x.Events[i].At
		if events == 0 {
			first = at
			f.ITL = make([]float64, 0, len(x.Events)-i)
		} else {
			f.ITL = append(f.ITL, ms(at-last))
		}
		last = at
		events++
	}
	if events == 0 {
		return Figures{}, errNoEvent
	}
	f.TTFT, f.E2EL = Of(ms(first)), Of(ms(last))
	switch n := s.OutputTokens; {
	case n < 0:
		f.TPOT = Absent("the server sent no usage")
	case n < 2:
		f.TPOT = Absent("fewer than 2 output tokens")
	default:
		f.TPOT = Of(ms(last-first) / float64(n-1))
	}
	return f, nil
}

// hasChoices tells a token event from the closing usage message and [DONE]. Only events without text need the look into
// the JSON: a role chunk, an empty delta, reasoning, the end.
func hasChoices(e *api.Event) bool {
	if e.Text != "" {
		return true
	}
	var m struct {
		Choices []struct{} `json:"choices"`
	}
	return json.Unmarshal(e.Data, &m) == nil && len(m.Choices) > 0
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
