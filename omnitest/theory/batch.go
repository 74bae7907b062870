package theory

import "math"

// BatchPoint is one point of the curve of what batching gains.
type BatchPoint struct {
	Batch     int
	Seconds   float64 // of the whole batch
	PerSecond float64 // requests a second
	Gain      float64 // PerSecond against a batch of one
	Memory    float64 // bytes at the peak
	Fits      bool
	Limit     string // what sets the time of the stage that takes longest
}

// BatchCurve predicts batches of the given sizes. Where weights are what has to be read (decoding), requests share them and the gain is
// nearly the batch; where operations set the time (denoising, long prompts) it stays at 1.
func BatchCurve(m *Model, g GPU, r Request, o Options, batches []int) ([]BatchPoint, error) {
	r.Batch = 1
	one, err := Predict(m, g, r, o)
	if err != nil {
		return nil, err
	}
	var curve []BatchPoint
	for _, b := range batches {
		if b < 1 {
			return nil, cannot("the gain of batching", "a batch of %d was asked for", b)
		}
		r.Batch = b
		p, err := Predict(m, g, r, o)
		if err != nil {
			return nil, err
		}
		longest := p.Stages[0]
		for _, s := range p.Stages {
			if s.Seconds > longest.Seconds {
				longest = s
			}
		}
		perSecond := float64(b) / p.Seconds
		curve = append(curve, BatchPoint{b, p.Seconds, perSecond, perSecond * one.Seconds, p.Memory.Total(), p.Memory.Total() <= g.Memory, longest.Limit})
	}
	return curve, nil
}

// Knee is the batch from which decoding is bound by operations and no longer by memory, at a context of ctx tokens: 0 if never, since each
// sequence also brings its own cache to read.
func Knee(d *Decoder, g GPU, ctx int, kv KV) int {
	limit := func(batch int) string {
		_, l := g.Bound(d.DecodeStep(batch, float64(ctx), kv), d.Quant)
		return l
	}
	const most = 1 << 16
	if limit(most) == "memory" {
		return 0
	}
	low, high := 0, most
	for high-low > 1 {
		if middle := (low + high) / 2; limit(middle) == "memory" {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

// Speedup is Amdahl's law: the factor by which the whole gets faster if a part that takes the given share of it gets faster by factor.
func Speedup(share, factor float64) float64 {
	if math.IsInf(factor, 1) {
		return 1 / (1 - share)
	}
	return 1 / (1 - share + share/factor)
}
