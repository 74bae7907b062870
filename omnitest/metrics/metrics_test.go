package metrics_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// stream is a streamed answer with token events at these milliseconds.
func stream(in, out int, at ...int) metrics.Sample {
	t := &api.Text{Exchange: api.Exchange{Status: 200, Start: time.Unix(1, 0)}}
	if out >= 0 {
		t.Usage = &api.Usage{PromptTokens: in, CompletionTokens: out}
	}
	for _, ms := range at {
		t.Events = append(t.Events, api.Event{At: time.Duration(ms) * time.Millisecond, Text: "a"})
	}
	return metrics.FromText(t, nil)
}

func picture(end time.Duration, sizes ...api.Size) metrics.Sample {
	im := &api.Images{Exchange: api.Exchange{Status: 200, End: end, Start: time.Unix(1, 0)}}
	for _, s := range sizes {
		im.Items = append(im.Items, api.Image{Size: s})
	}
	return metrics.FromImages(im, nil)
}

func get(t *testing.T, v metrics.Value) float64 {
	t.Helper()
	f, ok := v.Get()
	require.True(t, ok, "absent: %s", v.Reason())
	return f
}

func TestSummaryOfAStream(t *testing.T) {
	sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{stream(10, 5, 100, 110, 150), stream(20, 3, 200, 220)}, 2*time.Second)
	assert.Equal(t, "vllm", sum.Profile)
	assert.Equal(t, 150.0, get(t, sum.TTFT.Mean))
	assert.Equal(t, []float64{100, 200}, []float64{get(t, sum.TTFT.Min), get(t, sum.TTFT.Max)})
	assert.InDelta(t, (50.0/4+20.0/2)/2, get(t, sum.TPOT.Mean), 1e-12) // tokens count, not the two chunks after the first
	assert.Equal(t, 3, sum.ITL.N)
	assert.Equal(t, 2, sum.ITL.Requests)
	assert.InDelta(t, 70.0/3, get(t, sum.ITL.Mean), 1e-12)
	assert.Equal(t, 185.0, get(t, sum.E2EL.Mean))
	assert.Equal(t, 1.0, get(t, sum.RequestRate))
	assert.Equal(t, 4.0, get(t, sum.OutputTokenRate))
	assert.Equal(t, 19.0, get(t, sum.TotalTokenRate))
	assert.False(t, sum.ImageRate.OK())
}

func TestFailedRequestsAreCountedAndEnterNoFigure(t *testing.T) {
	failed := stream(1000, 1000, 9000, 9999)
	failed.Err = errors.New("stage decode: connection reset")
	sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{
		stream(10, 2, 100, 110), failed, failed,
		{Exchange: api.Exchange{Status: 503}}, // an error page that nobody turned into an error
		metrics.FromText(&api.Text{Exchange: api.Exchange{Status: 200, Events: []api.Event{
			{Data: []byte(`{"choices":[]}`)}, {Data: []byte(`<html>busy</html>`)}, {Data: []byte("[DONE]")},
		}}}, nil),
		metrics.FromText(nil, nil), metrics.FromImages(nil, nil),
		{}, // a call that never came back
	}, time.Second)
	assert.Equal(t, 8, sum.Requests)
	assert.Equal(t, 1, sum.OK)
	assert.Equal(t, 7, sum.Failed)
	assert.Equal(t, []string{
		"2x stage decode: connection reset", "1x HTTP 503", "1x HTTP 200, but no event carried choices",
		"2x metrics: neither an answer nor an error", "1x no response was read",
	}, sum.Failures)
	assert.Equal(t, 100.0, get(t, sum.TTFT.Max))
	assert.Equal(t, 1.0, get(t, sum.RequestRate))
	assert.Equal(t, 12.0, get(t, sum.TotalTokenRate))
}

// One cause is one line, also where the errors carry the ids of their requests; what differs in anything else is another.
func TestFailuresOfOneCauseAreOne(t *testing.T) {
	var samples []metrics.Sample
	for i := range 6 {
		id := fmt.Sprintf("perf-x-%d", i)
		samples = append(samples, metrics.FromText(nil, &api.Error{Kind: api.Server, Status: 500 + i/4, Message: fmt.Sprintf("no ticket for cmpl-%s within %d.3 s", id, i), RequestID: id}))
	}
	sum := metrics.Summarize(metrics.VLLM, samples, time.Second)
	require.Len(t, sum.Failures, 2)
	assert.Regexp(t, "^4x .*500.* no ticket for cmpl-perf-x-0 within 0.3 s.*; request id perf-x-0$", sum.Failures[0])
	assert.Regexp(t, "^2x .*501.* no ticket for cmpl-perf-x-4 within 4.3 s.*; request id perf-x-4$", sum.Failures[1])
}

// A user who leaves by plan is no failure of the server, and what came before is no success.
func TestAbandonedRequestsAreNoFailures(t *testing.T) {
	left := stream(10, -1, 5, 6)
	left.Err, left.Abandoned = errors.New("context canceled"), true
	sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{stream(10, 2, 100, 110), left}, time.Second)
	assert.Equal(t, []int{2, 1, 0, 1}, []int{sum.Requests, sum.OK, sum.Failed, sum.Abandoned})
	assert.Empty(t, sum.Failures)
	assert.Equal(t, 100.0, get(t, sum.TTFT.Min))
}

func TestManyDistinctFailuresStayShort(t *testing.T) {
	var samples []metrics.Sample
	for i := range 20 {
		samples = append(samples, metrics.FromText(nil, fmt.Errorf("request %d failed", i)))
	}
	sum := metrics.Summarize(metrics.VLLM, samples, time.Second)
	require.Len(t, sum.Failures, 6)
	assert.Equal(t, "and 15 more with other errors", sum.Failures[5])
	assert.Equal(t, 0.0, get(t, sum.RequestRate)) // measured: all failed
	assert.Equal(t, "no request succeeded", sum.TTFT.Mean.Reason())
	assert.Equal(t, "no request succeeded", sum.ITL.Mean.Reason())
}

func TestNotMeasuredIsNeverZero(t *testing.T) {
	reasons := func(s metrics.Summary) map[string]string {
		return map[string]string{
			"ttft": s.TTFT.Mean.Reason(), "tpot": s.TPOT.Max.Reason(), "itl": s.ITL.Median.Reason(),
			"tok/s": s.OutputTokenRate.Reason(), "total": s.TotalTokenRate.Reason(), "images/s": s.ImageRate.Reason(),
		}
	}
	pics := metrics.Summarize(metrics.VLLM, []metrics.Sample{picture(time.Second, api.Size{W: 100, H: 50})}, time.Second)
	whole, unsaid := "the answer was not streamed", "the answers did not tell their output tokens"
	assert.Empty(t, cmp.Diff(map[string]string{"ttft": whole, "tpot": whole, "itl": "no answer came in more than one event",
		"tok/s": unsaid, "total": unsaid, "images/s": ""}, reasons(pics)))

	silent := metrics.Summarize(metrics.VLLM, []metrics.Sample{stream(0, -1, 5, 6), stream(3, 1, 5)}, time.Second)
	unsaid = "1 of 2 answers did not tell their output tokens"
	assert.Empty(t, cmp.Diff(map[string]string{"ttft": "", "tpot": "the server sent no usage", "itl": "", "tok/s": unsaid,
		"total": unsaid, "images/s": "no pictures were received"}, reasons(silent)))

	one := metrics.Summarize(metrics.VLLM, []metrics.Sample{stream(3, 1, 5)}, 0)
	assert.Equal(t, "fewer than 2 output tokens", one.TPOT.Mean.Reason())
	assert.Equal(t, "the run's duration is unknown", one.RequestRate.Reason())

	empty := metrics.Summarize(metrics.VLLM, nil, time.Second)
	assert.Equal(t, "no request was made", empty.TTFT.Mean.Reason())
	assert.Equal(t, "no request was made", empty.RequestRate.Reason())
}

func TestPicturesAreMeasuredByTheirOwnHeaders(t *testing.T) {
	hd := api.Size{W: 1376, H: 768}
	sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{picture(3*time.Second, hd, hd), picture(time.Second, hd)}, 4*time.Second)
	assert.Equal(t, 2000.0, get(t, sum.E2EL.Mean))
	assert.Equal(t, 0.75, get(t, sum.ImageRate))
	assert.Equal(t, 3*1376*768/4.0, get(t, sum.PixelRate))

	chat := metrics.FromText(&api.Text{Images: []api.Image{{Size: hd}}, Exchange: api.Exchange{Status: 200}}, nil)
	assert.Equal(t, 1, chat.Images)
	assert.EqualValues(t, 1376*768, chat.Pixels)
	assert.Equal(t, -1, chat.OutputTokens)
}

func TestPercentilesThatNCannotSupportAreRefused(t *testing.T) {
	for _, c := range []struct {
		p    float64
		need int
		pick func(metrics.Dist) metrics.Value
	}{
		{90, metrics.MinP90, func(d metrics.Dist) metrics.Value { return d.P90 }},
		{95, metrics.MinP95, func(d metrics.Dist) metrics.Value { return d.P95 }},
		{99, metrics.MinP99, func(d metrics.Dist) metrics.Value { return d.P99 }},
		{99.9, metrics.MinP999, func(d metrics.Dist) metrics.Value { return d.P999 }},
	} {
		// the threshold is its formula, not a number somebody liked: smallest n with p^n <= 0.025
		assert.LessOrEqual(t, math.Pow(c.p/100, float64(c.need)), 0.025)
		assert.Greater(t, math.Pow(c.p/100, float64(c.need-1)), 0.025)

		assert.Equal(t, c.need, metrics.MinRequests(c.p))
		values := make([]float64, 5000) // many gaps of few requests support nothing either
		few := c.pick(metrics.Describe(values, c.need-1, "ms", ""))
		assert.False(t, few.OK())
		assert.Equal(t, fmt.Sprintf("%d requests, p%v needs %d; see max", c.need-1, c.p, c.need), few.Reason())
		assert.True(t, c.pick(metrics.Describe(values, c.need, "ms", "")).OK())
	}
	assert.Equal(t, "mean 2 ms, median 2, max 3 (n 3)", metrics.Describe([]float64{3, 1, 2}, 3, "ms", "").String())
	assert.Equal(t, "mean 2 ms, median 2, p95 2, max 2 (n 80)", metrics.Describe(slices.Repeat([]float64{2}, 80), 80, "ms", "").String())
	assert.Equal(t, "not measured: nobody asked", metrics.Describe(nil, 0, "ms", "nobody asked").String())
}

func TestAskedPercentiles(t *testing.T) {
	asked, err := metrics.ParsePercentiles("25, 50,99.9,50")
	require.NoError(t, err)
	require.Equal(t, []float64{25, 50, 99.9}, asked)
	var samples []metrics.Sample
	for i := range 20 {
		samples = append(samples, stream(1, 2, 10*i, 10*i+5))
	}
	sum := metrics.Options{Percentiles: asked}.Summarize(metrics.VLLM, samples, time.Second)
	assert.Equal(t, []metrics.AtPercentile{{25, metrics.Of(47.5)}, {50, metrics.Of(95)}, {99.9, metrics.Absent("20 requests, p99.9 needs 3688; see max")}}, sum.TTFT.Asked)
	assert.Equal(t, 13, metrics.MinRequests(25))
	assert.Equal(t, "12 requests, p25 needs 13; see max", metrics.Options{Percentiles: asked}.Summarize(metrics.VLLM, samples[:12], time.Second).TTFT.Asked[0].Value.Reason())
	assert.Equal(t, "no request was made", metrics.Options{Percentiles: asked}.Summarize(metrics.VLLM, nil, time.Second).TTFT.Asked[1].Value.Reason())

	for text, bad := range map[string]string{"50,p99": "p99", "": "", "100": "100", "0": "0", "NaN": "NaN", "50,": ""} {
		_, err := metrics.ParsePercentiles(text)
		assert.EqualError(t, err, fmt.Sprintf("metric percentiles %q: %q: want numbers above 0 and below 100, like 50,95,99.9", text, bad))
	}
}

// numpy 2: np.percentile([1,2,3,4], q)
func TestPercentileIsNumpysLinear(t *testing.T) {
	v := []float64{1, 2, 3, 4}
	for p, want := range map[float64]float64{0: 1, 25: 1.75, 50: 2.5, 90: 3.7, 99: 3.97, 100: 4} {
		assert.InDelta(t, want, metrics.Percentile(v, p), 1e-12, "p%v", p)
	}
	assert.True(t, math.IsNaN(metrics.Percentile(nil, 50)))
	assert.True(t, math.IsNaN(metrics.Percentile(v, 101)))
	assert.Equal(t, 7.0, metrics.Percentile([]float64{7}, 99))
}

func TestPercentileProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 50).Draw(t, "v")
		slices.Sort(v)
		p, q := rapid.Float64Range(0, 100).Draw(t, "p"), rapid.Float64Range(0, 100).Draw(t, "q")
		a, b := metrics.Percentile(v, min(p, q)), metrics.Percentile(v, max(p, q))
		if a > b || a < v[0] || b > v[len(v)-1] {
			t.Fatalf("p%v=%v p%v=%v of %v", min(p, q), a, max(p, q), b, v)
		}
	})
}

func TestValueInJSON(t *testing.T) {
	for text, v := range map[string]metrics.Value{
		`0`: metrics.Of(0), `12.5`: metrics.Of(12.5), `"not measured"`: {},
		`"not measured: no GPU"`: metrics.Absent("no GPU"), `"not measured: computed as NaN"`: metrics.Of(math.NaN()),
	} {
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		assert.Equal(t, text, string(raw))
		var back metrics.Value
		require.NoError(t, json.Unmarshal(raw, &back))
		assert.Empty(t, cmp.Diff(v, back))
	}
	v := metrics.Of(3)
	require.NoError(t, json.Unmarshal([]byte("null"), &v))
	assert.False(t, v.OK(), "null must wipe an older figure")
	assert.EqualError(t, json.Unmarshal([]byte(`"12.5"`), &v), `figure "12.5": want a number or "not measured" with a reason`)
	assert.Error(t, json.Unmarshal([]byte(`{}`), &v))
	assert.False(t, v.OK(), "a figure that could not be read is no measurement")

	assert.Equal(t, "not measured", metrics.Absent("no GPU").String())
	assert.Equal(t, "no GPU", metrics.Absent("no GPU").Per(1e3).Reason())
	assert.Equal(t, 0.5, get(t, metrics.Of(500).Per(1e3)))
}

func BenchmarkSummarize(b *testing.B) {
	samples := make([]metrics.Sample, 1000)
	for i := range samples {
		at := make([]int, 200)
		for j := range at {
			at[j] = 100 + 20*j + (i*7919+j*104729)%13
		}
		samples[i] = stream(512, 200, at...)
	}
	for b.Loop() {
		metrics.Summarize(metrics.VLLM, samples, time.Minute)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200_000, "ns/event")
}
