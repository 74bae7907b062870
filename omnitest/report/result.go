// Package report keeps the result of a run as one versioned document, and makes everything else from it: the table, the
// CSV, the page with its charts, the units of benchmark lines, the JSON keys of `vllm bench serve`.
//
// The document (result.json) is the record. All else are views: [Table], [CSV], [HTML] and [Charts] of a document that [Read]
// gives back are the same as on the day it was written, so an old run can be shown under a newer table. [Import] makes such a
// document from the result files of other tools.
package report

import (
	"errors"
	"fmt"
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
	Provenance  Provenance  `json:"provenance,omitzero"` // what measured; the parts that Write knows are filled in
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
	DType     string `json:"dtype,omitempty"` // "bfloat16"
	Simulated bool   `json:"simulated,omitempty"`
}

// Plan is what all rows have in common.
type Plan struct {
	Profile string  `json:"profile"`          // whose metric definitions: "vllm"
	Source  string  `json:"source,omitempty"` // where these were read
	Warmup  int     `json:"warmup"`           // requests before each row, in no figure
	LimitS  float64 `json:"limit_s,omitempty"`
}

// Load is how a row's requests were spread over time. The zero value is a closed loop: a request starts when a slot is free.
type Load struct {
	Arrivals   string  `json:"arrivals,omitempty"`     // "poisson", "constant", "gamma", ...; "": closed loop
	Rate       float64 `json:"request_rate,omitempty"` // requests per second of the plan
	Burstiness float64 `json:"burstiness,omitempty"`   // shape of the gamma gaps; 0: not a gamma process
	Seed       int64   `json:"seed,omitempty"`
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
	InputSize    string          `json:"input_size,omitempty"`    // "1024x1024", of an edit's picture; "": none
	OutputSize   string          `json:"output_size,omitempty"`   // "1376x768"; "": no picture
	Steps        int             `json:"steps,omitempty"`         // denoising steps
	Load         Load            `json:"load,omitzero"`
	Summary      metrics.Summary `json:"summary"`
	PeakInFlight int             `json:"peak_in_flight,omitempty"` // as measured (load.Result)
	MeanInFlight float64         `json:"mean_in_flight,omitempty"`
	ConnectS     metrics.Value   `json:"connect_s,omitzero"` // time to open the connections, before the clock of the row began

	Client    metrics.ClientError `json:"client"` // what the measuring side did to these figures; the zero value: not measured
	Hardware  hw.Window           `json:"hardware"`
	GPUMemory metrics.Value       `json:"gpu_memory_bytes"`              // peak over the GPUs of the stack; the zero Value: not measured
	Energy    metrics.Value       `json:"energy_per_request_j,omitzero"` // of all GPUs, idle power with it; the zero Value: not measured
	Stages    []StageTime         `json:"stages,omitempty"`              // where the time of a request went, in the order of the flow
	Curves    []Curve             `json:"curves,omitempty"`              // distribution functions of the latencies (Row.Detail)
	Timeline  []Series            `json:"timeline,omitempty"`            // the load (Row.Detail) and the hardware over the row's time
	Theory    *Theory             `json:"theory,omitempty"`              // what the hardware allows; nil: not asked for
	Verdicts  []Verdict           `json:"verdicts,omitempty"`
	Errors    []string            `json:"errors,omitempty"` // of the run itself; failed requests are in Summary.Failures
}

// Verdict is what was concluded from a row's evidence, such as that the KV cache was handed over.
type Verdict struct {
	Name    string   `json:"name"`    // "handoff"
	Verdict string   `json:"verdict"` // "proven", "refuted", "inconclusive"
	Reasons []string `json:"reasons,omitempty"`
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

// cpuCores is how many cores all stages together used, mean over the window.
func (r Row) cpuCores() metrics.Value {
	if v := r.memoryRSS(); !v.OK() {
		return v
	}
	if r.Hardware.WallS <= 0 {
		return metrics.Absent("the window's length is unknown")
	}
	return metrics.Of(r.Hardware.Total.CPUSeconds / r.Hardware.WallS)
}

// Check refuses a document that would mislead its reader: no target, a simulated stage that is not said, requests unaccounted for.
// Write asks it, Read does not: a document that was edited since can still be shown, with a warning.
func (r Result) Check() error {
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
		if s := row.Summary; s.OK+s.Failed+s.Abandoned != s.Requests {
			all = append(all, fmt.Errorf("row %d %q: %d requests, but %d ok, %d failed and %d abandoned", i, row.Name, s.Requests, s.OK, s.Failed, s.Abandoned))
		}
		if r.Plan.Profile != "" && row.Summary.Profile != r.Plan.Profile {
			all = append(all, fmt.Errorf("row %d %q: profile %q in a result of profile %q", i, row.Name, row.Summary.Profile, r.Plan.Profile))
		}
	}
	for i, row := range r.Rows {
		for _, err := range row.checkDetail() {
			all = append(all, fmt.Errorf("row %d %q: %w", i, row.Name, err))
		}
	}
	for i, w := range r.Handoff {
		if err := w.check(); err != nil {
			all = append(all, fmt.Errorf("handoff window %d %q: %w", i, w.Name, err))
		}
	}
	return errors.Join(all...)
}
