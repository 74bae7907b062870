package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain as in main: doctor starts the reference stack from this very program.
func TestMain(m *testing.M) {
	serveRole()
	os.Exit(m.Run())
}

func command(t *testing.T, environ []string, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(t.Context(), args, environ, &o, &e)
	return status, o.String(), e.String()
}

func TestDoctor(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	status, out, errs := command(t, nil, "doctor", "--dir", none)
	require.Zero(t, status, errs)
	assert.Regexp(t, `(?m)^ok       reference  proxy, prefill, decode and dit start in \d`, out)
	assert.Regexp(t, `(?m)^missing  vllm-cpu   vLLM on a CPU is not ready`, out)
	assert.Empty(t, errs)

	status, out, errs = command(t, nil, "doctor", "--dir", none, "--need", "reference,vllm-cpu")
	assert.Equal(t, 1, status)
	assert.Contains(t, out, "ok       reference", "the report comes all the same")
	assert.Equal(t, "omnitest: 1 of 2 needed things are missing\n", errs)

	status, _, _ = command(t, nil, "doctor", "--need", "reference")
	assert.Zero(t, status)

	status, _, errs = command(t, nil, "doctor", "--need", "teapot")
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, `nothing is called "teapot"`)

	_, out, _ = command(t, []string{"OMNITEST_STACK=/nowhere.yaml"}, "doctor", "--dir", none)
	assert.Regexp(t, `(?m)^missing  stack      stack: open /nowhere.yaml`, out)
}

func TestVLLMCPURefuses(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
	for _, args := range [][]string{{"vllm-cpu", "--dir", dir}, {"vllm-cpu", "--dir", dir, "--remove"}} {
		status, _, errs := command(t, nil, args...)
		assert.Equal(t, 1, status)
		assert.Contains(t, errs, "omnitest: vLLM on a CPU is not ready")
	}
	assert.FileExists(t, filepath.Join(dir, "mine"))

	none := filepath.Join(dir, "none")
	status, out, _ := command(t, nil, "vllm-cpu", "--dir", none, "--remove")
	assert.Zero(t, status)
	assert.Equal(t, "vllm-cpu: nothing is left in "+none+"\n", out)
}

func TestWrongCommandLine(t *testing.T) {
	for _, args := range [][]string{{}, {"dcotor"}, {"doctor", "--frob"}, {"vllm-cpu", "here"}} {
		status, out, errs := command(t, nil, args...)
		assert.Equal(t, 80, status, args) // kong's for a wrong command line
		assert.Contains(t, out+errs, "Usage: omnitest", args)
		assert.Contains(t, errs, "omnitest: error: ", args)
	}
	status, out, _ := command(t, nil, "--help")
	assert.Zero(t, status)
	assert.Contains(t, out, "doctor [flags]")
}
