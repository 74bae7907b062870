// Package stack describes and launches a topology: which stage runs on which engine.
package stack

import (
	"time"

	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/refstack"
)

// Spec is a topology. The zero Spec is the whole reference stack: proxy, prefill, decode and dit, healthy.
// The same thing in a file is stack.yaml, read strictly.
type Spec struct {
	// Name appears in reports; "": derived from the engines.
	Name string `yaml:"name,omitempty"`
	// Stages by role. A stage that is left out of a non-empty map does not exist; nil means all four on the reference.
	Stages map[engine.Stage]Stage `yaml:"stages,omitempty"`
	// PlanTokens is the most that the AR stages may generate on the way to a picture; 0: 4096. A real model does not stop
	// by itself as early as the reference one, and its context may be shorter.
	PlanTokens int `yaml:"plan_tokens,omitempty"`
	// SkipSmoke leaves out the request that Launch sends through prefill and decode where these are no reference engines.
	SkipSmoke bool `yaml:"skip_smoke,omitempty"`
	// AllowFallback lets the proxy run decode without a ticket; the answer then says so.
	AllowFallback bool `yaml:"allow_fallback,omitempty"`
	// Faults and Timing apply to the stages that run on the reference engine.
	Faults refstack.Faults `yaml:"-"`
	Timing refstack.Timing `yaml:"timing,omitempty"`
	// FaultNames is the file's form of Faults: "decode.silent-recompute,dit.wrong-size".
	FaultNames string `yaml:"faults,omitempty"`
}

// Stage says how one role is served.
type Stage struct {
	// Engine is "reference" (also for ""; launched by us), "vllm" (launched by us) or "remote" (attached by URL).
	Engine string `yaml:"engine,omitempty"`
	// URL is the base URL of a remote stage, without /v1.
	URL string `yaml:"url,omitempty"`
	// MetricsURL; "": URL + /metrics.
	MetricsURL string `yaml:"metrics_url,omitempty"`
	// Model is the served model name; "": asked from /v1/models.
	Model string `yaml:"model,omitempty"`
	// ReadyTimeout; 0: the engine's default.
	ReadyTimeout time.Duration `yaml:"ready_timeout,omitempty"`
	// Devices to lock exclusively while the stage runs, "gpu0".
	Devices []string `yaml:"devices,omitempty"`
	// VLLM says which vLLM an "vllm" stage runs and how. Folders in it may begin with "~/" (home; "~/.cache/" is the user's
	// cache folder wherever that is) or "./" (in a file: from the file's folder).
	VLLM *engine.VLLM `yaml:"vllm,omitempty"`
	// Lease, LoadFailure and BlockSize configure an AR stage that we launch, Blocks a reference one; see ar.Config and
	// engine.VLLM. For a remote one BlockSize says what it was configured to: handoff evidence counts whole blocks.
	Lease       time.Duration `yaml:"lease,omitempty"`
	LoadFailure string        `yaml:"load_failure_policy,omitempty"`
	BlockSize   int           `yaml:"block_size,omitempty"`
	Blocks      int           `yaml:"blocks,omitempty"`
}
