// Package report keeps the result of a run as one versioned document, and makes everything else from it: the table, the
// CSV, the units of benchmark lines.
//
// The document (result.json) is the record. Tables are views: [Table] and [CSV] of a document that [Read] gives back are
// the same as on the day it was written, so an old run can be shown under a newer table.
package report

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Schema names the document. The number changes when a field changes its meaning or goes away; a new field does not.
const Schema = "omnitest.result/v1"

// Result is one run of a plan against one target.
type Result struct {
	Schema      string      `json:"schema"`    // filled in by Write
	Created     time.Time   `json:"created"`   // filled in by Write if zero
	Target      string      `json:"target"`    // "reference stack (simulated)": stands over every table
	Simulated   bool        `json:"simulated"` // some stage ran on the reference stack: not a real engine's figures
	Stack       Stack       `json:"stack"`
	Plan        Plan        `json:"plan"`
	Rows        []Row       `json:"rows"`
	Handoff     []Window    `json:"handoff,omitempty"`   // the handoff windows of the run
	Environment Environment `json:"environment"`         // filled in by Write if zero
	EventLog    string      `json:"event_log,omitempty"` // path of the raw samples (metrics.WriteLog), relative to the document; "": not kept
}

// Stack says what the target was made of.
type Stack struct {
	Name   string           `json:"name,omitempty"`
	Stages map[string]Stage `json:"stages,omitempty"` // by role: "prefill", "decode", "dit", "proxy"
}

// Stage is one role of the stack. Addresses are left out: a result is made to be passed on.
type Stage struct {
	Engine    string `json:"engine"` // "reference", "remote", "vllm"
	Version   string `json:"version,omitempty"`
	Model     string `json:"model,omitempty"`
	Simulated bool   `json:"simulated,omitempty"`
}

// Plan is what all rows have in common.
type Plan struct {
	Profile string  `json:"profile"`          // whose metric definitions: "vllm"
	Source  string  `json:"source,omitempty"` // where these were read
	Warmup  int     `json:"warmup"`           // requests before each row, in no figure
	LimitS  float64 `json:"limit_s,omitempty"`
}

// Mode is how a row's requests were sent.
type Mode string

const (
	Offline Mode = "offline" // one batch, submitted at once
	Online  Mode = "online"  // requests over HTTP at a concurrency
)

// Row is one point of the plan.
type Row struct {
	Name         string          `json:"name"` // the benchmark's: "batch=1/prompt=512/out=1376x768"
	Mode         Mode            `json:"mode"`
	Batch        int             `json:"batch,omitempty"`
	Concurrency  int             `json:"concurrency,omitempty"`
	Requests     int             `json:"requests"` // measured ones
	PromptTokens int             `json:"prompt_tokens,omitempty"`
	OutputTokens int             `json:"output_tokens,omitempty"` // asked for
	OutputSize   string          `json:"output_size,omitempty"`   // "1376x768"; "": no picture
	Steps        int             `json:"steps,omitempty"`         // denoising steps
	Summary      metrics.Summary `json:"summary"`
	PeakInFlight int             `json:"peak_in_flight,omitempty"` // as measured (load.Result)
	MeanInFlight float64         `json:"mean_in_flight,omitempty"`
	Hardware     hw.Window       `json:"hardware"`
	GPUMemory    metrics.Value   `json:"gpu_memory_bytes"` // peak over the GPUs of the stack; the zero Value: not measured
	Verdicts     []Verdict       `json:"verdicts,omitempty"`
	Errors       []string        `json:"errors,omitempty"` // of the run itself; failed requests are in Summary.Failures
}

// Verdict is what was concluded from a row's evidence, such as that the KV cache was handed over.
type Verdict struct {
	Name    string   `json:"name"`    // "handoff"
	Verdict string   `json:"verdict"` // "proven", "refuted", "inconclusive"
	Reasons []string `json:"reasons,omitempty"`
}

// Environment is the machine that the client ran on. It has no host or user name.
type Environment struct {
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	CPUs     int    `json:"cpus"`
	MaxProcs int    `json:"gomaxprocs"`
}

// Here is the environment of this process.
func Here() Environment {
	return Environment{runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.GOMAXPROCS(0)}
}

// memoryRSS is the peak resident memory over all stages, in bytes.
func (r Row) memoryRSS() metrics.Value {
	t := r.Hardware.Total
	switch {
	case t.Absent != "":
		return metrics.Absent(t.Absent)
	case t.Samples == 0:
		return metrics.Value{}
	}
	return metrics.Of(float64(t.PeakRSS))
}

// cpuSeconds is the CPU time of all stages.
func (r Row) cpuSeconds() metrics.Value {
	if v := r.memoryRSS(); !v.OK() {
		return v
	}
	return metrics.Of(r.Hardware.Total.CPUSeconds)
}

// check refuses a document that would mislead its reader.
func (r Result) check() error {
	var all []error
	if strings.TrimSpace(r.Target) == "" {
		all = append(all, errors.New("no target: figures must say what they were measured on"))
	}
	if !r.Simulated && strings.Contains(strings.ToLower(r.Target), "simulated") {
		all = append(all, fmt.Errorf("target %q is simulated, the document says that it is not", r.Target))
	}
	for role, s := range r.Stack.Stages {
		if s.Simulated && !r.Simulated {
			all = append(all, fmt.Errorf("stage %s is simulated, the document says that nothing is", role))
		}
	}
	for i, row := range r.Rows {
		if row.Mode != Offline && row.Mode != Online {
			all = append(all, fmt.Errorf("row %d %q: mode %q, want %q or %q", i, row.Name, row.Mode, Offline, Online))
		}
		if row.Summary.Requests != row.Requests {
			all = append(all, fmt.Errorf("row %d %q: %d requests planned, %d in the summary: some are unaccounted for",
				i, row.Name, row.Requests, row.Summary.Requests))
		}
		if r.Plan.Profile != "" && row.Summary.Profile != r.Plan.Profile {
			all = append(all, fmt.Errorf("row %d %q: profile %q in a result of profile %q", i, row.Name, row.Summary.Profile, r.Plan.Profile))
		}
	}
	for i, w := range r.Handoff {
		if err := w.check(); err != nil {
			all = append(all, fmt.Errorf("handoff window %d %q: %w", i, w.Name, err))
		}
	}
	return errors.Join(all...)
}
