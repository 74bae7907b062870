package metrics

import (
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// VLLM has the definitions of `vllm bench serve`, read from vllm/benchmarks/serve.py@009e6d4a and
// lib/endpoint_request_func.py@02cfb534, and checked against files that vLLM 0.32.0 wrote with --save-detailed:
//
//   - event: a message whose JSON has a non-empty "choices" list. Content is not looked at: a chat's role-only first chunk
//     counts, the closing usage message and [DONE] do not.
//   - TTFT: first event - start.
//   - ITL: the gap between consecutive events, one value per gap, pooled over all requests. A chunk of several tokens is
//     one event.
//   - E2EL: last event - start (vllm#55508: the usage message no longer extends it).
//   - output tokens: usage.completion_tokens of the last message without choices; usage on a chunk that has choices is
//     passed over. Else a tokenizer's count of the text (Sample.Retokenized).
//   - TPOT: (E2EL - TTFT) / (output tokens - 1), only where there is more than one output token. For goodput an answer of
//     one token has a TPOT of 0.
//   - success: HTTP 200 and at least one event. Failed requests are counted and enter nothing else.
//   - peaks: events per 1 s bucket from the earliest start; concurrency by a sweep over [start, start + E2EL).
//
// Beyond vLLM, which measures only streams: an answer that was not streamed (a picture, a plain completion) has an E2EL,
// its last byte - start, and neither TTFT, ITL nor TPOT.
//
// Where this profile is stricter than the tool (Literal takes it back): a stream that ends early or brings an error event is
// a failure, not a shorter success; a count that nobody told is not measured, not 1 token; the figures of a run without
// any success are not measured, not 0.
var VLLM = Profile{
	Name:           "vllm",
	Source:         "vllm/benchmarks/serve.py@009e6d4a, vllm/benchmarks/lib/endpoint_request_func.py@02cfb534",
	Measure:        measureVLLM,
	OneTokenIsFast: true,
	literal:        literalVLLM,
}

const usageOnChoices = "usage came only on a chunk with choices, where vLLM passes it over"

func measureVLLM(s *Sample) (Figures, error) {
	if err := s.refused(); err != nil {
		return Figures{}, err
	}
	x := &s.Exchange
	if len(x.Events) == 0 || isSound(x.Events) {
		whole := Absent("the answer was not streamed")
		if len(x.Events) > 0 {
			whole = Absent("the answer was no text")
		}
		return Figures{TTFT: whole, TPOT: whole, E2EL: Of(ms(x.End)), noTokens: true, InputTokens: s.prompt()}, nil
	}

	f := Figures{InputTokens: s.prompt()}
	var first, last time.Duration
	events, usage, counted, closing := 0, -1, false, false
	for i := range x.Events {
		e := &x.Events[i]
		c := contents(e)
		counted = counted || c&api.HasUsage != 0
		if c&api.HasChoices == 0 {
			if c&api.HasUsage != 0 && e.Usage >= 0 {
				usage, closing = e.Usage, true
			}
			continue
		}
		if events == 0 {
			first = e.At
			f.ITL = make([]float64, 0, len(x.Events)-i)
		} else {
			f.ITL = append(f.ITL, ms(e.At-last))
		}
		last = e.At
		events++
	}
	if events == 0 {
		return Figures{}, errNoEvent
	}
	f.TTFT, f.E2EL = Of(ms(first)), Of(ms(last))
	if counted && !closing {
		f.InputTokens = Absent(usageOnChoices)
		if s.PromptTokens > 0 {
			f.InputTokens = Of(float64(s.PromptTokens))
		}
	}
	switch {
	case usage > 0:
		f.OutputTokens = Of(float64(usage))
	case !counted && s.OutputTokens > 0: // events that do not say where the usage stood
		f.OutputTokens = Of(float64(s.OutputTokens))
	case s.Retokenized.OK():
		f.OutputTokens = s.Retokenized
	case usage == 0 || !counted && s.OutputTokens == 0:
		f.OutputTokens = Of(0)
	case counted:
		f.OutputTokens = Absent(usageOnChoices)
	default:
		f.OutputTokens = Absent("the server sent no usage")
	}
	f.TPOT = perToken(ms(last-first), f.OutputTokens)
	return f, nil
}

// perToken is a time over the tokens after the first one.
func perToken(ms float64, tokens Value) Value {
	n, ok := tokens.Get()
	switch {
	case !ok:
		return tokens
	case n < 2:
		return Absent("fewer than 2 output tokens")
	}
	return Of(ms / (n - 1))
}

func (s *Sample) prompt() Value {
	if s.InputTokens < 0 && s.PromptTokens > 0 {
		return Of(float64(s.PromptTokens))
	}
	return Value{}
}

// literalVLLM: tokens that nobody told are one token (serve.py: "if tokenizer is None: output_len = 1").
func literalVLLM(s *Sample, f Figures, err error) (Figures, error) {
	if n, ok := f.OutputTokens.Get(); err == nil && (!ok || n == 0 && !s.Retokenized.OK()) {
		f.OutputTokens = Of(1)
		f.TPOT = perToken(0, f.OutputTokens)
	}
	return f, err
}
