package metrics

import (
	"math"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// VLLMOmni has the definitions of `vllm bench serve --omni`, a patched fork of vLLM's, read from
// vllm_omni/benchmarks/patch/patch.py@040aa6bd and metrics/metrics.py@0f392162:
//
//   - text token event: a chunk of modality "text" that adds tokens. How many: the growth of its usage.completion_tokens
//     (continuous_usage_stats), else the length of its token_ids, else 1 if it has text and no usage. A role-only chunk adds
//     none and starts nothing.
//   - TTFT: first text token event - start.
//   - ITL: a chunk of k tokens gives k values of gap / k; the surplus tokens of the first chunk give zeros.
//   - TPOT: the mean of the request's ITL, only where there is more than one output token and the mean is above 0. For
//     goodput an answer without a TPOT fails.
//   - E2EL: last JSON message - start, usage and sound included; of speech the end of the body.
//   - output tokens: the highest usage.completion_tokens of any message, with or without choices; else a tokenizer's count.
//   - audio TTFP: first chunk of modality "audio", also one without data. RTF: (last audio chunk - start) / seconds of
//     sound; of speech (end of the body - start) / seconds.
//   - image time: the largest of the engine's own "..._gen_ms".
//   - peaks: tokens (one per ITL value) per 1 s bucket; concurrency by 1 s buckets too, which counts requests that
//     follow each other within a second as concurrent.
//
// Where this profile is stricter than the tool (Literal takes it back): as in [VLLM]; an answer without a text token has no
// TTFT, not one of 0 that lowers the mean, and one without sound no audio figures; HTTP 200 with no message at all is a
// failure. Two rules are not here, for want of the fields they read: the engine's stage 0 timings in place of intervals
// that the client did not see, and the up to three silent retries with the clock set back.
// A chunk that names no modality counts as text; the tool would see no token in it.
var VLLMOmni = Profile{
	Name:          "vllm-omni",
	Source:        "vllm_omni/benchmarks/patch/patch.py@040aa6bd, vllm_omni/benchmarks/metrics/metrics.py@0f392162",
	Measure:       measureOmni,
	literal:       literalOmni,
	secondBuckets: true,
}

func measureOmni(s *Sample) (Figures, error) {
	if err := s.refused(); err != nil {
		return Figures{}, err
	}
	x := &s.Exchange
	f := Figures{InputTokens: s.prompt(), ImageTime: s.imageTime()}
	if len(x.Events) == 0 || isSound(x.Events) {
		f.TTFT, f.E2EL, f.noTokens = Absent("the answer was not streamed"), Of(ms(x.End)), true
		if len(x.Events) > 0 {
			f.TTFT = Absent("the answer was no text")
			f.AudioTTFP = Of(ms(x.Events[0].At))
			f.AudioRTF = s.Sound.rtf(x.End)
			f.Underrun = s.Sound.underrun(x.Events)
		}
		f.TPOT = f.TTFT
		f.OutputTokens = s.omniTokens(0)
		return f, nil
	}

	var tokens chunkTokens
	var last, end time.Duration
	usage, text, messages := 0, false, 0
	for i := range x.Events {
		e := &x.Events[i]
		c := contents(e)
		if c&api.IsDone != 0 {
			continue
		}
		messages++
		end = e.At
		usage = max(usage, e.Usage)
		if c&api.HasChoices == 0 {
			continue
		}
		switch {
		case c&api.HasAudio != 0:
			if !f.AudioTTFP.OK() {
				f.AudioTTFP = Of(ms(e.At))
			}
			f.AudioRTF = s.Sound.rtf(e.At)
		case c&api.HasImage != 0:
		default:
			k := tokens.of(e, c)
			if k == 0 && c&api.HasText != 0 && e.Usage <= 0 {
				k = 1
			}
			if k > 0 && !f.TTFT.OK() {
				f.TTFT, last = Of(ms(e.At)), e.At
				f.ITL = append(f.ITL, make([]float64, k-1)...)
			} else if k > 0 {
				gap := ms(e.At-last) / float64(k)
				for range k {
					f.ITL = append(f.ITL, gap)
				}
				last = e.At
			}
			text = text || c&api.HasText != 0
		}
	}
	if messages == 0 {
		return Figures{}, errNoEvent
	}
	f.E2EL = Of(ms(end))
	f.OutputTokens = s.omniTokens(usage)
	f.noTokens = usage <= 0 && s.OutputTokens <= 0 && len(f.ITL) == 0 && !text
	if !f.TTFT.OK() {
		f.TTFT = Absent("no chunk brought a text token")
	}
	f.TPOT = meanITL(f.ITL, f.OutputTokens)
	return f, nil
}

// omniTokens are the output tokens: the highest count that was told, else a tokenizer's.
func (s *Sample) omniTokens(usage int) Value {
	switch n := max(usage, s.OutputTokens); {
	case n > 0:
		return Of(float64(n))
	case s.Retokenized.OK():
		return s.Retokenized
	case n == 0 && s.OutputTokens == 0:
		return Of(0)
	}
	return Absent("the server sent no usage")
}

func meanITL(itl []float64, tokens Value) Value {
	n, ok := tokens.Get()
	switch {
	case !ok:
		return tokens
	case n < 2:
		return Absent("fewer than 2 output tokens")
	}
	sum := 0.0
	for _, v := range itl {
		sum += v
	}
	if mean := sum / float64(len(itl)); mean > 0 {
		return Of(mean)
	}
	return Absent("all tokens came at once: the client saw no interval")
}

// imageTime is what vLLM-Omni's client takes for the generation time of a picture: the largest "..._gen_ms" of the engine.
func (s *Sample) imageTime() Value {
	most := math.Inf(-1)
	for key, v := range s.Stages {
		if strings.HasSuffix(key, "_gen_ms") {
			most = max(most, v)
		}
	}
	if most <= 0 {
		return Absent("the engine told no generation time")
	}
	return Of(most)
}

// literalOmni: what was not measured is 0 and stands in the means, and HTTP 200 is a success whatever came.
func literalOmni(s *Sample, f Figures, err error) (Figures, error) {
	if err == errNoEvent {
		f, err = Figures{E2EL: Of(0), InputTokens: s.prompt(), noTokens: true}, nil
	}
	if err != nil {
		return f, err
	}
	for _, v := range []*Value{&f.TTFT, &f.AudioTTFP, &f.AudioRTF, &f.Underrun} {
		if !v.OK() {
			*v = Of(0)
		}
	}
	if n, ok := f.OutputTokens.Get(); !ok || n == 0 && !s.Retokenized.OK() {
		f.OutputTokens = Of(1)
		if f.noTokens && (s.Images > 0 || s.Sound.Seconds > 0 || isSound(s.Exchange.Events)) {
			f.OutputTokens = Of(0)
		}
		f.TPOT = meanITL(nil, f.OutputTokens)
	}
	return f, nil
}

// chunkTokens counts the tokens of chunk after chunk where the server tells them.
type chunkTokens struct{ seen int }

// of gives the tokens that a chunk added: the growth of its usage, else its token_ids; 0 where neither says so.
func (t *chunkTokens) of(e *api.Event, c api.Content) int {
	k := 0
	if e.Usage > t.seen {
		k, t.seen = e.Usage-t.seen, e.Usage
	}
	if k == 0 && e.Tokens > 0 {
		k = e.Tokens
	}
	return k
}
