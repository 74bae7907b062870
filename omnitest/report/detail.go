package report

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// StageTime is the part of a request's time that one stage took, over the requests of a row.
type StageTime struct {
	Stage string        `json:"stage"` // "client", "queue", "prefill", "kv transfer", "decode", "dit", "encode", "residual"
	Mean  metrics.Value `json:"mean"`  // ms per request. Below 0: stages overlapped, which is said and never clipped
	Share metrics.Value `json:"share"` // of the mean latency, 0..1
}

// Curve is the distribution function of one latency: the share Q[i] of the values is at most V[i].
type Curve struct {
	Figure string    `json:"figure"` // "TTFT", "TPOT", "ITL", "E2EL"
	Unit   string    `json:"unit"`   // "ms"
	N      int       `json:"n"`      // values behind it
	Q      []float64 `json:"q"`      // 0..1, ascending
	V      []float64 `json:"v"`      // ascending
}

// Series is one quantity over the time of a row. A value that is not measured is a gap.
type Series struct {
	Stage string          `json:"stage,omitempty"` // "client", "decode", ...; "": the whole load
	Name  string          `json:"name"`            // "in flight", "output tokens", "memory RSS", "CPU", "GPU memory", ...
	Unit  string          `json:"unit"`            // "requests", "tokens/s", "bytes", "cores", "share"
	At    []float64       `json:"at_s"`            // seconds since the row began, ascending
	Value []metrics.Value `json:"value"`
}

const (
	curvePoints = 101 // of a Curve: every percent
	minBuckets  = 20  // of a timeline
	maxBuckets  = 60
)

// Detail fills in the row's Curves and the load's part of its Timeline from the samples that Summary was made of. wall is
// the row's duration.
func (r *Row) Detail(p metrics.Profile, samples []metrics.Sample, wall time.Duration) {
	r.Curves = curves(p, samples)
	r.Timeline = append(loadSeries(p, samples, wall), r.Timeline...)
}

func curves(p metrics.Profile, samples []metrics.Sample) []Curve {
	var ttft, tpot, itl, e2el []float64
	add := func(to *[]float64, v metrics.Value) {
		if x, ok := v.Get(); ok {
			*to = append(*to, x)
		}
	}
	for i := range samples {
		f, err := p.Measure(&samples[i])
		if err != nil || samples[i].Abandoned {
			continue
		}
		add(&ttft, f.TTFT)
		add(&tpot, f.TPOT)
		add(&e2el, f.E2EL)
		itl = append(itl, f.ITL...)
	}
	var all []Curve
	for _, c := range []struct {
		figure string
		values []float64
	}{{"TTFT", ttft}, {"TPOT", tpot}, {"ITL", itl}, {"E2EL", e2el}} {
		if len(c.values) > 0 {
			all = append(all, curve(c.figure, c.values))
		}
	}
	return all
}

// curve keeps each value where they are few, and every percent where they are many, to the µs. It sorts values.
func curve(figure string, values []float64) Curve {
	slices.Sort(values)
	for i, v := range values {
		values[i] = math.Round(v*1e3) / 1e3
	}
	c := Curve{Figure: figure, Unit: "ms", N: len(values)}
	if len(values) < curvePoints {
		for i, v := range values {
			c.Q, c.V = append(c.Q, float64(i+1)/float64(len(values))), append(c.V, v)
		}
		return c
	}
	for i := range curvePoints {
		q := float64(i) / (curvePoints - 1)
		c.Q, c.V = append(c.Q, q), append(c.V, math.Round(metrics.Percentile(values, q*100)*1e3)/1e3)
	}
	return c
}

// loadSeries gives requests in flight and arrived events per second over the row's time, in 20 to 60 buckets.
func loadSeries(p metrics.Profile, samples []metrics.Sample, wall time.Duration) []Series {
	var first time.Time
	for i := range samples {
		if s := samples[i].Start; !s.IsZero() && (first.IsZero() || s.Before(first)) {
			first = s
		}
	}
	if first.IsZero() || wall <= 0 {
		return nil
	}
	n := min(max(minBuckets, len(samples)), maxBuckets)
	width := wall.Seconds() / float64(n)
	busy, events, done, failed := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
	at := func(seconds float64) int { return max(0, min(n-1, int(seconds/width))) }
	streamed := false
	for i := range samples {
		s := &samples[i]
		if s.Start.IsZero() {
			continue
		}
		from := s.Start.Sub(first).Seconds()
		to := from + s.Exchange.End.Seconds()
		for _, e := range s.Exchange.Events {
			streamed = true
			events[at(from+e.At.Seconds())]++
			to = max(to, from+e.At.Seconds())
		}
		for b := at(from); b <= at(to); b++ {
			lo, hi := float64(b)*width, float64(b+1)*width
			busy[b] += max(0, min(hi, to)-max(lo, from)) / width
		}
		switch _, err := p.Measure(s); {
		case s.Abandoned: // its user left as planned: it took its place, and is neither
		case err != nil:
			failed[at(to)]++
		default:
			done[at(to)]++
		}
	}
	series := func(name, unit string, values []float64, per float64) Series {
		s := Series{Name: name, Unit: unit}
		for i, v := range values {
			s.At = append(s.At, (float64(i)+0.5)*width)
			s.Value = append(s.Value, metrics.Of(v).Per(per))
		}
		return s
	}
	all := []Series{series("in flight", "requests", busy, 1), series("completed", "req/s", done, width)}
	if streamed {
		all = append(all, series("events", "events/s", events, width))
	}
	if slices.ContainsFunc(failed, func(f float64) bool { return f > 0 }) {
		all = append(all, series("failed", "req/s", failed, width))
	}
	return all
}

// checkDetail refuses curves and series that cannot be drawn as what they are, and a client verdict that no reader knows.
func (r Row) checkDetail() []error {
	var all []error
	if v := r.Client.Verdict; !slices.Contains([]string{"", metrics.ClientValid, metrics.ClientInvalid, metrics.ClientUnknown}, v) {
		all = append(all, fmt.Errorf("client verdict %q, want %q, %q or %q", v, metrics.ClientValid, metrics.ClientInvalid, metrics.ClientUnknown))
	}
	ascending := func(xs []float64) bool {
		return slices.IsSorted(xs) && !slices.ContainsFunc(xs, func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
	}
	for _, c := range r.Curves {
		if len(c.Q) != len(c.V) || !ascending(c.Q) || !ascending(c.V) {
			all = append(all, fmt.Errorf("curve %s: %d shares and %d values, want as many, each ascending", c.Figure, len(c.Q), len(c.V)))
		}
	}
	for _, s := range r.Timeline {
		if len(s.At) != len(s.Value) || !ascending(s.At) {
			all = append(all, fmt.Errorf("series %s: %d times and %d values, want as many, times ascending", s.title(), len(s.At), len(s.Value)))
		}
	}
	return all
}

func (s Series) title() string {
	if s.Stage == "" {
		return s.Name
	}
	return s.Stage + " " + s.Name
}

// client is the verdict on the measuring side: "valid", "INVALID-CLIENT" or "not measured".
func (r Row) client() string {
	if r.Client.Verdict == "" {
		return metrics.ClientUnknown
	}
	return r.Client.Verdict
}

// invalid rows were measured by a client that was late itself. They are marked in every view.
func (r Row) invalid() bool { return r.Client.Verdict == metrics.ClientInvalid }
