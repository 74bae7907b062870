package metrics_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
)

// at moves a sample to a start, in ms after an origin.
func at(start int, s metrics.Sample) metrics.Sample {
	s.Start = time.Unix(100, 0).Add(time.Duration(start) * time.Millisecond)
	return s
}

func TestPeaks(t *testing.T) {
	samples := []metrics.Sample{
		at(0, stream(1, 2, 100, 600)), at(600, stream(1, 3, 100, 200, 300)), // begins as the first ends
		at(700, stream(1, 2, 100, 900)),
	}
	sum := metrics.Summarize(metrics.VLLM, samples, 2*time.Second)
	assert.Equal(t, 2.0, get(t, sum.PeakConcurrency), "an end at the instant of a start comes first")
	assert.Equal(t, 6.0, get(t, sum.PeakOutputRate), "all but the last event fall into the first second")
	omni := metrics.Summarize(metrics.VLLMOmni, samples, 2*time.Second)
	assert.Equal(t, 3.0, get(t, omni.PeakConcurrency), "three within one second")

	for i := range samples {
		samples[i].Start = time.Time{}
	}
	sum = metrics.Summarize(metrics.VLLM, samples, time.Second)
	assert.Equal(t, "the samples do not tell when they were sent", sum.PeakConcurrency.Reason())
	assert.Equal(t, "no answer was streamed", metrics.Summarize(metrics.VLLM, []metrics.Sample{picture(time.Second)}, time.Second).PeakOutputRate.Reason())
	assert.Equal(t, "no request was made", metrics.Summarize(metrics.VLLM, nil, time.Second).PeakConcurrency.Reason())
}

// vLLM 0.32 counted events as now, and concurrency by seconds, which vllm-omni still does.
func TestPeaksOfVLLMBench(t *testing.T) {
	for _, file := range []string{"a-in64-out16-rate4.json", "c-in64-out16-inf-conc2.json", "d-in128-out32-inf.json", "g-chat-in64-out16-conc4.json"} {
		b := readBench(t, file)
		samples := b.samples(file[0] == 'g')
		require.Len(t, b.StartTimes, len(samples))
		for i := range samples {
			samples[i].Start = time.Unix(0, 0).Add(seconds(b.StartTimes[i]))
		}
		sum := metrics.Summarize(metrics.VLLM, samples, seconds(b.Duration))
		assert.Equal(t, b.figures["max_output_tokens_per_s"], get(t, sum.PeakOutputRate), file)
		assert.Equal(t, b.figures["max_concurrent_requests"], get(t, metrics.Summarize(metrics.VLLMOmni, samples, seconds(b.Duration)).PeakConcurrency), file)
		if limit, ok := b.figures["max_concurrency"]; ok {
			assert.LessOrEqual(t, get(t, sum.PeakConcurrency), limit, "%s: the exact sweep cannot be above the cap", file)
			assert.Greater(t, b.figures["max_concurrent_requests"], limit, "%s: seconds can", file)
		}
	}
}

// ramp is a closed loop of 4 lanes that starts one lane a second and drains: 0-3 s ramp, 3-9 s full, then the drain.
func ramp() []metrics.Sample {
	var all []metrics.Sample
	for lane := range 4 {
		for i := range 6 + lane/3 { // lanes 0..2: to 6..8 s, lane 3: to 10 s
			all = append(all, at(1000*(lane+i), stream(1, 3, 100+100*i, 500, 1000)))
		}
	}
	return all
}

func TestSteadyState(t *testing.T) {
	steady := func(w metrics.SteadyWindow, samples []metrics.Sample) *metrics.Steady {
		return metrics.Options{Steady: &w}.Summarize(metrics.VLLM, samples, 10*time.Second).SteadyState
	}
	s := steady(metrics.SteadyWindow{Concurrency: 4, Min: time.Second}, ramp())
	assert.Equal(t, 4, s.Needed)
	assert.Equal(t, []float64{3, 6}, []float64{s.StartS, s.EndS}, "from the fourth lane's start to the first lane's end")
	assert.Equal(t, 12, s.Started)
	assert.Equal(t, 11, s.Completed, "those that end as it ends are outside")
	assert.Equal(t, 11.0/3, get(t, s.RequestRate))
	assert.Empty(t, s.Warning)

	s = steady(metrics.SteadyWindow{Concurrency: 4}, ramp())
	assert.Equal(t, "the window is 3.0 s long (30 % of the run), below 10.0 s: it may not speak for the run", s.Warning)
	s = steady(metrics.SteadyWindow{Concurrency: 5}, ramp())
	assert.Equal(t, "5 requests were never in flight at once", s.Warning)
	assert.Equal(t, s.Warning, s.TTFT.Mean.Reason())
	s = steady(metrics.SteadyWindow{}, ramp())
	assert.Equal(t, "a steady state needs a closed loop with a concurrency", s.RequestRate.Reason())
	assert.Equal(t, 19, steady(metrics.SteadyWindow{Concurrency: 20}, ramp()).Needed, "0.95 x 20")
	assert.Nil(t, metrics.Summarize(metrics.VLLM, ramp(), time.Second).SteadyState)
}

// vllm#54101: 10 req/s, one at a time, 0.5 s of service. Service latency stays 500 ms; the users of the schedule wait longer and longer.
func TestLatencyFromTheSchedule(t *testing.T) {
	var samples []metrics.Sample
	for i := range 10 {
		s := at(500*i, stream(1, 2, 100, 500))
		s.Due = time.Unix(100, 0).Add(time.Duration(100*i) * time.Millisecond)
		s.Queue = s.Start.Sub(s.Due)
		samples = append(samples, s)
	}
	sum := metrics.Summarize(metrics.VLLM, samples, 5*time.Second)
	assert.Equal(t, 500.0, get(t, sum.E2EL.Mean))
	assert.Equal(t, 500.0+400*4.5, get(t, sum.E2ELFromSchedule.Mean))
	assert.Equal(t, 100.0+400*4.5, get(t, sum.TTFTFromSchedule.Mean))
	assert.Equal(t, 400*9.0, get(t, sum.ClientQueue.Max))

	samples[3].Due = time.Time{}
	sum = metrics.Summarize(metrics.VLLM, samples, 5*time.Second)
	assert.Equal(t, 9, sum.E2ELFromSchedule.N)
	none := metrics.Summarize(metrics.VLLM, samples[3:4], time.Second)
	assert.Equal(t, "the calls had no due time", none.E2ELFromSchedule.Mean.Reason())
	assert.Equal(t, "the calls had no due time", none.ClientQueue.Mean.Reason())
}
