package offline

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stubbed gives an engine that runs the real runner.py in a real Python, with testdata/stub in place of vLLM.
func stubbed(t *testing.T, args map[string]any) *VLLM {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 in PATH: install Python 3.9 or later to test runner.py itself; the protocol is tested without")
	}
	stub, err := filepath.Abs("testdata/stub")
	require.NoError(t, err)
	v := &VLLM{
		Python: python, Model: "m", Args: args, Env: []string{"PYTHONPATH=" + stub, "PYTHONDONTWRITEBYTECODE=1"},
		Log: filepath.Join(t.TempDir(), "runner.log"), LoadTimeout: time.Minute, BatchTimeout: time.Minute,
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestRunnerProgram(t *testing.T) {
	v := stubbed(t, nil)
	loaded, err := v.Load(within(t, patience))
	require.NoError(t, err)
	assert.Equal(t, "0.0-stub", loaded.Version)
	assert.Equal(t, "vllm", loaded.Engine)
	assert.Regexp(t, `^3\.\d+\.\d+`, loaded.Python)
	got, err := v.Generate(within(t, patience), []Job{
		{Prompt: "你好, world", MaxTokens: 3}, {PromptIDs: []int{104, 0, 105}, Margins: true},
	})
	require.NoError(t, err)
	require.Len(t, got, 2)
	assert.Equal(t, "你", got[0].Text)
	assert.Equal(t, []int{0xe4, 0xbd, 0xa0}, got[0].TokenIDs)
	assert.Equal(t, 13, got[0].PromptTokens)
	assert.Equal(t, 4, got[0].CachedTokens)
	assert.Equal(t, "length", got[0].FinishReason)
	assert.Nil(t, got[0].Margins)
	assert.Equal(t, EngineClock, got[0].Clock)
	assert.GreaterOrEqual(t, got[0].FirstToken, 20*time.Millisecond, "latency, after the arrival")
	assert.InDelta(t, 0.05, (got[0].LastToken - got[0].FirstToken).Seconds(), 1e-6)
	assert.Equal(t, "h\x00i", got[1].Text)
	assert.Equal(t, "stop", got[1].FinishReason)
	assert.Equal(t, 0.75, got[1].Margins[0])
	assert.True(t, math.IsNaN(got[1].Margins[1]), "no second token, no margin")
	require.NoError(t, v.Close())
	log, err := os.ReadFile(v.Log)
	require.NoError(t, err)
	assert.Contains(t, string(log), "stub: a batch of 2\nstub: engine core shut down\n", "what Python prints is the log and no answer")
}

// Times that the engine doesn't give, or that cannot be true, are not made up.
func TestRunnerTimes(t *testing.T) {
	for _, behave := range []string{"no-metrics", "never-set", "clock-set-back", "clock-set-on"} {
		t.Run(behave, func(t *testing.T) {
			t.Parallel()
			got, err := stubbed(t, map[string]any{"behave": behave}).Generate(within(t, patience), []Job{{Prompt: "x"}})
			require.NoError(t, err)
			require.Equal(t, BatchClock, got[0].Clock)
			require.Equal(t, NotMeasured, got[0].FirstToken)
			require.Positive(t, got[0].End)
		})
	}
}

// vLLM's two clocks may put the last token behind the end of the batch. It cannot have been there.
func TestRunnerLastTokenWithinTheBatch(t *testing.T) {
	began := time.Now()
	got, err := stubbed(t, map[string]any{"behave": "late-last"}).Generate(within(t, patience), []Job{{Prompt: "x"}})
	require.NoError(t, err)
	require.Equal(t, EngineClock, got[0].Clock)
	require.Less(t, got[0].LastToken, time.Since(began))
	require.GreaterOrEqual(t, got[0].LastToken, 100*time.Millisecond, "the stub's batch takes that long")
}

func TestRunnerErrors(t *testing.T) {
	t.Run("model", func(t *testing.T) {
		t.Parallel()
		v := stubbed(t, nil)
		v.Model = "missing"
		_, err := v.Load(within(t, patience))
		require.Equal(t, Exception, KindOf(err))
		require.ErrorContains(t, err, "offline load: exception: OSError: no such model: missing")
		require.ErrorContains(t, err, "testdata/stub/vllm/__init__.py")
	})
	t.Run("no vllm", func(t *testing.T) {
		t.Parallel()
		v := stubbed(t, nil)
		v.Env = []string{"PYTHONPATH="}
		_, err := v.Load(within(t, patience))
		require.ErrorContains(t, err, "ModuleNotFoundError: No module named 'vllm'")
	})
	t.Run("unknown argument", func(t *testing.T) {
		t.Parallel()
		_, err := stubbed(t, map[string]any{"dtyp": "float32"}).Load(within(t, patience))
		require.ErrorContains(t, err, "TypeError: ")
		require.ErrorContains(t, err, "dtyp")
	})
	t.Run("exit", func(t *testing.T) {
		t.Parallel()
		_, err := stubbed(t, map[string]any{"behave": "exit"}).Load(within(t, patience))
		require.ErrorContains(t, err, "SystemExit: the platform is not supported")
	})
	t.Run("batch", func(t *testing.T) {
		t.Parallel()
		v := stubbed(t, map[string]any{"behave": "raise"})
		for range 2 { // and it lives on
			_, err := v.Generate(within(t, patience), []Job{{Prompt: "x"}})
			require.Equal(t, Exception, KindOf(err))
			require.ErrorContains(t, err, "ValueError: prompt 你好 is too long")
		}
		require.NoError(t, v.Close())
	})
	t.Run("lost output", func(t *testing.T) {
		t.Parallel()
		_, err := stubbed(t, map[string]any{"behave": "lose"}).Generate(within(t, patience), []Job{{Prompt: "x"}, {Prompt: "y"}})
		require.ErrorContains(t, err, "RuntimeError: 1 outputs for 2 prompts")
	})
	t.Run("text that is no UTF-8", func(t *testing.T) {
		t.Parallel()
		got, err := stubbed(t, map[string]any{"behave": "surrogate"}).Generate(within(t, patience), []Job{{Prompt: "你", MaxTokens: 1}})
		require.NoError(t, err)
		require.Equal(t, "\uFFFD", got[0].Text)
	})
}
