package metrics

import (
	"encoding/json"
	"errors"
	"fmt"

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
	// OneTokenIsFast: an answer of one token, which has no TPOT, meets every TPOT objective (vLLM). Else it meets none.
	OneTokenIsFast bool
	// Literal follows the tool also where this suite knows better, as a comparison bit for bit needs. A figure that was not
	// measured is then what the tool writes in its place, mostly 0, and an answer that the client refused counts as the
	// tool counts it. Each profile lists these places. Never publish such figures.
	Literal bool

	literal       func(s *Sample, f Figures, err error) (Figures, error)
	secondBuckets bool // peak concurrency by buckets of 1 s instead of the exact sweep
}

// Figures are what one request measured. A figure that is left out (the zero Value) was not measured; token counts that are
// left out are those of the Sample.
type Figures struct {
	TTFT Value     // ms, time to first token
	TPOT Value     // ms per output token after the first
	E2EL Value     // ms, end-to-end latency
	ITL  []float64 // ms, inter-token latencies

	InputTokens, OutputTokens Value // as the profile counts them

	AudioTTFP Value // ms, time to first packet of sound
	AudioRTF  Value // time to the last packet / seconds of sound
	Underrun  Value // ms, the longest that a player which starts with the first packet had nothing to play
	ImageTime Value // ms, the engine's own time for the picture

	noTokens bool // nothing of it belongs into tokens per second
}

// measure is Measure, the way the tool has it where the profile is literal.
func (p *Profile) measure(s *Sample) (Figures, error) {
	taken := p.Literal && s.Err != nil && toolTakes(s.Err)
	if taken {
		trusted := *s
		trusted.Err = nil
		// An event that the end of the stream cut off is no message to the tools, which take only whole JSON.
		if all := trusted.Exchange.Events; len(all) > 0 && contents(&all[len(all)-1]) == 0 && api.KindOf(s.Err) == api.Truncated {
			trusted.Exchange.Events = all[:len(all)-1]
		}
		s = &trusted
	}
	f, err := p.Measure(s)
	if taken && len(s.Exchange.Events) == 0 {
		f, err = Figures{}, errNoEvent // a stream of nothing, not an answer in one piece
	}
	if p.Literal && p.literal != nil {
		f, err = p.literal(s, f, err)
	}
	if err != nil {
		return Figures{}, err
	}
	f.InputTokens = told(f.InputTokens, s.InputTokens, "the server sent no usage")
	f.OutputTokens = told(f.OutputTokens, s.OutputTokens, "the server sent no usage")
	return f, nil
}

// toolTakes tells whether a failure is one that the benchmark clients do not see: a stream that ends cleanly before its
// [DONE] or its finish_reason, and an error event, which has no choices and is passed over.
func toolTakes(err error) bool {
	switch api.KindOf(err) {
	case api.Truncated:
		var e *api.Error
		return errors.As(err, &e) && errors.Unwrap(e) == nil
	case api.InBand:
		return true
	}
	return false
}

func told(v Value, n int, why string) Value {
	switch {
	case v.OK() || v.Reason() != "":
		return v
	case n < 0:
		return Absent(why)
	}
	return Of(float64(n))
}

var (
	errNoEvent    = errors.New("HTTP 200, but no event carried choices")
	errNoResponse = errors.New("no response was read") // also the zero Sample, of a request that never came back
)

// refused is why no profile can measure this sample; nil: it was answered with 200.
func (s *Sample) refused() error {
	switch x := &s.Exchange; {
	case s.Err != nil:
		return s.Err
	case x.Status == 0:
		return errNoResponse
	case x.Status != 200:
		return fmt.Errorf("HTTP %d", x.Status)
	}
	return nil
}

// contents is what an event carried. Events that somebody made by hand, without Has, are looked into.
func contents(e *api.Event) api.Content {
	switch {
	case e.Has != 0:
		return e.Has
	case e.Text != "":
		return api.HasChoices | api.HasText
	case len(e.Data) == 0:
		return 0
	case string(e.Data) == "[DONE]":
		return api.IsDone
	}
	var m struct {
		Choices []struct{} `json:"choices"`
	}
	if json.Unmarshal(e.Data, &m) == nil && len(m.Choices) > 0 {
		return api.HasChoices
	}
	return 0
}

// isSound tells an answer that is one sound (speech) from a stream of messages: events of sound and no choices.
func isSound(events []api.Event) bool {
	for i := range events {
		if c := contents(&events[i]); c&api.HasChoices != 0 || c&api.HasAudio == 0 {
			return false
		}
	}
	return len(events) > 0
}
