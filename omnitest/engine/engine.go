// Package engine starts, watches and stops the programs that serve a model.
package engine

import "time"

// Stage is a role in the flow.
type Stage string

// The stages of the reference flow. An engine may serve others ("encode", "vae", "talker").
const (
	Proxy   Stage = "proxy"
	Prefill Stage = "prefill"
	Decode  Stage = "decode"
	DiT     Stage = "dit"
)

// Engine knows how to run one stage with one program. Implementations are plain structs: Reference, Remote,
// later VLLM, Omni, Diffusers.
type Engine interface {
	Kind() string             // "reference", "remote", "vllm"
	Ports() []string          // names of the ports it needs, "http" first; nil for Remote
	Plan(Place) (Plan, error) // pure: no process is started, nothing is dialled
}

// Place is where an instance is to live; filled by Launch and by the stack.
type Place struct {
	Stage Stage
	Name  string           // unique within a stack, "prefill-0"
	Dir   string           // logs and scratch of this instance
	Ports map[string]int   // by name, as asked for by Ports
	Peers map[Stage]string // base URLs of stages that are already up (a proxy needs them)
}

// Plan is what to run and how to tell that it runs. An empty Path means there is nothing to start (Remote).
type Plan struct {
	Path       string
	Args       []string
	Env        []string // added to our own environment
	BaseURL    string
	MetricsURL string // "": this stage has no metrics
	Model      string // served model name, "": ask /v1/models

	HealthPath   string        // "": /health
	ReadyTimeout time.Duration // 0: 60 s
	StopGrace    time.Duration // between SIGTERM and SIGKILL; 0: 10 s
	Devices      []string      // exclusive locks to hold while it runs ("gpu0")
	Simulated    bool          // figures from this instance are simulated
}
