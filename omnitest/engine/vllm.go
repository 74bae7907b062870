package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// VLLM is a real vLLM server ("vllm serve"), started by us on loopback. The zero value of every field but ModelPath means
// vLLM's own default, or what the comment says. The fields without a yaml key are keys of the stage in a stack.yaml,
// because they mean the same for every engine.
//
// Two of them that hand KV over are a prefill and a decode engine:
//
//	p, err := engine.Launch(ctx, engine.VLLM{ModelPath: dir, Model: "m"}, engine.Options{Stage: engine.Prefill})
//	d, err := engine.Launch(ctx, engine.VLLM{ModelPath: dir, Model: "m"}, engine.Options{Stage: engine.Decode})
type VLLM struct {
	// Venv is the folder of a Python virtual environment with vLLM in it; it goes before Bin.
	Venv string `yaml:"venv,omitempty"`
	// Bin is the vllm program; "": found in PATH.
	Bin string `yaml:"bin,omitempty"`
	// ModelPath is a model folder, or the name under which a hub knows the model ("Qwen/Qwen3-8B"). What begins with /, ./,
	// ../ or ~ is a folder and must be there; then vLLM is told not to ask any hub.
	ModelPath   string `yaml:"model_path"`
	DType       string `yaml:"dtype,omitempty"`         // "float32", "bfloat16"
	MaxModelLen int    `yaml:"max_model_len,omitempty"` // tokens

	// Role in the handing over of KV: "kv_producer", "kv_consumer", "kv_both", or "none" for a server that keeps its KV to
	// itself. "": by the stage, prefill produces, decode consumes, any other has none.
	Role           string         `yaml:"kv_role,omitempty"`
	Connector      string         `yaml:"connector,omitempty"`        // "": NixlConnector, where there is a role
	EngineID       string         `yaml:"engine_id,omitempty"`        // "": the instance's name; two instances must differ
	KVBufferDevice string         `yaml:"kv_buffer_device,omitempty"` // "cuda", "cpu"; "": cpu with CPU, else vLLM's default
	Extra          map[string]any `yaml:"connector_config,omitempty"` // kv_connector_extra_config; goes before what we put there

	EnforceEager bool `yaml:"enforce_eager,omitempty"`
	// PromptTokensDetails makes usage tell how many prompt tokens came from a cache: evidence for a handoff.
	PromptTokensDetails bool              `yaml:"prompt_tokens_details,omitempty"`
	Args                []string          `yaml:"args,omitempty"` // further arguments, last
	Env                 map[string]string `yaml:"env,omitempty"`  // further environment, goes before what we set
	CPU                 *VLLMCPU          `yaml:"cpu,omitempty"`  // vLLM built for CPU; nil: for GPU

	Model        string        `yaml:"-"` // served name; "": vLLM's own, asked from /v1/models
	BlockSize    int           `yaml:"-"` // tokens per KV block; on CPU a multiple of 32
	Lease        time.Duration `yaml:"-"` // how long prefill keeps blocks that nobody pulled (NIXL); 0: 30 s in vLLM 0.32
	LoadFailure  string        `yaml:"-"` // kv_load_failure_policy: "fail", "recompute"
	ReadyTimeout time.Duration `yaml:"-"` // 0: 10 minutes
	// Devices to lock while it runs. Where all of them are "gpu<n>" they are also what it gets to see
	// (CUDA_VISIBLE_DEVICES): a prefill and a decode engine would else both load on GPU 0.
	Devices []string `yaml:"-"`
}

// VLLMCPU is what vLLM's CPU build needs besides.
type VLLMCPU struct {
	KVGiB   int `yaml:"kv_gib,omitempty"`  // size of the KV cache; 0: 1 (vLLM itself would take 4 or half of the memory)
	Threads int `yaml:"threads,omitempty"` // OpenMP threads, not bound to cores; 0: 1
}

var _ Engine = VLLM{}

const (
	vllmReady = 10 * time.Minute
	vllmGrace = 20 * time.Second // it stops its workers one after the other

	roleProducer = "kv_producer"
	roleConsumer = "kv_consumer"
	roleBoth     = "kv_both"
	roleNone     = "none"
)

// Kind is "vllm".
func (VLLM) Kind() string { return "vllm" }

// Ports are "http" and, for an engine that hands KV over, "side": the port on which NIXL's handshake listens.
func (v VLLM) Ports() []string {
	if v.Role == roleNone {
		return []string{"http"}
	}
	return []string{"http", "side"}
}

// ours are the arguments that VLLM sets itself: given twice, the last one silently wins and the rest of us looks at the
// wrong port or expects the wrong block size.
var ours = map[string]string{
	"--host":                         "it listens on loopback, on a port reserved for it",
	"--port":                         "it listens on loopback, on a port reserved for it",
	"--model":                        "use model_path",
	"--served-model-name":            "use the stage's model",
	"--dtype":                        "use dtype",
	"--max-model-len":                "use max_model_len",
	"--block-size":                   "use the stage's block_size",
	"--enforce-eager":                "use enforce_eager",
	"--enable-prompt-tokens-details": "use prompt_tokens_details",
	"--kv-transfer-config":           "use kv_role, connector, connector_config",
}

// Validate reports every mistake that can be seen without looking for files.
func (v VLLM) Validate() error {
	var errs []error
	complain := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if v.ModelPath == "" {
		complain("model_path: missing; a model folder, or the name of a model on a hub")
	}
	if v.Venv != "" && v.Bin != "" {
		complain("venv and bin are both given; a venv has its own bin/vllm, use one")
	}
	switch v.Role {
	case "", roleProducer, roleConsumer, roleBoth, roleNone:
	default:
		complain("kv_role: %q; known: %s, %s, %s, %s", v.Role, roleProducer, roleConsumer, roleBoth, roleNone)
	}
	switch v.LoadFailure {
	case "", "fail", "recompute":
	default:
		complain("load_failure_policy: %q; known: fail, recompute", v.LoadFailure)
	}
	if v.MaxModelLen < 0 || v.BlockSize < 0 || v.Lease < 0 || v.ReadyTimeout < 0 {
		complain("max_model_len, block_size, lease and ready_timeout cannot be negative")
	}
	if v.CPU != nil {
		if v.CPU.KVGiB < 0 || v.CPU.Threads < 0 {
			complain("cpu: kv_gib and threads cannot be negative")
		}
		if v.BlockSize%32 != 0 {
			complain("block_size: %d; vLLM on a CPU wants a multiple of 32", v.BlockSize)
		}
	}
	for _, a := range v.Args {
		flag, _, _ := strings.Cut(a, "=")
		if instead, ok := ours[strings.ReplaceAll(flag, "_", "-")]; ok {
			complain("args: %s is not for args: %s", flag, instead)
		}
	}
	return errors.Join(errs...)
}

// Plan finds the program and the model and says how to run them. What is missing is a *NotInstalledError.
func (v VLLM) Plan(p Place) (Plan, error) {
	if err := v.Validate(); err != nil {
		return Plan{}, fmt.Errorf("vllm: %w", err)
	}
	bin, err := v.program()
	if err != nil {
		return Plan{}, err
	}
	if err := v.findModel(); err != nil {
		return Plan{}, err
	}
	role := v.role(p.Stage)
	args, err := v.args(role, p)
	if err != nil {
		return Plan{}, fmt.Errorf("vllm: connector_config: %w", err)
	}
	base := "http://" + loopback(p.Ports["http"])
	plan := Plan{
		Path: bin, Args: args, Env: v.env(role, p),
		BaseURL: base, MetricsURL: base + "/metrics", Model: v.Model,
		ReadyTimeout: cmp.Or(v.ReadyTimeout, vllmReady), StopGrace: vllmGrace, Devices: v.Devices,
	}
	if role != roleNone {
		plan.Connector = v.connector()
	}
	return plan, nil
}

func (v VLLM) role(stage Stage) string {
	switch {
	case v.Role != "":
		return v.Role
	case stage == Prefill:
		return roleProducer
	case stage == Decode:
		return roleConsumer
	}
	return roleNone
}

func (v VLLM) connector() string { return cmp.Or(v.Connector, "NixlConnector") }

// args is the command line after the program's name.
func (v VLLM) args(role string, p Place) ([]string, error) {
	args := []string{"serve", v.ModelPath, "--host", "127.0.0.1", "--port", strconv.Itoa(p.Ports["http"])}
	text := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	number := func(flag string, n int) {
		if n != 0 {
			args = append(args, flag, strconv.Itoa(n))
		}
	}
	text("--served-model-name", v.Model)
	text("--dtype", v.DType)
	number("--max-model-len", v.MaxModelLen)
	number("--block-size", v.BlockSize)
	if v.EnforceEager {
		args = append(args, "--enforce-eager")
	}
	if v.PromptTokensDetails {
		args = append(args, "--enable-prompt-tokens-details")
	}
	if role != roleNone {
		config, err := v.transfer(role, p)
		if err != nil {
			return nil, err
		}
		args = append(args, "--kv-transfer-config", config)
	}
	return append(args, v.Args...), nil
}

// transfer is the JSON of --kv-transfer-config.
func (v VLLM) transfer(role string, p Place) (string, error) {
	c := struct {
		Connector   string         `json:"kv_connector"`
		Role        string         `json:"kv_role"`
		EngineID    string         `json:"engine_id"`
		Device      string         `json:"kv_buffer_device,omitempty"`
		LoadFailure string         `json:"kv_load_failure_policy,omitempty"`
		Extra       map[string]any `json:"kv_connector_extra_config,omitempty"`
	}{v.connector(), role, cmp.Or(v.EngineID, p.Name), v.KVBufferDevice, v.LoadFailure, map[string]any{}}
	if v.CPU != nil && c.Device == "" {
		c.Device = "cpu"
	}
	if v.Lease > 0 && v.nixl() {
		c.Extra["kv_lease_duration"] = v.Lease.Seconds()
	}
	maps.Copy(c.Extra, v.Extra)
	text, err := json.Marshal(c)
	return string(text), err
}

func (v VLLM) nixl() bool { return strings.HasPrefix(v.connector(), "Nixl") }

// env is what is added to our own environment, sorted.
func (v VLLM) env(role string, p Place) []string {
	set := map[string]string{
		"PYTHONUNBUFFERED":    "1", // the last lines of a crash must reach the log
		"VLLM_NO_USAGE_STATS": "1", // a test tells nobody
		"DO_NOT_TRACK":        "1",
	}
	if isFolder(v.ModelPath) {
		set["HF_HUB_OFFLINE"], set["TRANSFORMERS_OFFLINE"] = "1", "1"
	}
	if role != roleNone && v.nixl() {
		set["VLLM_NIXL_SIDE_CHANNEL_HOST"] = "127.0.0.1"
		set["VLLM_NIXL_SIDE_CHANNEL_PORT"] = strconv.Itoa(p.Ports["side"])
	}
	if list := cudaDevices(v.Devices); list != "" {
		set["CUDA_VISIBLE_DEVICES"] = list
	}
	if v.CPU != nil {
		set["VLLM_CPU_KVCACHE_SPACE"] = strconv.Itoa(cmp.Or(v.CPU.KVGiB, 1))
		set["VLLM_CPU_OMP_THREADS_BIND"] = "nobind" // P and D would else be bound to the same cores
		set["OMP_NUM_THREADS"] = strconv.Itoa(cmp.Or(v.CPU.Threads, 1))
		set["UCX_TLS"] = "tcp,self,sm"
		set["PYTHONDONTWRITEBYTECODE"] = "" // empty is unset for Python; without byte code each start compiles anew
		if lib := filepath.Join(v.Venv, "lib", "libiomp5.so"); v.Venv != "" && exists(lib) {
			set["LD_PRELOAD"] = lib
		}
	}
	maps.Copy(set, v.Env)
	env := make([]string, 0, len(set))
	for _, key := range slices.Sorted(maps.Keys(set)) {
		env = append(env, key+"="+set[key])
	}
	return env
}

// hopeless sees from the log that the server hangs and will not come up. When its side port is taken, the thread that was
// to listen there dies with a traceback, and the engine waits for it for ever (seen with 0.32.0).
func (VLLM) hopeless(tail []string) error {
	for _, line := range tail {
		if strings.Contains(line, "Exception in thread nixl_handshake_listener") {
			return &hopelessError{"hangs in its start: NIXL's handshake listener died"}
		}
	}
	return nil
}

// cudaDevices is "0,1" for gpu0 and gpu1, "" where a device is something else.
func cudaDevices(names []string) string {
	list := make([]string, len(names))
	for i, name := range names {
		n, ok := strings.CutPrefix(name, "gpu")
		if _, err := strconv.ParseUint(n, 10, 16); !ok || err != nil {
			return ""
		}
		list[i] = n
	}
	return strings.Join(list, ",")
}
