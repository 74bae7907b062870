package metrics_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// bench is a result of `vllm bench serve --save-detailed`: the details of each request, and in figures what vLLM made
// of them.
type bench struct {
	Duration   float64     `json:"duration"`
	InputLens  []int       `json:"input_lens"`
	OutputLens []int       `json:"output_lens"`
	TTFTs      []float64   `json:"ttfts"`     // s
	ITLs       [][]float64 `json:"itls"`      // s
	Latencies  []float64   `json:"latencies"` // s
	StartTimes []float64   `json:"start_times"`
	QueueTimes []float64   `json:"queue_times"`
	figures    map[string]float64
}

func readBench(t *testing.T, name string) bench {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "recordings", "vllm-0.32.0", "bench", name))
	require.NoError(t, err)
	var b bench
	require.NoError(t, json.Unmarshal(raw, &b))
	var all map[string]any
	require.NoError(t, json.Unmarshal(raw, &all))
	b.figures = map[string]float64{}
	for k, v := range all {
		if f, ok := v.(float64); ok {
			b.figures[k] = f
		}
	}
	require.NotEmpty(t, b.TTFTs)
	return b
}

// seconds restores the nanosecond clock that vLLM read (perf_counter) from the float it wrote.
func seconds(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }

// samples plays the recorded times back as the events that a client would have seen: token events with choices, then the
// usage message and [DONE], which no figure may count.
func (b bench) samples(chat bool) []metrics.Sample {
	var all []metrics.Sample
	for i := range b.TTFTs {
		x := api.Exchange{Status: 200}
		at := b.TTFTs[i]
		first := `{"choices":[{"index":0,"text":"","finish_reason":null}]}`
		if chat {
			first = `{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}`
		}
		x.Events = append(x.Events, api.Event{At: seconds(at), Data: []byte(first)})
		for _, gap := range b.ITLs[i] {
			at += gap
			x.Events = append(x.Events, api.Event{At: seconds(at), Text: "y", Data: []byte(`{"choices":[{"index":0,"text":"y"}]}`)})
		}
		x.Events = append(x.Events,
			api.Event{At: seconds(at) + 40*time.Millisecond, Data: []byte(`{"choices":[],"usage":{"completion_tokens":16}}`)},
			api.Event{At: seconds(at) + 41*time.Millisecond, Data: []byte(`[DONE]`)})
		x.End = seconds(at) + 50*time.Millisecond
		all = append(all, metrics.Sample{Exchange: x, InputTokens: b.InputLens[i], OutputTokens: b.OutputLens[i]})
	}
	return all
}

// What `vllm bench serve` 0.32.0 derived from its own details, the profile derives too, to 1e-9.
func TestVLLMProfileAgreesWithVLLMBench(t *testing.T) {
	for _, file := range []string{"a-in64-out16-rate4.json", "c-in64-out16-inf-conc2.json", "d-in128-out32-inf.json", "g-chat-in64-out16-conc4.json"} {
		t.Run(file, func(t *testing.T) {
			b := readBench(t, file)
			samples := b.samples(file[0] == 'g')
			sum := metrics.Summarize(metrics.VLLM, samples, seconds(b.Duration))
			require.Equal(t, 30, sum.OK)
			require.Zero(t, sum.Failed)

			compared := 0
			same := func(key string, v metrics.Value) {
				t.Helper()
				want, ok := b.figures[key]
				require.True(t, ok, "the recording has no %s", key)
				got, ok := v.Get()
				require.True(t, ok, "%s: %s", key, v.Reason())
				assert.InEpsilon(t, want, got, 1e-9, key)
				compared++
			}
			for name, d := range map[string]metrics.Dist{"ttft": sum.TTFT, "tpot": sum.TPOT, "itl": sum.ITL, "e2el": sum.E2EL} {
				same("mean_"+name+"_ms", d.Mean)
				same("median_"+name+"_ms", d.Median)
				same("std_"+name+"_ms", d.Std)
				assert.False(t, d.P99.OK(), "30 requests cannot support a p99")
				assert.Equal(t, "30 requests, p99 needs 368; see max", d.P99.Reason())

				// The definition of the percentile is checked past the guard, which would refuse all three here.
				values := pool(t, samples, name)
				same("p50_"+name+"_ms", metrics.Of(metrics.Percentile(values, 50)))
				same("p95_"+name+"_ms", metrics.Of(metrics.Percentile(values, 95)))
				same("p99_"+name+"_ms", metrics.Of(metrics.Percentile(values, 99)))
			}
			same("request_throughput", sum.RequestRate)
			same("output_throughput", sum.OutputTokenRate)
			same("total_token_throughput", sum.TotalTokenRate)
			same("total_input_tokens", sum.InputTokens)
			same("total_output_tokens", sum.OutputTokens)
			assert.Equal(t, 4*6+5, compared)
		})
	}
}

// The rules that a plausible other client would have are off by more than the parity test allows: the test above can fail.
func TestOtherDefinitionsDisagreeWithVLLMBench(t *testing.T) {
	b := readBench(t, "g-chat-in64-out16-conc4.json")
	off := func(change func(*metrics.Sample)) metrics.Summary {
		samples := b.samples(true)
		for i := range samples {
			change(&samples[i])
		}
		return metrics.Summarize(metrics.VLLM, samples, seconds(b.Duration))
	}
	differs := func(key string, v metrics.Value) {
		t.Helper()
		got, ok := v.Get()
		require.True(t, ok)
		assert.Greater(t, math.Abs(got/b.figures[key]-1), 1e-6, key)
	}

	content := off(func(s *metrics.Sample) { s.Exchange.Events = s.Exchange.Events[1:] }) // TTFT at first content
	differs("mean_ttft_ms", content.TTFT.Mean)
	differs("mean_itl_ms", content.ITL.Mean)

	closing := off(func(s *metrics.Sample) { // E2EL at the usage message, vLLM's rule before #55508
		e := s.Exchange.Events
		e[len(e)-2].Data = []byte(`{"choices":[{}]}`)
	})
	differs("mean_e2el_ms", closing.E2EL.Mean)
	differs("mean_tpot_ms", closing.TPOT.Mean)

	events := off(func(s *metrics.Sample) { s.OutputTokens = len(s.Exchange.Events) - 2 }) // chunks taken for tokens
	differs("mean_tpot_ms", events.TPOT.Mean)
}

func pool(t *testing.T, samples []metrics.Sample, name string) []float64 {
	t.Helper()
	values := pooled(metrics.VLLM, samples, name)
	require.NotEmpty(t, values)
	return values
}

// pooled gives all values of a figure over the successes, ascending.
func pooled(p metrics.Profile, samples []metrics.Sample, name string) []float64 {
	var all []float64
	for i := range samples {
		f, err := p.Figures(&samples[i])
		if err != nil {
			continue
		}
		one := map[string]metrics.Value{"ttft": f.TTFT, "tpot": f.TPOT, "e2el": f.E2EL, "audio_ttfp": f.AudioTTFP}[name]
		if name == "itl" {
			all = append(all, f.ITL...)
		} else if v, ok := one.Get(); ok {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return all
}
