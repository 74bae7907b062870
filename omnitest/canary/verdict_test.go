package canary

import (
	rtmetrics "runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// evenly gives n values of ms, the last k of them late.
func evenly(n int, ms float64, k int, late float64) []float64 {
	all := make([]float64, n)
	for i := range all {
		if all[i] = ms; i >= n-k {
			all[i] = late
		}
	}
	return all
}

// Each rule of the verdict, one step within and one step over its limit.
func TestVerdict(t *testing.T) {
	of := metrics.Of
	text := plan{of(50), of(20), of(400)} // limits: dispatch 0.5 ms, events 1 ms
	still := plan{metrics.Absent("the answer was not streamed"), metrics.Absent("no answer came in more than one event"), of(2000)}
	quiet := func() metrics.ClientError {
		return metrics.ClientError{Dispatch: describe(evenly(400, .02, 0, 0), ""), Event: describe(evenly(400, .1, 0, 0), ""), CPUShare: of(.1), Coalesced: of(0)}
	}
	for _, c := range []struct {
		name    string
		plan    plan
		change  func(*metrics.ClientError)
		verdict string
		reasons []string
	}{
		{"quiet", text, func(*metrics.ClientError) {}, metrics.ClientValid, nil},
		{"dispatch at its limit", text, func(e *metrics.ClientError) { e.Dispatch = describe(evenly(400, .02, 20, .5), "") }, metrics.ClientValid, nil},
		{"dispatch over it", text, func(e *metrics.ClientError) { e.Dispatch = describe(evenly(400, .02, 20, .6), "") }, metrics.ClientInvalid,
			[]string{"dispatch: p99 0.6 ms, limit 0.5 ms (1 % of the median TTFT 50 ms)"}},
		{"events over theirs", text, func(e *metrics.ClientError) { e.Event = describe(evenly(400, .1, 20, 35), "") }, metrics.ClientInvalid,
			[]string{"events: p99 35 ms, limit 1 ms (5 % of the median ITL 20 ms)"}},
		{"one stall in a long run", text, func(e *metrics.ClientError) { e.Event = describe(evenly(4000, .1, 5, 45), "") }, metrics.ClientValid, nil},
		{"CPU at its limit", text, func(e *metrics.ClientError) { e.CPUShare = of(.7) }, metrics.ClientValid, nil},
		{"CPU over it", text, func(e *metrics.ClientError) { e.CPUShare = of(.834) }, metrics.ClientInvalid, []string{"CPU: 83.4 % of the cores, limit 70 %"}},
		{"coalesced at its limit", text, func(e *metrics.ClientError) { e.Coalesced = of(.01) }, metrics.ClientValid, nil},
		{"coalesced over it", text, func(e *metrics.ClientError) { e.Coalesced = of(.03) }, metrics.ClientInvalid,
			[]string{"coalesced: 3 % of the reads brought two or more events of one stream, limit 1 %; the canary was read in time, so the server, or what is before it, may have sent them at once"}},
		{"coalesced, and late", text, func(e *metrics.ClientError) {
			e.Event, e.Coalesced = describe(evenly(400, .1, 20, 35), ""), of(.03)
		}, metrics.ClientInvalid, []string{"events: p99 35 ms, limit 1 ms (5 % of the median ITL 20 ms)",
			"coalesced: 3 % of the reads brought two or more events of one stream, limit 1 %"}},
		{"two at once", text, func(e *metrics.ClientError) { e.CPUShare, e.Coalesced = of(.9), of(.5) }, metrics.ClientInvalid,
			[]string{"CPU: 90 % of the cores, limit 70 %", "coalesced: 50 % of the reads brought two or more events of one stream, limit 1 %; the canary was read in time, so the server, or what is before it, may have sent them at once"}},

		{"short", text, func(e *metrics.ClientError) { e.Event = describe(evenly(100, .1, 0, 0), "") }, metrics.ClientUnknown,
			[]string{"events: max 0.1 ms of 100, limit 1 ms (5 % of the median ITL 20 ms), p99 needs 368: a run of 3.7 s"}},
		{"short, and late more often than not", text, func(e *metrics.ClientError) { e.Event = describe(evenly(100, .1, 60, 12), "") }, metrics.ClientInvalid,
			[]string{"events: p50 12 ms, limit 1 ms (5 % of the median ITL 20 ms)"}},
		{"short, but CPU is certain", text, func(e *metrics.ClientError) { e.Event, e.CPUShare = describe(evenly(100, .1, 0, 0), ""), of(.9) }, metrics.ClientInvalid,
			[]string{"CPU: 90 % of the cores, limit 70 %"}},
		{"few calls, all in time", text, func(e *metrics.ClientError) { e.Dispatch = describe(evenly(64, .5, 0, 0), "") }, metrics.ClientValid, nil},
		{"few calls, one late", text, func(e *metrics.ClientError) { e.Dispatch = describe(evenly(64, .02, 1, .7), "") }, metrics.ClientUnknown,
			[]string{"dispatch: max 0.7 ms of 64, limit 0.5 ms (1 % of the median TTFT 50 ms), p99 needs 368 calls"}},
		{"a closed loop of one wave", text, func(e *metrics.ClientError) { e.Dispatch = describe(nil, oneWave) }, metrics.ClientValid, nil},
		{"no call", text, func(e *metrics.ClientError) { e.Dispatch = describe(nil, "no call was sent") }, metrics.ClientUnknown, []string{"dispatch: not measured: no call was sent"}},
		{"no canary", text, func(e *metrics.ClientError) { e.Event = describe(nil, "the canary's stream broke: EOF") }, metrics.ClientUnknown,
			[]string{"events: not measured: the canary's stream broke: EOF"}},
		{"no CPU", text, func(e *metrics.ClientError) { e.CPUShare = metrics.Absent("getrusage: x") }, metrics.ClientUnknown, []string{"CPU: not measured: getrusage: x"}},

		{"pictures", still, func(e *metrics.ClientError) { e.Coalesced = metrics.Absent("no answer was streamed") }, metrics.ClientValid, nil},
		{"pictures, late", still, func(e *metrics.ClientError) { e.Event = describe(evenly(400, .1, 20, 35), "") }, metrics.ClientInvalid,
			[]string{"events: p99 35 ms, limit 20 ms (1 % of the median E2EL 2000 ms)"}},
		{"nothing succeeded", plan{metrics.Absent("no"), metrics.Absent("no"), metrics.Absent("no request succeeded")}, func(*metrics.ClientError) {}, metrics.ClientUnknown,
			[]string{"dispatch: no limit, as the run has no median TTFT or E2EL: no request succeeded",
				"events: no limit, as the run has no median ITL or E2EL: no request succeeded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := quiet()
			c.change(&e)
			verdict, reasons := judge(e, c.plan, 10*time.Millisecond)
			assert.Equal(t, c.verdict, verdict)
			assert.Equal(t, c.reasons, reasons)
		})
	}
}

func TestDescribeRefusesWhatNDoesNotSupport(t *testing.T) {
	l := describe(evenly(367, 1, 1, 9), "")
	assert.Equal(t, metrics.Lateness{N: 367, P50: metrics.Of(1), P99: metrics.Absent("367 values, p99 needs 368; see max"),
		P999: metrics.Absent("367 values, p99.9 needs 3688; see max"), Max: metrics.Of(9)}, l)
	l = describe(evenly(3688, 1, 40, 9), "")
	assert.Equal(t, metrics.Lateness{N: 3688, P50: metrics.Of(1), P99: metrics.Of(9), P999: metrics.Of(9), Max: metrics.Of(9)}, l)
}

// A wait for a slot is the plan's, a call that was never sent has no lateness.
func TestDispatch(t *testing.T) {
	l := dispatch(load.Result{Plan: load.Plan{Arrivals: load.Burst{}}, Calls: []load.Call{
		{Due: time.Second, Sent: time.Second + 2*time.Millisecond, State: load.OK},
		{Due: time.Second, Queue: 3 * time.Second, Sent: 4*time.Second + time.Millisecond, State: load.Failed},
		{Due: time.Second, State: load.NotSent}, {Due: time.Second, State: load.Skipped},
	}})
	assert.Equal(t, 2, l.N)
	assert.Equal(t, metrics.Of(2), l.Max)
	assert.Equal(t, metrics.Absent("no call was sent"), dispatch(load.Result{}).Max)

	// 1 ms late at the start is nobody's schedule in a closed loop, but it is that of a burst.
	wave := load.Result{Counts: load.Counts{Sent: 2}, Calls: []load.Call{{Sent: time.Millisecond, State: load.OK}, {Due: time.Second, Sent: time.Second, State: load.OK}}}
	assert.Equal(t, metrics.Of(0), dispatch(wave).Max)
	wave.Calls = wave.Calls[:1]
	assert.Equal(t, metrics.Absent("a closed loop has no schedule for the first call of a lane, and there was no second one"), dispatch(wave).Max)
	wave.Plan.Arrivals = load.Burst{}
	assert.Equal(t, metrics.Of(1), dispatch(wave).Max)
}

// A server that sends two events at a time has a median ITL of 0. The limit of the client is not 0 for that.
func TestYardstickOfBursts(t *testing.T) {
	stream := func(at ...time.Duration) metrics.Sample {
		s := metrics.Sample{OutputTokens: len(at)}
		s.Exchange.Status = 200
		for _, at := range at {
			s.Exchange.Events = append(s.Exchange.Events, api.Event{At: at * time.Millisecond, Has: api.HasChoices | api.HasText})
			s.Exchange.End = at * time.Millisecond
		}
		return s
	}
	assert.Equal(t, metrics.Of(10), expected([]metrics.Sample{stream(50, 60, 70, 80)}).itl)
	assert.Equal(t, metrics.Of(20), expected([]metrics.Sample{stream(50, 50, 70, 70, 90, 90)}).itl)
	assert.Equal(t, metrics.Absent("each answer came in one read"), expected([]metrics.Sample{stream(90, 90, 90)}).itl)
}

func TestCoalesced(t *testing.T) {
	const text, role, finish = api.HasChoices | api.HasText, api.HasChoices, api.HasChoices | api.HasFinish
	stream := func(events ...api.Event) metrics.Sample {
		for i := range events {
			events[i].At = time.Duration(events[i].Read) * time.Millisecond
		}
		return metrics.Sample{Exchange: api.Exchange{Events: events}}
	}
	for _, c := range []struct {
		name    string
		samples []metrics.Sample
		want    metrics.Value
	}{
		{"each alone; role chunk and closing events do not count", []metrics.Sample{stream(api.Event{Has: role}, api.Event{Has: text}, api.Event{Has: text, Read: 1}, api.Event{Has: text, Read: 2},
			api.Event{Has: finish, Read: 2}, api.Event{Has: api.HasUsage, Read: 2}, api.Event{Has: api.IsDone, Read: 2})}, metrics.Of(0)},
		{"two of four reads", []metrics.Sample{stream(api.Event{Has: text}, api.Event{Has: text}, api.Event{Has: text}, api.Event{Has: text, Read: 1}), stream(api.Event{Has: text}, api.Event{Has: text, Read: 1}, api.Event{Has: text, Read: 1})}, metrics.Of(.5)},
		{"reads of two streams are not one", []metrics.Sample{stream(api.Event{Has: text}), stream(api.Event{Has: text})}, metrics.Of(0)},
		{"a log that does not know the reads", []metrics.Sample{{Exchange: api.Exchange{Events: []api.Event{{Has: text, At: 1}, {Has: text, At: 2}}}}}, metrics.Absent("the events do not tell which read they came from")},
		{"no streams", []metrics.Sample{{}}, metrics.Absent("no answer was streamed")},
		{"no content", []metrics.Sample{stream(api.Event{Has: role})}, metrics.Absent("no event carried generated content")},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, coalesced(c.samples)) })
	}
}

func TestLittleGap(t *testing.T) {
	run := load.Result{Wall: 10 * time.Second, MeanInFlight: 2, Counts: load.Counts{Sent: 2}}
	of := func(d time.Duration) metrics.Sample { return metrics.Sample{Exchange: api.Exchange{End: d}} }
	gap := func(want float64, v metrics.Value) {
		got, ok := v.Get()
		assert.True(t, ok)
		assert.InDelta(t, want, got, 1e-9)
	}
	gap(0, littleGap(run, []metrics.Sample{of(15 * time.Second), of(5 * time.Second)}))
	gap(.25, littleGap(run, []metrics.Sample{of(10 * time.Second), of(5 * time.Second)}))
	assert.Equal(t, metrics.Absent("1 samples of 2 calls"), littleGap(run, []metrics.Sample{of(1)}))
	assert.Equal(t, metrics.Absent("no call was sent"), littleGap(load.Result{}, nil))
}

func TestQuantile(t *testing.T) {
	h := func(counts ...uint64) *rtmetrics.Float64Histogram {
		return &rtmetrics.Float64Histogram{Counts: counts, Buckets: []float64{0, .001, .002, .004}}
	}
	assert.Equal(t, metrics.Of(2), quantile(h(7, 0, 7), h(7+98, 2, 7), .99, ""), "the bucket's upper bound, of what came between")
	assert.Equal(t, metrics.Of(1), quantile(h(7, 0, 7), h(7+99, 1, 7), .99, ""))
	assert.Equal(t, metrics.Absent("nothing"), quantile(h(1, 2, 3), h(1, 2, 3), .99, "nothing"))
	assert.Equal(t, metrics.Absent("this Go runtime does not tell it"), quantile(nil, nil, .99, ""))
}

func TestNotMeasuredIsNeverZero(t *testing.T) {
	e := NotMeasured("the plan has none")
	for _, v := range []metrics.Value{e.Dispatch.P50, e.Event.P99, e.Read.Max, e.Event.P999, e.CPU, e.CPUShare, e.Steal, e.GCs, e.GCPause, e.Sched, e.Coalesced, e.LittleGap} {
		assert.Equal(t, metrics.Absent("the plan has none"), v)
	}
	assert.Equal(t, metrics.ClientUnknown, e.Verdict)
}
