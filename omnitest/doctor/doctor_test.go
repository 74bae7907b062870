package doctor_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/doctor"
)

func TestMain(m *testing.M) { omnitest.Main(m) }

func examine(t *testing.T, o doctor.Options) map[string]doctor.Finding {
	t.Helper()
	all, err := doctor.Examine(t.Context(), o)
	require.NoError(t, err)
	byName := map[string]doctor.Finding{}
	for _, f := range all {
		byName[f.Name] = f
		assert.NotEmpty(t, f.Text, f.Name)
		assert.Equal(t, f.OK, f.Remedy == "", "%s: a finding is good or has a remedy", f.Name)
	}
	assert.Len(t, byName, len(doctor.Names()))
	return byName
}

func TestGoodMachine(t *testing.T) {
	all := examine(t, doctor.Options{})
	for _, name := range []string{"go", "locks", "reference", "stack", "variables"} {
		assert.True(t, all[name].OK, "%s: %s", name, all[name].Text)
	}
	assert.Contains(t, all["reference"].Text, "proxy, prefill, decode and dit start in ")
}

func TestBadMachine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "stack.yaml")
	require.NoError(t, os.WriteFile(file, []byte("stages:\n  prefill: {engine: vllm, vllm: {venv: /nowhere/venv, model_path: m}}\n"), 0o600))
	notAFolder := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(notAFolder, nil, 0o600))
	t.Setenv("PATH", dir)
	t.Setenv("TMPDIR", notAFolder)
	all := examine(t, doctor.Options{
		VLLMCPU: filepath.Join(dir, "none"),
		Environ: []string{"OMNITEST_STACK=" + file, "OMNITEST_STAKC=x", "HOME=/root"},
	})
	for name, says := range map[string]string{
		"go":        `go version: exec: "go": executable file not found`,
		"locks":     "not a directory",
		"reference": "not a directory",
		"python":    "Python 3.11, 3.12 or 3.13 is needed, and none was found in PATH",
		"vllm-cpu":  "vLLM on a CPU is not ready",
		"stack":     "stages.prefill: the virtual environment is not installed: /nowhere/venv is no folder",
		"variables": "OMNITEST_STAKC: not a variable of omnitest, so it has no effect",
	} {
		assert.False(t, all[name].OK, name)
		assert.Contains(t, all[name].Text, says, name)
	}
}

func TestStackAndVariables(t *testing.T) {
	look := func(environ ...string) map[string]doctor.Finding {
		all, err := doctor.Examine(context.Background(), doctor.Options{Environ: environ})
		require.NoError(t, err)
		byName := map[string]doctor.Finding{}
		for _, f := range all {
			byName[f.Name] = f
		}
		return byName
	}
	all := look("OMNITEST_STACK=/nowhere.yaml", "OMNITEST_OUT=out")
	assert.Contains(t, all["stack"].Text, "/nowhere.yaml: no such file")
	assert.Contains(t, all["variables"].Text, "OMNITEST_OUT=out is a relative path")

	all = look("OMNITEST_STACK=../../fixtures/stacks/vllm-cpu-pd-remote.yaml", "OMNITEST_OUT=/tmp")
	assert.Contains(t, all["stack"].Text, "vllm-cpu-pd-remote.yaml (vllm-cpu-pd-remote)")
	assert.Equal(t, "OMNITEST_OUT=/tmp OMNITEST_STACK=../../fixtures/stacks/vllm-cpu-pd-remote.yaml", all["variables"].Text)
}

func TestNeed(t *testing.T) {
	_, err := doctor.Examine(t.Context(), doctor.Options{Need: []string{"gpuu"}})
	require.EqualError(t, err, `doctor: nothing is called "gpuu"; known: go, locks, reference, python, vllm-cpu, gpu, stack, variables`)
	all := []doctor.Finding{{Name: "go", OK: true}, {Name: "gpu"}, {Name: "python"}}
	assert.Equal(t, []doctor.Finding{{Name: "gpu"}}, doctor.Missing(all, []string{"gpu", "go"}))
	assert.Empty(t, doctor.Missing(all, nil), "nothing was asked for")
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	doctor.Print(&b, []doctor.Finding{{Name: "go", OK: true, Text: "go1.26"}, {Name: "vllm-cpu", Text: "a\nb", Remedy: "do c"}})
	assert.Equal(t, `ok       go         go1.26
missing  vllm-cpu   a
                    b
                    -> do c
`, b.String())
}

// The variables that doctor knows are those that the facade reads.
func TestVariablesAreTheFacades(t *testing.T) {
	var names []string
	for name := range doctor.Variables {
		names = append(names, name)
	}
	assert.ElementsMatch(t, []string{omnitest.EnvStack, omnitest.EnvFaults, omnitest.EnvOut, omnitest.EnvUpdate, omnitest.EnvRequire}, names)
}
