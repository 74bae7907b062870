package metrics

import (
	"fmt"
	"math"
	"time"
)

// SteadyWindow asks for the figures of the time in which the run was at its planned concurrency, without ramp-up and drain.
type SteadyWindow struct {
	Concurrency int           // the cap of the closed loop; needed
	Threshold   float64       // share of the cap that must be in flight; 0: 0.95
	Min         time.Duration // a shorter window is marked; 0: the larger of 10 s and 10 % of the run
}

// Steady is a part of a run: figures of the window, marked as such. The rule is that of vLLM's Rust client
// (rust/src/bench/src/metrics/steady_state.rs@2483070a): from the first time that Threshold x Concurrency successes were in
// flight to the last time that fewer were again. Latencies are of the requests that started in it, request throughput of
// those that ended in it, tokens those that came in it.
type Steady struct {
	Concurrency int     `json:"concurrency"`
	Needed      int     `json:"needed"`    // in flight, for the window
	StartS      float64 `json:"start_s"`   // since the earliest start
	EndS        float64 `json:"end_s"`     //
	Started     int     `json:"started"`   // requests
	Completed   int     `json:"completed"` // requests

	TTFT            Dist  `json:"ttft"`
	TPOT            Dist  `json:"tpot"`
	E2EL            Dist  `json:"e2el"`
	RequestRate     Value `json:"request_throughput"` // req/s
	OutputTokenRate Value `json:"output_throughput"`  // events/s (vllm) or tokens/s (vllm-omni)

	Warning string `json:"warning,omitempty"` // why the window does not speak for the run; "": it does
}

func (r *run) steady(w SteadyWindow, wall time.Duration) *Steady {
	if w.Threshold <= 0 {
		w.Threshold = 0.95
	}
	if w.Min <= 0 {
		w.Min = max(10*time.Second, wall/10)
	}
	st := &Steady{Concurrency: w.Concurrency, Needed: max(1, int(math.Ceil(w.Threshold*float64(w.Concurrency))))}
	none := func(why string) *Steady {
		a := Absent(why)
		st.TTFT, st.TPOT, st.E2EL = Describe(nil, 0, "ms", why), Describe(nil, 0, "ms", why), Describe(nil, 0, "ms", why)
		st.RequestRate, st.OutputTokenRate, st.Warning = a, a, why
		return st
	}
	switch {
	case w.Concurrency <= 0:
		return none("a steady state needs a closed loop with a concurrency")
	case r.first.IsZero():
		return none("the samples do not tell when they were sent")
	}
	from, to, inFlight := -1.0, -1.0, 0
	sweep(r.spans, func(at float64, delta int) {
		before := inFlight
		inFlight += delta
		switch {
		case from < 0 && before < st.Needed && inFlight >= st.Needed:
			from = at
		case before >= st.Needed && inFlight < st.Needed:
			to = at
		}
	})
	if from < 0 || to <= from {
		return none(fmt.Sprintf("%d requests were never in flight at once", st.Needed))
	}
	st.StartS, st.EndS = from, to
	var ttft, tpot, e2el series
	events := 0
	for i := range r.spans {
		sp, f := &r.spans[i], &r.done[i].f
		if sp.start >= from && sp.start < to {
			st.Started++
			ttft.add(f.TTFT)
			tpot.add(f.TPOT)
			e2el.add(f.E2EL)
		}
		if sp.end >= from && sp.end < to {
			st.Completed++
		}
		for _, at := range sp.tokens {
			if at >= from && at < to {
				events++
			}
		}
	}
	why := "no request started in the window"
	st.TTFT, st.TPOT, st.E2EL = ttft.describe(why, r.o), tpot.describe(why, r.o), e2el.describe(why, r.o)
	st.RequestRate = Of(float64(st.Completed) / (to - from))
	st.OutputTokenRate = Of(float64(events) / (to - from))
	if length := to - from; length < w.Min.Seconds() {
		st.Warning = fmt.Sprintf("the window is %.1f s long (%.0f %% of the run), below %.1f s: it may not speak for the run",
			length, 100*length/max(wall.Seconds(), 1e-9), w.Min.Seconds())
	}
	return st
}
