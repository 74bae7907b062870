package perf

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// bench runs this test binary as a benchmark with the flags, and gives all it printed.
func bench(t *testing.T, out, faults, pattern string, flags ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"-test.run=^$", "-test.bench=" + pattern, "-test.benchtime=1x"}, flags...)...)
	cmd.Env = append(os.Environ(), omnitest.EnvFaults+"="+faults, omnitest.EnvOut+"="+out)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func benchable(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Getenv(omnitest.EnvStack) != "" || os.Getenv(omnitest.EnvFaults) != "" {
		t.Skip("runs benchmarks of the reference stack with planted faults")
	}
}

// TestBenchmarkOfABrokenStackFails: figures of a stack that does not hand over its KV, or paints nothing, are worth nothing.
func TestBenchmarkOfABrokenStackFails(t *testing.T) {
	benchable(t)
	for _, c := range []struct{ fault, bench, says string }{
		{"decode.silent-recompute", "Online/conc=2/task=text", "refuted: decode computed"},
		{"decode.error-in-200", "Online/conc=2/task=text", "12 of 12 requests failed"},
		{"decode.wrong-layout", "Online/conc=2/task=text", "not the known answer"},
		{"decode.truncate-stream", "Rate/rate=4/task=text", "requests failed"},
		{"decode.silent-recompute", "Rate/rate=4/task=text", "refuted: decode computed"},
		{"dit.blank", "Online/conc=1/task=t2i", "blank"},
		{"dit.repeat-picture", "Online/conc=1/task=t2i", "pictures of different prompts are alike"},
		{"dit.wrong-count", "Online/conc=1/task=t2i", "5 of 5 requests failed"},
		{"decode.silent-recompute", "Online/conc=1/task=t2i", "refuted: decode computed"},
		{"proxy.cross-plans", "Online/conc=1/task=t2i", "refuted"},
		{"dit.edit-ignored", "Online/conc=1/task=edit", "colour is missing"},
		{"dit.edit-redraws", "Online/conc=1/task=edit", "picture changed outside the region"},
		{"dit.wrong-size", "Offline/batch=2", "1360x768"},
		{"dit.edit-redraws", "Offline/batch=2", "picture changed outside the region"},
		{"decode.error-in-200", "Decode/conc=1", "6 of 6 requests failed"},
		{"decode.drift=32", "Decode/conc=1", "not the known answer"},
	} {
		t.Run(c.fault+"/"+c.bench, func(t *testing.T) {
			t.Parallel()
			text, err := bench(t, t.TempDir(), c.fault, c.bench, "-seed=7", "-random-input-len=128", "-random-output-len=48")
			if err == nil || !strings.Contains(text, c.says) {
				t.Errorf("%s with %s: %v, want a failure that says %q:\n%s", c.bench, c.fault, err, c.says, text)
			}
		})
	}
}

// TestBadFlagsStartNothing: a plan that makes no sense is an error before a stack is launched.
func TestBadFlagsStartNothing(t *testing.T) {
	benchable(t)
	for flag, says := range map[string]string{
		"-request-rate=0":     `invalid value "0" for flag -request-rate: "0": want requests per second above 0, or inf`,
		"-max-concurency=2":   "flag provided but not defined: -max-concurency",
		"-num-prompts=0":      "perf: -num-prompts=0: want at least 1",
		"-random-range-ratio": "flag needs an argument: -random-range-ratio",
	} {
		out := t.TempDir()
		text, err := bench(t, out, "", ".", flag)
		assert.Error(t, err, flag)
		assert.Contains(t, text, says)
		assert.NotContains(t, text, "Benchmark")
		files, err := os.ReadDir(out)
		assert.NoError(t, err)
		assert.Empty(t, files)
	}
}

// TestNothingMeasuredIsNoSuccess: a stack without the stages of what was asked for, and a pattern that nothing matches.
func TestNothingMeasuredIsNoSuccess(t *testing.T) {
	benchable(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"m","object":"model"}]}`)
	}))
	defer server.Close()
	spec := filepath.Join(t.TempDir(), "stack.yaml")
	require.NoError(t, os.WriteFile(spec, []byte("name: entry\nstages: {proxy: {engine: remote, url: \""+server.URL+"\"}}\n"), 0o600))
	t.Setenv(omnitest.EnvStack, spec)
	for _, pattern := range []string{"Online", "Nothing"} {
		text, err := bench(t, t.TempDir(), "", pattern)
		assert.Error(t, err, text)
		assert.Contains(t, text, "perf: no row was measured: nothing matches -bench "+pattern+", or all of it was skipped; -v gives the reason of each skip\n")
	}
}

// TestInvalidClient: a stack that answers faster than a client on the same cores can read. The row is marked and the benchmark goes on;
// with -strict-client it fails.
func TestInvalidClient(t *testing.T) {
	benchable(t)
	spec := filepath.Join(t.TempDir(), "stack.yaml")
	require.NoError(t, os.WriteFile(spec, []byte("name: fast\ntiming: {decode: {decode_per_step: 1us}}\n"), 0o600))
	t.Setenv(omnitest.EnvStack, spec)
	const says = "INVALID-CLIENT: "
	out := t.TempDir()
	text, err := bench(t, out, "", "Decode/conc=1", "-random-input-len=64", "-random-output-len=64", "-save-result")
	require.NoError(t, err, text)
	assert.Contains(t, text, says)
	assert.Contains(t, text, "omnitest: BenchmarkDecode/conc=1/in=64/out=64: INVALID-CLIENT: ")
	r, err := report.Read(filepath.Join(folder(t, out, "decode"), "result.json"))
	require.NoError(t, err)
	assert.Equal(t, metrics.ClientInvalid, r.Rows[0].Client.Verdict)
	text, err = bench(t, t.TempDir(), "", "Decode/conc=1", "-random-input-len=64", "-random-output-len=64", "-strict-client")
	assert.Error(t, err)
	assert.Contains(t, text, "--- FAIL: BenchmarkDecode/conc=1/in=64/out=64")
	assert.Contains(t, text, says)
}
