package metrics

import (
	"math"
	"time"
)

// LittleGap is how far a run is from Little's law, L = lambda x W, as a share of L: mean requests in flight, completed
// requests/s, mean latency in ms, each measured over the same time. inFlight must come from somewhere else than the latencies (a
// sampled counter of the client, the mean of vllm:num_requests_running), or the law holds by arithmetic. A gap of more than 2 %
// says that requests were in flight which the latencies do not know (failed, cancelled, still running), or that the
// latencies are not the time in flight.
func LittleGap(inFlight, rate, latency Value) Value {
	l, ok := inFlight.Get()
	if !ok {
		return inFlight
	}
	lambda, ok := rate.Get()
	if !ok {
		return rate
	}
	w, ok := latency.Get()
	switch {
	case !ok:
		return latency
	case l <= 0:
		return Absent("nothing was in flight")
	}
	return Of(math.Abs(l-lambda*w/1e3) / l)
}

// LittleGap is the gap of the run, with latencies to the last byte.
func (sum *Summary) LittleGap(inFlight Value) Value {
	return LittleGap(inFlight, sum.RequestRate, sum.Plain.E2EL.Mean)
}

// MeanInFlight is the mean of a counter that was read now and then, each reading good until the next one: times since any
// origin, ascending, and what stood there. The last reading only ends the one before it.
func MeanInFlight(at []time.Duration, inFlight []float64) Value {
	if len(at) < 2 || len(at) != len(inFlight) {
		return Absent("fewer than 2 readings of the requests in flight")
	}
	area := 0.0
	for i := range at[1:] {
		area += inFlight[i] * (at[i+1] - at[i]).Seconds()
	}
	span := at[len(at)-1] - at[0]
	if span <= 0 {
		return Absent("all readings of the requests in flight are of one moment")
	}
	return Of(area / span.Seconds())
}
