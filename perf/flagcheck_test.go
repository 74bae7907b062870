package perf

import (
	"flag"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func parse(args ...string) (*settings, error) {
	f := flag.NewFlagSet("perf", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	s := register(f)
	if err := f.Parse(args); err != nil {
		return s, err
	}
	return s, s.check(f)
}

func TestFlags(t *testing.T) {
	s, err := parse("-max-concurrency=1,4", "-request-rate", "0.5, 8,inf", "-burstiness=0.3", "-goodput=ttft:100 tpot:20", "-metric-percentiles=50,99.9",
		"-percentile-metrics=ttft,e2el", "-seed=0", "-output-size=1376x768,512x512", "-profile=vllm-omni")
	require.NoError(t, err)
	assert.Equal(t, []int{1, 4}, s.concurrency.values)
	assert.Equal(t, "[0.5 8 +Inf]", sprint(s.rates.values))
	assert.Equal(t, "ttft:100 tpot:20", s.slos.String())
	assert.Equal(t, []float64{50, 99.9}, s.asked)
	assert.Equal(t, []string{"ttft", "e2el"}, s.names)
	assert.Equal(t, "vllm-omni", s.definition.Name)
	assert.Equal(t, "[1376x768 512x512]", sprint(s.outputSize.values))
	assert.Zero(t, s.seed, "a seed that was given is taken, also 0")
	s, err = parse()
	require.NoError(t, err)
	assert.NotZero(t, s.seed)
}

func TestBadFlags(t *testing.T) {
	for _, c := range []struct{ arg, says string }{
		{"-max-concurency=1", "flag provided but not defined: -max-concurency"},
		{"-max-concurrency=0", `invalid value "0" for flag -max-concurrency: "0": want a whole number of at least 1`},
		{"-max-concurrency=1,,4", `invalid value "1,,4" for flag -max-concurrency: "": want a whole number of at least 1`},
		{"-max-concurrency=1.5", `invalid value "1.5" for flag -max-concurrency: "1.5": want a whole number of at least 1`},
		{"-request-rate=0", `invalid value "0" for flag -request-rate: "0": want requests per second above 0, or inf`},
		{"-request-rate=4,-1", `invalid value "4,-1" for flag -request-rate: "-1": want requests per second above 0, or inf`},
		{"-request-rate=NaN", `invalid value "NaN" for flag -request-rate: "NaN": want requests per second above 0, or inf`},
		{"-burstiness=0", `invalid value "0" for flag -burstiness: "0": want a number above 0`},
		{"-burstiness=NaN", `invalid value "NaN" for flag -burstiness: "NaN": want a number above 0`},
		{"-burstiness=1,2", `invalid value "1,2" for flag -burstiness: want one value`},
		{"-random-input-len=-5", `invalid value "-5" for flag -random-input-len: "-5": want a whole number of at least 1`},
		{"-random-range-ratio=1", "-random-range-ratio=1: want 0 to below 1"},
		{"-random-range-ratio=NaN", "-random-range-ratio=NaN: want 0 to below 1"},
		{"-num-prompts=0", "-num-prompts=0: want at least 1"},
		{"-num-prompts=-3", "-num-prompts=-3: want at least 1"},
		{"-num-warmups=-1", "-num-warmups=-1: want 0 or more"},
		{"-num-inference-steps=0", "-num-inference-steps=0: want at least 1"},
		{"-goodput=ttfb:100", `-goodput "ttfb:100": unknown objective "ttfb"; there are ttft, tpot, e2el, audio_ttfp, audio_rtf, audio_continuity`},
		{"-metric-percentiles=100", `-metric-percentiles: metric percentiles "100": "100": want numbers above 0 and below 100, like 50,95,99.9`},
		{"-percentile-metrics=ttft,e2e", `-percentile-metrics=ttft,e2e: "e2e": want some of ttft, tpot, itl, e2el`},
		{"-profile=sglang", "-profile=sglang: want vllm or vllm-omni"},
		{"-plan=big", "-plan=big: want small or design"},
		{"-output-size=0x768", `invalid value "0x768" for flag -output-size: "0x768": want WIDTHxHEIGHT of at least 16x16`},
		{"-seed=x", `invalid value "x" for flag -seed: parse error`},
		{"-theory-gpu=H200", "-theory-gpu=H200 and -theory-model=: a prediction needs both"},
		{"-theory-model=qwen3-8b", "-theory-gpu= and -theory-model=qwen3-8b: a prediction needs both"},
		{"4", `"4" is no flag: values stand behind =, lists have commas and no spaces, as in -max-concurrency=1,4`},
	} {
		_, err := parse(c.arg)
		assert.EqualError(t, err, c.says, c.arg)
	}
	_, err := parse("-max-concurrency=1,8", "-num-prompts=4")
	assert.EqualError(t, err, "-num-prompts=4: -max-concurrency=8 cannot be held with so few")
	_, err = parse("-num-prompts=1")
	assert.EqualError(t, err, "-num-prompts=1: -max-concurrency=4 cannot be held with so few", "also where the plan itself says the concurrency")
	_, err = parse("-max-concurrency=8", "-num-prompts=4", "-request-rate=2")
	assert.NoError(t, err, "an open loop holds no concurrency")
}
