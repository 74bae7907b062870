package metrics

import (
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// Plain are figures under names that mean one thing only, whatever the profile: what the client saw, computed for every run.
// A content chunk is one that brings text, reasoning or a tool call.
type Plain struct {
	TTFE        Dist `json:"ttfe"`           // ms, start to the first event of any kind
	TTFTContent Dist `json:"ttft_content"`   // ms, start to the first content chunk
	FirstAudio  Dist `json:"tt_first_audio"` // ms, start to the first event with sound in it
	FirstImage  Dist `json:"tt_first_image"` // ms, start to the first picture; of an answer in one piece its last byte
	ICL         Dist `json:"icl"`            // ms, inter-chunk latency: gaps between consecutive content chunks
	ITLToken    Dist `json:"itl_token"`      // ms, inter-token latency: a gap before a chunk of k tokens is k values of gap / k
	TPOT        Dist `json:"tpot"`           // ms, (last content chunk - first) / (output tokens - 1)
	E2EL        Dist `json:"e2el"`           // ms, start to the last byte of the answer

	PeakTokenRate Value `json:"peak_output_tokens_per_s"` // output tokens in the fullest second; needs token counts per chunk
}

// plainSeries collects the figures of a run.
type plainSeries struct {
	ttfe, content, audio, image, icl, itl, tpot, e2el series

	perSecond []float64
	untold    bool // some chunk did not tell its tokens
}

// add takes in a successful request; since is its start after the run's first one.
func (p *plainSeries) add(s *Sample, since time.Duration) {
	x := &s.Exchange
	p.e2el.add(Of(ms(x.End)))
	whole := Absent("the answer was not streamed")
	if len(x.Events) == 0 {
		p.ttfe.add(whole)
		p.content.add(whole)
		p.audio.add(whole)
		p.tpot.add(whole)
		p.icl.miss("the answer was not streamed")
		p.itl.miss("the answer was not streamed")
		if s.Images > 0 {
			p.image.add(Of(ms(x.End)))
		} else {
			p.image.add(Absent("no picture was received"))
		}
		return
	}
	p.ttfe.add(Of(ms(x.Events[0].At)))
	content, audio, image := Absent("no chunk had content"), Absent("no sound was received"), Absent("no picture was received")
	var tokens chunkTokens
	var icl, itl []float64
	var first, last time.Duration
	told := true
	for i := range x.Events {
		e := &x.Events[i]
		c := contents(e)
		if c&api.HasAudio != 0 && e.Bytes > 0 && !audio.OK() {
			audio = Of(ms(e.At))
		}
		if c&api.HasImage != 0 && !image.OK() {
			image = Of(ms(e.At))
		}
		k := 0
		if c&api.HasChoices != 0 && c&(api.HasAudio|api.HasImage) == 0 {
			k = tokens.of(e, c)
			told = told && (k > 0 || e.Usage >= 0 || e.Tokens >= 0 || c&isContent == 0)
			p.count(since+e.At, k)
		}
		if c&isContent == 0 || c&(api.HasAudio|api.HasImage) != 0 {
			continue
		}
		if !content.OK() {
			content, first = Of(ms(e.At)), e.At
			itl = append(itl, make([]float64, max(0, k-1))...)
		} else {
			gap := ms(e.At - last)
			icl = append(icl, gap)
			for range k {
				itl = append(itl, gap/float64(k))
			}
		}
		last = e.At
	}
	p.content.add(content)
	p.audio.add(audio)
	p.image.add(image)
	p.icl.pool(icl, "no answer came in more than one chunk")
	if content.OK() && !told {
		p.untold = true
		p.itl.miss("the chunks do not tell their tokens (continuous_usage_stats or token_ids)")
	} else {
		p.itl.pool(itl, "no answer came in more than one chunk")
	}
	if !content.OK() {
		p.tpot.add(content)
		return
	}
	p.tpot.add(perToken(ms(last-first), told0(s.OutputTokens)))
}

const isContent = api.HasText | api.HasReasoning | api.HasToolCall

func told0(n int) Value { return told(Value{}, n, "the server sent no usage") }

func (p *plainSeries) count(at time.Duration, k int) {
	second := int(at / time.Second)
	if k <= 0 || second < 0 {
		return
	}
	for len(p.perSecond) <= second {
		p.perSecond = append(p.perSecond, 0)
	}
	p.perSecond[second] += float64(k)
}

func (p *plainSeries) describe(none string, o *Options) Plain {
	out := Plain{
		TTFE: p.ttfe.describe(none, o), TTFTContent: p.content.describe(none, o), FirstAudio: p.audio.describe(none, o),
		FirstImage: p.image.describe(none, o), ICL: p.icl.describe(none, o), ITLToken: p.itl.describe(none, o),
		TPOT: p.tpot.describe(none, o), E2EL: p.e2el.describe(none, o),
	}
	switch {
	case p.untold:
		out.PeakTokenRate = Absent("the chunks do not tell their tokens (continuous_usage_stats or token_ids)")
	case len(p.perSecond) == 0:
		out.PeakTokenRate = Absent("no token was counted")
	default:
		peak := 0.0
		for _, n := range p.perSecond {
			peak = max(peak, n)
		}
		out.PeakTokenRate = Of(peak)
	}
	return out
}
