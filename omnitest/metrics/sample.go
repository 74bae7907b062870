package metrics

import (
	"errors"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// Sample is one request as the client saw it: raw material, from which any profile can be computed later.
type Sample struct {
	Start        time.Time    // moment before the request's first byte; zero: the request was never sent
	Exchange     api.Exchange // status, and the events with their monotonic times
	InputTokens  int          // usage.prompt_tokens; -1: the server did not say
	OutputTokens int          // usage.completion_tokens; -1: the server did not say
	Images       int          // pictures received
	Pixels       int64        // their width x height, summed, from the files' own headers
	Err          error        // nil: the request succeeded
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
	return s
}

// count adds pictures. Size comes from each file's header, never from what the server says it made.
func (s *Sample) count(images []api.Image) {
	s.Images = len(images)
	for i := range images {
		s.Pixels += int64(images[i].Size.W) * int64(images[i].Size.H)
	}
}

// orNoAnswer keeps (nil, nil) from being counted as a success.
func (s Sample) orNoAnswer() Sample {
	if s.Err == nil {
		s.Err = errNoAnswer
	}
	return s
}
