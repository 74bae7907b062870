package metrics

import (
	"slices"
	"time"
)

// span is one success on the run's clock, in seconds since the earliest start of a success.
type span struct {
	start, end float64   // [start, end)
	tokens     []float64 // when each event (vllm) or token (vllm-omni) came
}

// spanOf is start, TTFT and the accumulated ITL, which is how vLLM finds the times again.
func spanOf(start time.Duration, f *Figures) span {
	from := start.Seconds()
	e2el, _ := f.E2EL.Get()
	sp := span{start: from, end: from + e2el/1e3}
	ttft, ok := f.TTFT.Get()
	if !ok || f.noTokens {
		return sp
	}
	at := from + ttft/1e3
	sp.tokens = append(make([]float64, 0, 1+len(f.ITL)), at)
	for _, gap := range f.ITL {
		at += gap / 1e3
		sp.tokens = append(sp.tokens, at)
	}
	return sp
}

// peakTokens is the fullest bucket of 1 s.
func peakTokens(spans []span) float64 {
	var buckets []float64
	peak := 0.0
	for i := range spans {
		for _, at := range spans[i].tokens {
			for len(buckets) <= int(at) {
				buckets = append(buckets, 0)
			}
			buckets[int(at)]++
			peak = max(peak, buckets[int(at)])
		}
	}
	return peak
}

// peakConcurrency is the largest number of requests in flight at once, exactly: an end at the instant of a start comes first.
func peakConcurrency(spans []span) int {
	inFlight, peak := 0, 0
	sweep(spans, func(_ float64, delta int) {
		inFlight += delta
		peak = max(peak, inFlight)
	})
	return peak
}

// sweep visits starts (+1) and ends (-1) in the order of time, ends first.
func sweep(spans []span, visit func(at float64, delta int)) {
	starts, ends := make([]float64, len(spans)), make([]float64, len(spans))
	for i := range spans {
		starts[i], ends[i] = spans[i].start, spans[i].end
	}
	slices.Sort(starts)
	slices.Sort(ends)
	for i, j := 0, 0; j < len(ends); {
		if i < len(starts) && starts[i] < ends[j] {
			visit(starts[i], +1)
			i++
		} else {
			visit(ends[j], -1)
			j++
		}
	}
}

// bucketConcurrency is what vllm-omni, and vLLM 0.32 before it had the sweep, call the same: the most requests that were in
// flight at some time of one second.
func bucketConcurrency(spans []span) int {
	buckets := map[int]int{}
	peak := 0
	for i := range spans {
		for second := int(spans[i].start); second <= int(spans[i].end); second++ {
			buckets[second]++
			peak = max(peak, buckets[second])
		}
	}
	return peak
}
