package perf

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/stack"
)

// TestPlantedTimesComeOut: what the measuring side reports is held against what was planted. Only lower bounds are certain on
// a shared machine; the upper ones are wide enough to tell milliseconds from their multiples.
func TestPlantedTimesComeOut(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: plants real waits")
	}
	const perToken, perStep = 200 * time.Microsecond, 10 * time.Millisecond
	s := omnitest.Start(t, stack.Spec{Timing: refstack.Timing{
		Prefill: ar.Timing{PrefillPerToken: perToken}, Decode: ar.Timing{DecodePerStep: perStep},
	}})
	answer, err := s.StreamComplete(t.Context(), api.CompletionRequest{
		Prompt: promptOf(promptTokens), Sampling: api.Sampling{MaxTokens: 20, IgnoreEOS: true},
	}, nil)
	sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{metrics.FromText(answer, err)}, time.Second)
	if sum.Failed > 0 {
		t.Fatal(sum.Failures)
	}
	for _, c := range []struct {
		name    string
		got     metrics.Value
		planted time.Duration
	}{
		{"TTFT", sum.TTFT.Mean, promptTokens * perToken}, // the prompt, on prefill
		{"TPOT", sum.TPOT.Mean, perStep},
	} {
		planted := float64(c.planted) / float64(time.Millisecond)
		// Events arrive in the client's own time: a step that is late makes the next gap shorter, hence the 2 %.
		if ms, ok := c.got.Get(); !ok || ms < 0.98*planted || ms > 3*planted+50 {
			t.Errorf("%s is %v ms, planted %.1f", c.name, c.got, planted)
		}
	}
}

// TestBenchmarkOfABrokenStackFails: figures of a stack that does not hand over its KV, or paints nothing, are worth nothing.
func TestBenchmarkOfABrokenStackFails(t *testing.T) {
	if testing.Short() || os.Getenv(omnitest.EnvStack) != "" || os.Getenv(omnitest.EnvFaults) != "" {
		t.Skip("runs benchmarks of the reference stack with planted faults")
	}
	for _, c := range []struct{ fault, bench, says string }{
		{"decode.silent-recompute", "Online/conc=2/task=text", "refuted: decode computed"},
		{"decode.error-in-200", "Online/conc=2/task=text", "requests failed"},
		{"dit.blank", "Online/conc=1/task=t2i", "blank"},
		{"dit.wrong-size", "Offline/batch=2/prompt=512", "1360x768"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$", "-test.bench="+c.bench, "-test.benchtime=1x")
		cmd.Env = append(os.Environ(), omnitest.EnvFaults+"="+c.fault, omnitest.EnvOut+"="+t.TempDir())
		text, err := cmd.CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(text), c.says) {
			t.Errorf("%s with %s: %v, want a failure that says %q:\n%s", c.bench, c.fault, err, c.says, text)
		}
	}
}
