package metrics_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
)

var literal = map[string]metrics.Profile{"vllm": asTool(metrics.VLLM), "vllm-omni": asTool(metrics.VLLMOmni)}

func asTool(p metrics.Profile) metrics.Profile {
	p.Literal = true
	return p
}

// TestParityOnGeneratedStreams: bytes through the real client at planned times, figures of both profiles, against a calculator
// that was written from the tools' rules in another language.
func TestParityOnGeneratedStreams(t *testing.T) {
	cases, _ := storedParity(t)
	streams, compared := 0, 0
	traps := map[string]int{}
	for i := range cases.Runs {
		run := &cases.Runs[i]
		streams += len(run.Requests)
		for _, q := range run.Requests {
			for _, trap := range q.Traps {
				traps[trap]++
			}
		}
		diffs, n := run.hold(run.play(t, i%2 == 1))
		compared += n
		for _, d := range diffs {
			t.Errorf("%s: %s", run.Name, d)
		}
	}
	require.GreaterOrEqual(t, streams, 200)
	for _, trap := range []string{"role-chunk", "empty-text", "reasoning", "tool-call", "multi-token-chunk", "usage-on-last-choice", "no-usage",
		"zero-usage", "usage-twice", "split-event", "split-utf8", "missing-blank-line", "early-eof", "cut-event", "reset", "error-event",
		"one-token", "http-500", "empty-body", "only-usage", "bad-json", "media", "image", "comment", "finish-apart"} {
		assert.Positive(t, traps[trap], "no stream has the trap %s", trap)
	}
	t.Logf("%d streams, %d figures agree to 1e-9", streams, compared)
}

// TestParityCasesAreTheCalculatorsOwn: the stored expectation is what Python makes today, and streams of other seeds agree too.
func TestParityCasesAreTheCalculatorsOwn(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs Python for some seconds")
	}
	_, stored := storedParity(t)
	for _, seed := range []string{paritySeed, "1", "20261129"} {
		made, err := python(t, parityScript("generate.py"), nil, seed)
		require.NoError(t, err)
		out, err := python(t, parityScript("calculator.py"), made)
		require.NoError(t, err)
		if seed == paritySeed {
			require.Equal(t, string(stored), string(out), "testdata/parity/cases.json.gz is not what these scripts make: see README.md there")
			continue
		}
		cases := readParity(t, out)
		for i := range cases.Runs {
			diffs, _ := cases.Runs[i].hold(cases.Runs[i].play(t, false))
			assert.Empty(t, diffs, "seed %s, %s", seed, cases.Runs[i].Name)
		}
	}
}

// hold compares what the profiles say of a run's samples with what was expected. It gives the differences, and how many
// figures were compared.
func (run *parityRun) hold(samples []metrics.Sample) (diffs []string, compared int) {
	for _, want := range run.Want {
		p := literal[want.Profile]
		same := func(what string, want float64, got metrics.Value, unit float64) {
			compared++
			v, ok := got.Get()
			if !ok || math.Abs(v/unit-want) > 1e-9*max(1, math.Abs(want)) {
				diffs = append(diffs, fmt.Sprintf("%s, %s: %v (%s), want %v", p.Name, what, v/unit, got.Reason(), want))
			}
		}
		for i, w := range want.Requests {
			f, err := p.Figures(&samples[i])
			where := fmt.Sprintf("request %d %v ", i, run.Requests[i].Traps)
			compared++
			if (err == nil) != w.OK {
				diffs = append(diffs, fmt.Sprintf("%s, %sok %v, want %v: %v", p.Name, where, err == nil, w.OK, err))
				continue
			}
			if err != nil {
				continue
			}
			same(where+"ttft", w.TTFT, f.TTFT, 1e3)
			same(where+"latency", w.Latency, f.E2EL, 1e3)
			same(where+"tokens", w.Tokens, f.OutputTokens, 1)
			same(where+"prompt", w.Prompt, f.InputTokens, 1)
			same(where+"ITL values", float64(len(w.ITL)), metrics.Of(float64(len(f.ITL))), 1)
			for k := range min(len(w.ITL), len(f.ITL)) {
				same(fmt.Sprintf("%sitl %d", where, k), w.ITL[k], metrics.Of(f.ITL[k]), 1e3)
			}
			if w.TPOT != nil {
				same(where+"tpot", *w.TPOT, f.TPOT, 1e3)
			} else if compared++; f.TPOT.OK() {
				diffs = append(diffs, fmt.Sprintf("%s, %stpot %v, want none", p.Name, where, f.TPOT))
			}
			if p.Name == "vllm-omni" {
				same(where+"audio_ttfp", w.AudioTTFP, f.AudioTTFP, 1e3)
				same(where+"audio_rtf", w.AudioRTF, f.AudioRTF, 1)
			}
			if samples[i].Text() != w.Text && !slices.Contains(run.Requests[i].Traps, "media") { // vllm takes base64 for text
				diffs = append(diffs, fmt.Sprintf("%s, %stext %q, want %q", p.Name, where, samples[i].Text(), w.Text))
			}
		}
		slos, err := metrics.ParseSLOs(run.Goodput)
		if err != nil {
			return append(diffs, err.Error()), compared
		}
		sum := metrics.Options{SLOs: slos, Percentiles: []float64{25}}.Summarize(p, samples, time.Duration(run.WallNS))
		same("completed", want.Result["completed"], metrics.Of(float64(sum.OK)), 1)
		same("failed", want.Result["failed"], metrics.Of(float64(sum.Failed)), 1)
		same("request_throughput", want.Result["request_throughput"], rate(sum.RequestRate), 1)
		same("request_goodput", want.Result["request_goodput"], rate(sum.Goodput.Rate), 1)
		for key, v := range map[string]metrics.Value{
			"total_input_tokens": sum.InputTokens, "total_output_tokens": sum.OutputTokens, "output_throughput": sum.OutputTokenRate,
			"total_token_throughput": sum.TotalTokenRate, "max_output_tokens_per_s": sum.PeakOutputRate, "max_concurrent_requests": sum.PeakConcurrency,
		} {
			same(key, want.Result[key], rate(v), 1)
		}
		dists := map[string]metrics.Dist{"ttft": sum.TTFT, "tpot": sum.TPOT, "itl": sum.ITL, "e2el": sum.E2EL}
		if sum.Audio != nil && p.Name == "vllm-omni" {
			dists["audio_ttfp"] = sum.Audio.TTFP
		}
		for name, d := range dists {
			same("n of "+name, float64(want.N[name]), metrics.Of(float64(d.N)), 1)
			if want.N[name] == 0 {
				if d.Mean.OK() {
					diffs = append(diffs, fmt.Sprintf("%s: a mean %s of nothing", p.Name, name))
				}
				continue
			}
			same("mean "+name, want.Result["mean_"+name], d.Mean, 1e3)
			same("std "+name, want.Result["std_"+name], d.Std, 1e3)
			same("median "+name, want.Result["median_"+name], d.Median, 1e3)
			values := pooled(p, samples, name)
			for _, q := range []float64{25, 90, 95, 99, 99.9} { // past the guard that refuses them for so few requests
				same(fmt.Sprintf("p%v %s", q, name), want.Result[fmt.Sprintf("p%v_%s", q, name)], metrics.Of(metrics.Percentile(values, q)), 1e3)
			}
		}
	}
	return diffs, compared
}

// rate: the tools write 0 where there was nothing to count.
func rate(v metrics.Value) metrics.Value {
	if !v.OK() && strings.HasPrefix(v.Reason(), "no request ") {
		return metrics.Of(0)
	}
	return v
}

// TestParityMutants: the calculator with one rule changed is off on the stored cases by far more than the profiles may be. What
// agrees with the unchanged one has that rule.
func TestParityMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs Python for some seconds")
	}
	_, stored := storedParity(t)
	out, err := python(t, parityScript("mutants.py"), stored)
	require.NoError(t, err)
	var off []struct {
		Name    string `json:"name"`
		Figures int    `json:"figures_off"`
	}
	require.NoError(t, json.Unmarshal(out, &off))
	require.Equal(t, "nothing changed", off[0].Name)
	require.Zero(t, off[0].Figures, "the unchanged calculator does not agree with itself")
	require.Len(t, off[1:], 38)
	for _, m := range off[1:] {
		if assert.Positive(t, m.Figures, "%s: nobody notices", m.Name) {
			t.Logf("killed: %s (%d figures off)", m.Name, m.Figures)
		}
	}
}
