package theory

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func at(v float64) *float64 { return &v }

func planted(fraction float64) *Prediction {
	return &Prediction{GPU: "H200", Seconds: 1.1, Memory: Memory{Weights: 50 * gib, Activations: 4 * gib, Peak: VAEDecode, Context: 2 * gib}, Stages: []Stage{
		{Name: TextEncode, Calls: 1, Bound: 0.1, Efficiency: 1, Each: 0.1, Seconds: 0.1},
		{Name: Denoise, Calls: 10, Bound: 0.04, Efficiency: fraction, Each: 0.1, Seconds: 1},
	}}
}

// TestCompareReasons plants each cause and expects it by name; what is within 20 % needs none.
func TestCompareReasons(t *testing.T) {
	p := planted(0.4)
	for _, c := range []struct {
		m      Measured
		ratio  float64
		off    bool
		reason string
	}{
		{Measured{Stage: Denoise, Value: at(0.119)}, 1.19, false, ""},
		{Measured{Stage: Denoise, Value: at(0.081)}, 0.81, false, ""},
		{Measured{Stage: Denoise, Value: at(0.3), Busy: at(0.42), Clock: at(1980), Maximum: at(1980)}, 3, true,
			"the GPU was busy for 42 % of the time: the host did not launch work fast enough"},
		{Measured{Stage: Denoise, Value: at(0.13), Busy: at(0.98), Clock: at(1305), Maximum: at(1980)}, 1.3, true,
			"the SM clock was 1305 MHz of 1980: power or temperature cap"},
		{Measured{Stage: Denoise, Value: at(0.2), Busy: at(1), Clock: at(1900), Maximum: at(1980), Other: at(0.5)}, 2, true,
			"other work ran on the GPU for 50 % of the time"},
		{Measured{Stage: Denoise, Value: at(0.2)}, 2, true,
			"not explained; not measured: GPU utilisation, SM clock, other work on the GPU"},
		{Measured{Stage: Denoise, Value: at(0.2), Busy: at(1), Clock: at(1900), Maximum: at(1980), Other: at(0)}, 2, true,
			"not explained by GPU utilisation, SM clock or other work: the kernels reach less of the roofline here than where the fraction was fitted"},
		{Measured{Stage: Denoise, Value: at(0.03)}, 0.3, true,
			"faster than the roofline of H200 allows (0.04 s): work was skipped (a cache, fewer tokens or steps), or it is another model or GPU"},
		{Measured{Stage: Denoise, Value: at(0.06)}, 0.6, true,
			"a larger share of the roofline than the 0.40 that denoise was predicted with"},
		{Measured{Stage: TextEncode, Value: at(0.2)}, 2, true,
			"predicted is the bound: no achieved fraction was stated for text_encode (this measurement makes it 0.50)"},
		{Measured{Stage: "total", Value: at(2.2)}, 2, true,
			"the total also holds queues, hops and host work, which no stage predicts"},
		{Measured{Stage: "memory", Value: at(80 * gib)}, 80.0 / 56, true,
			"more than weights (50.0 GiB), cache, states, activations of vae_decode (4.0 GiB) and overhead: the driver shows the allocator's high-water mark of earlier, larger requests, or a cache reserved in advance"},
		{Measured{Stage: "allocated", Value: at(27 * gib)}, 0.5, true,
			"less than the weights and activations need at once: parts are offloaded, quantised, sliced or tiled"},
	} {
		got := Compare(p, []Measured{c.m})
		require.Len(t, got, 1)
		require.NotNil(t, got[0].Ratio, c.reason)
		assert.InDelta(t, c.ratio, *got[0].Ratio, 1e-9)
		assert.Equal(t, c.off, got[0].Off)
		assert.Equal(t, c.reason, got[0].Reason)
	}
}

// TestCompareWithoutFigures: what was not measured has no ratio and is not 0.
func TestCompareWithoutFigures(t *testing.T) {
	for want, m := range map[string]Measured{
		"not measured: dit attached by URL":               {Stage: Denoise, WhyNot: "dit attached by URL"},
		"not measured":                                    {Stage: Denoise, Value: at(math.NaN())},
		"not predicted: the prediction has no such stage": {Stage: "prefill", Value: at(1)},
		"no ratio: 0 measured, 0.1 predicted":             {Stage: Denoise, Value: at(0)},
	} {
		got := Compare(planted(0.4), []Measured{m})[0]
		assert.Nil(t, got.Ratio)
		assert.False(t, got.Off)
		assert.Equal(t, want, got.Reason)
	}
}

func TestBottleneck(t *testing.T) {
	// two requests a second; DiT 0.4 s, one at a time; decode 1.6 s, but sixteen at a time
	f, err := FindBottleneck(2, 2.3, []Station{{Name: "prefill", Seconds: 0.1}, {Name: "decode", Seconds: 1.6, Servers: 16, Limit: "memory"}, {Name: "dit", Seconds: 0.4, Limit: "compute"}})
	require.NoError(t, err)
	assert.Equal(t, "dit", f.Bottleneck)
	assert.Equal(t, "decode", f.Longest)
	assert.InDelta(t, 0.8, f.Loads[2].Utilisation, 1e-9) // 2 x 0.4
	assert.InDelta(t, 0.2, f.Loads[1].Utilisation, 1e-9) // 2 x 1.6 / 16
	assert.InDelta(t, 2.5, f.Loads[2].Ceiling, 1e-9)
	assert.InDelta(t, 0.2, f.Residual, 1e-9)
	assert.InDelta(t, 2.3/(2.3-0.8), f.Loads[1].Doubled, 1e-9) // 1.6 s become 0.8 s
	assert.InDelta(t, 2.3/0.7, f.Loads[1].Gone, 1e-9)
	assert.Equal(t, `dit is busy for 80 % of the time (2 requests/s x 0.4 s / 1) and ends at 2.5 requests/s
decode takes 1.6 s of a request's 2.3 s; twice as fast it would make requests 1.53 times as fast, and 3.29 times at most
decode is bound by reading memory: a larger batch shares the reading, smaller weights or a smaller cache shorten it`, f.String())

	f, err = FindBottleneck(1, 5, []Station{{Name: "dit", Seconds: 0.3}})
	require.NoError(t, err)
	assert.Equal(t, "residual", f.Longest)
	assert.Equal(t, `dit is busy for 30 % of the time (1 requests/s x 0.3 s / 1) and ends at 3.333 requests/s
4.7 s of a request's 5 s belong to no stage: queues and hops, not computation
no stage is busy for half of the time: the load of 1 requests/s does not fill the stack`, f.String())

	for want, call := range map[string]func() (*Finding, error){
		"cannot estimate the bottleneck because stage dit would be busy for 240 % of the time (3/s x 0.8 s / 1): its demand holds queueing, or it serves more at once than was said": func() (*Finding, error) {
			return FindBottleneck(3, 1, []Station{{Name: "dit", Seconds: 0.8}})
		},
		"cannot estimate the bottleneck because the stages take 1.5 s together and a request 1 s: they overlap, or are not of the same run": func() (*Finding, error) {
			return FindBottleneck(0.5, 1, []Station{{Name: "a", Seconds: 0.9}, {Name: "b", Seconds: 0.6}})
		},
		"cannot estimate the bottleneck because 0 stages, 1 requests a second and 1 s a request are not all measured": func() (*Finding, error) {
			return FindBottleneck(1, 1, nil)
		},
		"cannot estimate the bottleneck because stage a has a demand of NaN s and 0 servers": func() (*Finding, error) {
			return FindBottleneck(1, 1, []Station{{Name: "a", Seconds: math.NaN()}})
		},
	} {
		_, err := call()
		assert.EqualError(t, err, want)
	}
	assert.InDelta(t, 1.6, Speedup(0.75, 2), 1e-9) // Amdahl: 1/(0.25+0.375)
	assert.InDelta(t, 4, Speedup(0.75, math.Inf(1)), 1e-9)
}
