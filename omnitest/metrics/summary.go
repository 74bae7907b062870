package metrics

import (
	"fmt"
	"time"
)

// Summary is one run under one profile.
type Summary struct {
	Profile  string  `json:"profile"`
	WallS    float64 `json:"wall_s"`   // first send to last completion; all rates are over this, drain included
	Requests int     `json:"requests"` // = OK + Failed
	OK       int     `json:"ok"`
	Failed   int     `json:"failed"`
	// Failures are the first distinct errors with their counts, "3x HTTP 503: ...".
	Failures []string `json:"failures,omitempty"`

	TTFT Dist `json:"ttft"` // ms
	TPOT Dist `json:"tpot"` // ms
	ITL  Dist `json:"itl"`  // ms
	E2EL Dist `json:"e2el"` // ms

	InputTokens  Value `json:"input_tokens"`  // total of the successes
	OutputTokens Value `json:"output_tokens"` // total of the successes
	Images       int   `json:"images"`
	Pixels       int64 `json:"pixels"`

	RequestRate     Value `json:"request_throughput"`     // req/s, successes only
	OutputTokenRate Value `json:"output_throughput"`      // output tokens/s
	TotalTokenRate  Value `json:"total_token_throughput"` // input + output tokens/s
	ImageRate       Value `json:"image_throughput"`       // images/s
	PixelRate       Value `json:"pixel_throughput"`       // pixels/s
}

// maxFailures is how many distinct errors a summary keeps. Errors that carry request ids are all distinct.
const maxFailures = 5

// Summarize computes a run's summary. wall is the whole duration, from just before the first request to the last
// completion (load.Result.Wall). Failed requests are counted and enter no figure.
func Summarize(p Profile, samples []Sample, wall time.Duration) Summary {
	sum := Summary{Profile: p.Name, WallS: wall.Seconds(), Requests: len(samples)}
	var ttft, tpot, itl, e2el series
	var in, out tokens
	var failures tally
	for i := range samples {
		s := &samples[i]
		f, err := p.Measure(s)
		if err != nil {
			sum.Failed++
			failures.add(err.Error())
			continue
		}
		sum.OK++
		ttft.add(f.TTFT)
		tpot.add(f.TPOT)
		e2el.add(f.E2EL)
		if len(f.ITL) > 0 {
			itl.values = append(itl.values, f.ITL...)
			itl.requests++
		}
		in.add(s.InputTokens)
		out.add(s.OutputTokens)
		sum.Images += s.Images
		sum.Pixels += s.Pixels
	}
	sum.Failures = failures.lines(maxFailures)

	none := "no request succeeded"
	if len(samples) == 0 {
		none = "no request was made"
	}
	sum.TTFT, sum.TPOT, sum.E2EL = ttft.describe(none), tpot.describe(none), e2el.describe(none)
	if sum.OK > 0 {
		itl.why = "no answer came in more than one event"
	}
	sum.ITL = itl.describe(none)
	sum.InputTokens, sum.OutputTokens = in.total("input", none), out.total("output", none)
	sum.rates(wall, none)
	return sum
}

func (sum *Summary) rates(wall time.Duration, none string) {
	per := func(v Value) Value {
		switch {
		case sum.Requests == 0:
			return Absent(none)
		case wall <= 0:
			return Absent("the run's duration is unknown")
		}
		return v.Per(wall.Seconds())
	}
	sum.RequestRate = per(Of(float64(sum.OK)))
	sum.OutputTokenRate = per(sum.OutputTokens)
	total := sum.OutputTokens
	if o, ok := sum.OutputTokens.Get(); ok {
		total = sum.InputTokens
		if i, ok := sum.InputTokens.Get(); ok {
			total = Of(i + o)
		}
	}
	sum.TotalTokenRate = per(total)
	images, pixels := Of(float64(sum.Images)), Of(float64(sum.Pixels))
	if sum.Images == 0 {
		// A run of text requests has no image rate at all; one of failed image requests cannot be told from it.
		images, pixels = Absent("no pictures were received"), Absent("no pictures were received")
	}
	sum.ImageRate, sum.PixelRate = per(images), per(pixels)
}

// series collects one figure over the requests that measured it, and the first reason of one that did not.
type series struct {
	values   []float64
	requests int
	why      string
}

func (s *series) add(v Value) {
	if x, ok := v.Get(); ok {
		s.values = append(s.values, x)
		s.requests++
	} else if s.why == "" {
		s.why = v.Reason()
	}
}

func (s *series) describe(none string) Dist {
	why := s.why
	if why == "" {
		why = none
	}
	return Describe(s.values, s.requests, "ms", why)
}

// tokens sums counts. One unknown count makes the total unknown: a sum over some of the requests divided by the time of
// all of them is a rate that nobody had.
type tokens struct{ sum, known, unknown int }

func (t *tokens) add(n int) {
	if n < 0 {
		t.unknown++
		return
	}
	t.sum += n
	t.known++
}

func (t *tokens) total(which, none string) Value {
	switch {
	case t.known+t.unknown == 0:
		return Absent(none)
	case t.known == 0:
		return Absent("the answers did not tell their " + which + " tokens")
	case t.unknown > 0:
		return Absent(fmt.Sprintf("%d of %d answers did not tell their %s tokens", t.unknown, t.known+t.unknown, which))
	}
	return Of(float64(t.sum))
}

// tally counts distinct messages in order of first appearance.
type tally struct {
	order []string
	count map[string]int
}

func (t *tally) add(msg string) {
	if t.count == nil {
		t.count = map[string]int{}
	}
	if t.count[msg] == 0 {
		t.order = append(t.order, msg)
	}
	t.count[msg]++
}

func (t *tally) lines(limit int) []string {
	var out []string
	rest := 0
	for i, msg := range t.order {
		if i >= limit {
			rest += t.count[msg]
			continue
		}
		out = append(out, fmt.Sprintf("%dx %s", t.count[msg], msg))
	}
	if rest > 0 {
		out = append(out, fmt.Sprintf("and %d more with other errors", rest))
	}
	return out
}
