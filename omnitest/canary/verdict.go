package canary

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Limits beyond which the client's own error spoils the run's figures. The first four are the project's facts on load tools,
// 3.4; LimitE2EL is ours, for answers that do not stream and so have neither TTFT nor ITL.
const (
	LimitDispatch  = 0.01 // dispatch p99, of the median TTFT
	LimitEvent     = 0.05 // event lateness p99, of the median ITL
	LimitCPU       = 0.70 // of GOMAXPROCS
	LimitCoalesced = 0.01 // of the reads that brought tokens
	LimitE2EL      = 0.01 // dispatch and event lateness p99, of the median E2EL where the run has no TTFT or ITL
)

// oneWave is why a closed loop of one call per lane has no dispatch lateness. It is no gap of the measurement.
const oneWave = "a closed loop has no schedule for the first call of a lane, and there was no second one"

// plan is what the run measured of the server: the yardstick for the client's error.
type plan struct{ ttft, itl, e2el metrics.Value } // medians, ms

func expected(samples []metrics.Sample) plan {
	s := metrics.Summarize(metrics.VLLM, samples, 0)
	itl := s.ITL.Median
	if x, ok := itl.Get(); ok && x == 0 {
		itl = burstGap(samples) // no client keeps a limit of 0
	}
	return plan{s.TTFT.Median, itl, s.E2EL.Median}
}

// burstGap is the median time in ms between two reads of a stream that brought generated content: the rhythm of a server that
// sends several events at once, whose median ITL is 0.
func burstGap(samples []metrics.Sample) metrics.Value {
	var gaps []float64
	for i := range samples {
		if samples[i].Err != nil || samples[i].Abandoned {
			continue
		}
		last := time.Duration(-1)
		for _, ev := range samples[i].Exchange.Events {
			if ev.Has&content == 0 || ev.At == last {
				continue
			}
			if last >= 0 {
				gaps = append(gaps, ms(ev.At-last))
			}
			last = ev.At
		}
	}
	return describe(gaps, "each answer came in one read").P50
}

// content is what a server sends as it generates it.
const content = api.HasText | api.HasReasoning | api.HasToolCall | api.HasAudio | api.HasImage

// describe sorts values in place.
func describe(values []float64, none string) metrics.Lateness {
	l := metrics.Lateness{N: len(values)}
	if len(values) == 0 {
		no := metrics.Absent(none)
		l.P50, l.P99, l.P999, l.Max = no, no, no, no
		return l
	}
	slices.Sort(values)
	from := func(p float64, need int) metrics.Value {
		if len(values) < need {
			return metrics.Absent(fmt.Sprintf("%d values, p%g needs %d; see max", len(values), p, need))
		}
		return metrics.Of(metrics.Percentile(values, p))
	}
	l.P50, l.P99, l.P999 = from(50, 1), from(99, metrics.MinP99), from(99.9, metrics.MinP999)
	l.Max = metrics.Of(values[len(values)-1])
	return l
}

// dispatch is how late the calls of a run were sent, without their wait for a slot, which the plan wants. The first wave of a
// closed loop is left out: it has no schedule, and nobody has ever sent 512 requests at one moment. A load.Burst is a schedule.
func dispatch(run load.Result) metrics.Lateness {
	var late []float64
	for i := range run.Calls {
		c := &run.Calls[i]
		first := run.Plan.Arrivals == nil && c.Due == 0
		if c.State != load.NotSent && c.State != load.Skipped && !first {
			late = append(late, ms(c.Late()))
		}
	}
	if run.Plan.Arrivals == nil && run.Sent > 0 {
		return describe(late, oneWave)
	}
	return describe(late, "no call was sent")
}

// littleGap holds Little's law against two books of the same run: calls in flight as the sender kept them (load), and throughput
// x mean latency as the exchanges themselves were timed (api). What lies between is time that the client spent on a call
// outside its exchange, waiting for a thread included.
func littleGap(run load.Result, samples []metrics.Sample) metrics.Value {
	switch {
	case run.Wall <= 0 || run.Sent == 0:
		return metrics.Absent("no call was sent")
	case len(samples) != run.Sent:
		return metrics.Absent(fmt.Sprintf("%d samples of %d calls", len(samples), run.Sent))
	}
	n, latency := float64(run.Sent), 0.0
	for i := range samples {
		latency += ms(samples[i].Exchange.End) / n
	}
	return metrics.LittleGap(metrics.Of(run.MeanInFlight), metrics.Of(n/run.Wall.Seconds()), metrics.Of(latency))
}

// coalesced is the share of reads, of those that brought generated content, that brought two or more such events of one
// stream. The closing events (finish, usage, [DONE]) and a chat's role chunk come with others from every server and do not count.
func coalesced(samples []metrics.Sample) metrics.Value {
	reads, shared, streams := 0, 0, 0
	for i := range samples {
		events := samples[i].Exchange.Events
		if len(events) > 0 {
			streams++
		}
		last, n := -1, 0
		var at time.Duration
		for k := range events {
			ev := &events[k]
			if ev.Has&content == 0 {
				continue
			}
			if ev.Read == last {
				if ev.At != at {
					return metrics.Absent("the events do not tell which read they came from")
				}
				if n++; n == 2 {
					shared++
				}
				continue
			}
			last, at, n = ev.Read, ev.At, 1
			reads++
		}
	}
	switch {
	case streams == 0:
		return metrics.Absent("no answer was streamed")
	case reads == 0:
		return metrics.Absent("no event carried generated content")
	}
	return metrics.Of(float64(shared) / float64(reads))
}

// judge gives the verdict and its reasons: what is over its limit, else what could not be judged.
func judge(e metrics.ClientError, p plan, cadence time.Duration) (verdict string, reasons []string) {
	var over, open []string
	share := func(name string, v metrics.Value, limit float64, of string) {
		x, ok := v.Get()
		switch {
		case !ok:
			open = append(open, name+": "+metrics.NotMeasured+": "+v.Reason())
		case x > limit:
			over = append(over, fmt.Sprintf("%s: %.3g %% of %s, limit %g %%", name, 100*x, of, 100*limit))
		}
	}
	late := func(name string, l metrics.Lateness, first metrics.Value, share float64, of string, census bool, needs string) {
		yard, rate, what := first, share, of
		if _, ok := yard.Get(); !ok {
			yard, rate, what = p.e2el, LimitE2EL, "E2EL"
		}
		median, ok := yard.Get()
		if !ok {
			open = append(open, fmt.Sprintf("%s: no limit, as the run has no median %s or E2EL: %s", name, of, yard.Reason()))
			return
		}
		limit := rate * median
		why := fmt.Sprintf("limit %.3g ms (%g %% of the median %s %.4g ms)", limit, 100*rate, what, median)
		// A percentile that n does not support is not given. But where a lower one is over the limit the p99 is too.
		if x, ok := l.P99.Get(); ok {
			if x > limit {
				over = append(over, fmt.Sprintf("%s: p99 %.4g ms, %s", name, x, why))
			}
			return
		}
		if x, ok := l.P50.Get(); ok && x > limit {
			over = append(over, fmt.Sprintf("%s: p50 %.4g ms, %s", name, x, why))
			return
		}
		worst, ok := l.Max.Get()
		switch {
		case !ok && census && l.Max.Reason() == oneWave:
		case !ok:
			open = append(open, name+": "+metrics.NotMeasured+": "+l.Max.Reason())
		case census && worst <= limit: // every call is known, and the latest was in time
		default:
			open = append(open, fmt.Sprintf("%s: max %.4g ms of %d, %s, p99 needs %d%s", name, worst, l.N, why, metrics.MinP99, needs))
		}
	}
	late("dispatch", e.Dispatch, p.ttft, LimitDispatch, "TTFT", true, " calls")
	run := math.Ceil(float64(metrics.MinP99)*cadence.Seconds()*10) / 10
	before := len(over) + len(open)
	late("events", e.Event, p.itl, LimitEvent, "ITL", false, fmt.Sprintf(": a run of %.1f s", run))
	inTime := len(over)+len(open) == before
	share("CPU", e.CPUShare, LimitCPU, "the cores")
	if _, streamed := p.itl.Get(); streamed {
		share("coalesced", e.Coalesced, LimitCoalesced, "the reads brought two or more events of one stream")
		if x, ok := e.Coalesced.Get(); ok && x > LimitCoalesced && inTime {
			over[len(over)-1] += "; the canary was read in time, so the server, or what is before it, may have sent them at once"
		}
	}
	switch {
	case len(over) > 0:
		return metrics.ClientInvalid, over
	case len(open) > 0:
		return metrics.ClientUnknown, open
	}
	return metrics.ClientValid, nil
}
