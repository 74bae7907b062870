package metrics

import (
	"errors"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// Sample is one request as the client saw it: raw material, from which any profile can be computed later.
type Sample struct {
	Due   time.Time     // when its schedule wanted it sent; zero: it had no due time
	Queue time.Duration // how long it waited for a free slot of the client: a part of Start - Due
	Start time.Time     // moment before the request's first byte; zero: the request was never sent

	Exchange     api.Exchange // status, and the events with their monotonic times
	PromptTokens int          // tokens that the prompt was made of, where the caller knows them; 0: it does not
	InputTokens  int          // usage.prompt_tokens; -1: the server did not say
	OutputTokens int          // usage.completion_tokens; -1: the server did not say
	Retokenized  Value        // tokens of the answer's text by a tokenizer, see Retokenize; the zero Value: nobody counted

	Images int   // pictures received
	Pixels int64 // their width x height, summed, from the files' own headers
	Sound  Sound // sound received
	// Stages are the engine's own times of a picture (api.Metrics.StageDurations): milliseconds where the key ends in _ms,
	// else seconds.
	Stages map[string]float64

	Err       error // nil: the request succeeded
	Abandoned bool  // its user was chosen to leave (load.Call.Leaving), and left or was served first: no failure, and in no figure
}

var errNoAnswer = errors.New("metrics: neither an answer nor an error")

// FromText is the sample of a completion or chat call: pass on what api.Client returned. An answer beside an error is
// what had arrived before the failure; it is kept, and the sample counts as failed.
func FromText(t *api.Text, err error) Sample {
	s := Sample{InputTokens: -1, OutputTokens: -1, Err: err}
	if t == nil {
		return s.orNoAnswer()
	}
	s.Exchange, s.Start = t.Exchange, t.Exchange.Start
	if t.Usage != nil {
		s.InputTokens, s.OutputTokens = t.Usage.PromptTokens, t.Usage.CompletionTokens
	}
	s.count(t.Images)
	s.stages(t.Metrics)
	for i := range t.Choices {
		for _, part := range t.Choices[i].Parts {
			if part.Kind == "audio" {
				sound := waveSeconds(part.Audio)
				s.Sound.Seconds += sound.Seconds
				s.Sound.Rate = max(s.Sound.Rate, sound.Rate)
			}
		}
	}
	return s
}

// FromImages is the sample of an image generation or edit. Token counts are unknown: the image routes send none.
func FromImages(im *api.Images, err error) Sample {
	s := Sample{InputTokens: -1, OutputTokens: -1, Err: err}
	if im == nil {
		return s.orNoAnswer()
	}
	s.Exchange, s.Start = im.Exchange, im.Exchange.Start
	s.count(im.Items)
	s.stages(im.Metrics)
	return s
}

// count adds pictures. Size comes from each file's header, never from what the server says it made.
func (s *Sample) count(images []api.Image) {
	s.Images = len(images)
	for i := range images {
		s.Pixels += int64(images[i].Size.W) * int64(images[i].Size.H)
	}
}

func (s *Sample) stages(m *api.Metrics) {
	if m != nil {
		s.Stages = m.StageDurations
	}
}

// orNoAnswer keeps (nil, nil) from being counted as a success.
func (s Sample) orNoAnswer() Sample {
	if s.Err == nil {
		s.Err = errNoAnswer
	}
	return s
}

// Late is Start - Due in ms: what a user of the schedule waited before the request was even sent. The wait for a slot
// (Queue) is in it, and so is the sender's own lateness.
func (s *Sample) Late() Value {
	switch {
	case s.Due.IsZero():
		return Absent("the calls had no due time")
	case s.Start.IsZero():
		return Absent("the request was never sent")
	}
	return Of(ms(s.Start.Sub(s.Due)))
}

// queue is Queue in ms; without a schedule there was no queue to wait in, which is not a wait of 0.
func (s *Sample) queue() Value {
	if s.Due.IsZero() {
		return Absent("the calls had no due time")
	}
	return Of(ms(s.Queue))
}

// Text is the text of choice 0 of a streamed answer, as it arrived.
func (s *Sample) Text() string {
	var b strings.Builder
	for i := range s.Exchange.Events {
		b.WriteString(s.Exchange.Events[i].Text)
	}
	return b.String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
