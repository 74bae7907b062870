// Package engine starts, watches and stops the programs that serve a model.
//
// An Engine is a plain value that knows one program: which ports it needs and, once it has them, how it is run and how
// one sees that it is ready. Launch does the rest and is the same for all: reserve ports, lock devices, start the process
// in a group of its own under a watchdog, poll its health while watching whether it ends, and explain a failure with the
// end of its log. What comes out is an Instance, which lives until Stop or the death of this process, whatever kills it.
//
//	in, err := engine.Launch(ctx, engine.Remote{URL: "http://node7:8000"}, engine.Options{Stage: engine.Decode})
//	...
//	defer in.Stop(context.Background())
//
// A new engine is a new struct with three methods and no other code; see Reference.
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
// VLLM, later Omni, Diffusers.
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
	Connector  string // how it hands KV over, "NixlConnector"; "": it does not, or it is not known

	HealthPath   string        // "": /health
	ReadyTimeout time.Duration // 0: 60 s
	StopGrace    time.Duration // between SIGTERM and SIGKILL; 0: 10 s
	Devices      []string      // exclusive locks to hold while it runs ("gpu0")
	Simulated    bool          // figures from this instance are simulated
}
