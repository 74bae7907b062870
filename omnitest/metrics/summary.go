package metrics

import "time"

// Summary is one run under one profile.
type Summary struct {
	Profile  string  `json:"profile"`
	WallS    float64 `json:"wall_s"`   // first send to last completion; all rates are over this, drain included
	Requests int     `json:"requests"` // = OK + Failed + Abandoned
	OK       int     `json:"ok"`
	Failed   int     `json:"failed"`
	// Abandoned requests were cancelled by plan.
	Abandoned int `json:"abandoned,omitempty"`
	// Failures are the first distinct errors with their counts, "3x HTTP 503: ...".
	Failures []string `json:"failures,omitempty"`

	TTFT Dist `json:"ttft"` // ms
	TPOT Dist `json:"tpot"` // ms
	ITL  Dist `json:"itl"`  // ms
	E2EL Dist `json:"e2el"` // ms

	// The same from the time that the schedule wanted a request sent: Start - Due is added. A client that holds requests back
	// shows a fast server in TTFT and E2EL; it cannot hide here (vllm#54101: 506 ms and 1,932 ms of one run).
	TTFTFromSchedule Dist `json:"ttft_from_schedule"` // ms
	E2ELFromSchedule Dist `json:"e2el_from_schedule"` // ms
	ClientQueue      Dist `json:"client_queue"`       // ms, wait for a free slot of the client

	Plain Plain `json:"plain"`

	InputTokens  Value `json:"input_tokens"`  // total of the successes
	OutputTokens Value `json:"output_tokens"` // total of the successes
	Images       int   `json:"images"`
	Pixels       int64 `json:"pixels"`

	RequestRate     Value `json:"request_throughput"`     // req/s, successes only
	OutputTokenRate Value `json:"output_throughput"`      // output tokens/s
	TotalTokenRate  Value `json:"total_token_throughput"` // input + output tokens/s
	ImageRate       Value `json:"image_throughput"`       // images/s
	PixelRate       Value `json:"pixel_throughput"`       // pixels/s

	PeakOutputRate  Value `json:"max_output_tokens_per_s"` // fullest second; vllm counts events, vllm-omni tokens
	PeakConcurrency Value `json:"max_concurrent_requests"` // successes in flight at once, as the profile counts them

	Goodput     *Goodput `json:"goodput,omitempty"`          // nil: no objectives
	Audio       *Audio   `json:"audio,omitempty"`            // nil: no sound was received
	ImageTime   *Dist    `json:"image_generation,omitempty"` // ms, by the engine's own clock; nil: no picture told it
	SteadyState *Steady  `json:"steady_state,omitempty"`     // nil: not asked for
}

// Audio are the figures of received sound.
type Audio struct {
	TTFP       Dist  `json:"audio_ttfp"`       // ms, time to first packet
	RTF        Dist  `json:"audio_rtf"`        // real-time factor
	Underrun   Dist  `json:"audio_underrun"`   // ms, of a player that starts with the first packet
	Continuity Value `json:"audio_continuity"` // share of sounds whose underrun stayed within ContinuityBudget
	Seconds    Value `json:"audio_duration_s"` // total
	Rate       Value `json:"audio_throughput"` // seconds of sound per second
}

// Options are what a summary can be asked for besides.
type Options struct {
	SLOs        SLOs          // none: no goodput
	Percentiles []float64     // more of them for every distribution (Dist.Asked), 0 < p < 100
	Steady      *SteadyWindow // nil: the whole run only
}

// maxFailures is how many distinct errors a summary keeps. Those that differ in nothing but the id of their request and times
// are one, told in the words of the first.
const maxFailures = 5

// Summarize computes a run's summary. wall is the whole duration, from just before the first request to the last
// completion (load.Result.Wall). Failed requests are counted and enter no figure.
func Summarize(p Profile, samples []Sample, wall time.Duration) Summary {
	return Options{}.Summarize(p, samples, wall)
}

// Summarize is the function of that name, with the options.
func (o Options) Summarize(p Profile, samples []Sample, wall time.Duration) Summary {
	r := run{p: &p, o: &o, sum: Summary{Profile: p.Name, WallS: wall.Seconds(), Requests: len(samples)}}
	if len(o.SLOs) > 0 {
		r.sum.Goodput = &Goodput{SLOs: o.SLOs.String()}
	}
	r.origin(samples)
	for i := range samples {
		r.add(&samples[i])
	}
	r.finish(wall)
	return r.sum
}

// run is a summary in the making.
type run struct {
	p   *Profile
	o   *Options
	sum Summary

	first                              time.Time // earliest start
	ttft, tpot, itl, e2el              series
	ttftDue, e2elDue, queue, imageTime series
	ttfp, rtf, underrun                series
	plain                              plainSeries
	in, out                            tokens
	failures                           tally
	spans                              []span
	done                               []measured
	seconds                            float64
	sounds, continuous                 int
}

// measured is a success with what the profile says of it.
type measured struct {
	s *Sample
	f Figures
}

func (r *run) origin(samples []Sample) {
	for i := range samples {
		if at := samples[i].Start; !at.IsZero() && (r.first.IsZero() || at.Before(r.first)) {
			r.first = at
		}
	}
}

func (r *run) add(s *Sample) {
	sum := &r.sum
	if s.Abandoned {
		sum.Abandoned++
		return
	}
	f, err := r.p.measure(s)
	if err != nil {
		sum.Failed++
		r.failures.addAs(cause(s, err), err.Error())
		return
	}
	sum.OK++
	r.ttft.add(f.TTFT)
	r.tpot.add(f.TPOT)
	r.e2el.add(f.E2EL)
	r.itl.pool(f.ITL, "no answer came in more than one event")
	late := s.Late()
	r.ttftDue.add(plus(late, f.TTFT))
	r.e2elDue.add(plus(late, f.E2EL))
	r.queue.add(s.queue())
	r.in.add(f.InputTokens)
	r.out.add(f.OutputTokens)
	sum.Images += s.Images
	sum.Pixels += s.Pixels
	if f.ImageTime.OK() {
		r.imageTime.add(f.ImageTime)
	}
	r.addSound(s, &f)
	if sum.Goodput != nil {
		sum.Goodput.judge(r.p, r.o.SLOs, &f)
	}
	var since time.Duration
	if !s.Start.IsZero() {
		since = s.Start.Sub(r.first)
	}
	r.plain.add(s, since)
	r.spans = append(r.spans, spanOf(since, &f))
	r.done = append(r.done, measured{s, f})
}

func (r *run) addSound(s *Sample, f *Figures) {
	if !f.AudioTTFP.OK() && s.Sound.Seconds == 0 {
		return
	}
	r.sounds++
	r.seconds += s.Sound.Seconds
	r.ttfp.add(f.AudioTTFP)
	r.rtf.add(f.AudioRTF)
	r.underrun.add(f.Underrun)
	if gap, ok := f.Underrun.Get(); ok && gap <= ContinuityBudget {
		r.continuous++
	}
}

func (r *run) finish(wall time.Duration) {
	sum := &r.sum
	sum.Failures = r.failures.lines(maxFailures)
	none := "no request succeeded"
	if sum.Requests == 0 {
		none = "no request was made"
	}
	sum.TTFT, sum.TPOT, sum.E2EL, sum.ITL = r.ttft.describe(none, r.o), r.tpot.describe(none, r.o), r.e2el.describe(none, r.o), r.itl.describe(none, r.o)
	sum.TTFTFromSchedule, sum.E2ELFromSchedule = r.ttftDue.describe(none, r.o), r.e2elDue.describe(none, r.o)
	sum.ClientQueue = r.queue.describe(none, r.o)
	sum.Plain = r.plain.describe(none, r.o)
	sum.InputTokens, sum.OutputTokens = r.in.total("input", none), r.out.total("output", none)
	if r.imageTime.requests > 0 {
		d := r.imageTime.describe(none, r.o)
		sum.ImageTime = &d
	}
	r.peaks(none)
	r.rates(wall, none)
	if r.o.Steady != nil {
		sum.SteadyState = r.steady(*r.o.Steady, wall)
	}
}

func (r *run) peaks(none string) {
	sum := &r.sum
	switch {
	case sum.OK == 0:
		sum.PeakOutputRate, sum.PeakConcurrency = Absent(none), Absent(none)
		return
	case r.first.IsZero():
		why := Absent("the samples do not tell when they were sent")
		sum.PeakOutputRate, sum.PeakConcurrency = why, why
		return
	}
	// The tools begin their buckets at the earliest success.
	from := r.spans[0].start
	for i := range r.spans {
		from = min(from, r.spans[i].start)
	}
	for i := range r.spans {
		sp := &r.spans[i]
		sp.start, sp.end = sp.start-from, sp.end-from
		for j := range sp.tokens {
			sp.tokens[j] -= from
		}
	}
	if peak := peakTokens(r.spans); peak > 0 || r.p.Literal {
		sum.PeakOutputRate = Of(peak)
	} else {
		sum.PeakOutputRate = Absent("no answer was streamed")
	}
	if r.p.secondBuckets {
		sum.PeakConcurrency = Of(float64(bucketConcurrency(r.spans)))
	} else {
		sum.PeakConcurrency = Of(float64(peakConcurrency(r.spans)))
	}
}

func (r *run) rates(wall time.Duration, none string) {
	sum := &r.sum
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
	sum.TotalTokenRate = per(both(sum.InputTokens, sum.OutputTokens))
	images, pixels := Of(float64(sum.Images)), Of(float64(sum.Pixels))
	if sum.Images == 0 {
		// A run of text requests has no image rate at all; one of failed image requests cannot be told from it.
		images, pixels = Absent("no pictures were received"), Absent("no pictures were received")
	}
	sum.ImageRate, sum.PixelRate = per(images), per(pixels)
	if g := sum.Goodput; g != nil {
		g.Rate = per(Of(float64(g.Requests)))
		g.Share = Absent(none)
		if sum.Requests > 0 {
			g.Share = Of(float64(g.Requests) / float64(sum.Requests))
		}
	}
	if r.sounds > 0 {
		a := &Audio{TTFP: r.ttfp.describe(none, r.o), RTF: r.rtf.describe(none, r.o), Underrun: r.underrun.describe(none, r.o)}
		a.RTF.Unit = "ratio"
		a.Continuity, a.Seconds = a.Underrun.Mean, Absent("the length of the sound is unknown")
		if a.Underrun.N > 0 {
			a.Continuity = Of(float64(r.continuous) / float64(a.Underrun.N))
		}
		if r.seconds > 0 {
			a.Seconds = Of(r.seconds)
		}
		a.Rate = per(a.Seconds)
		sum.Audio = a
	}
}
