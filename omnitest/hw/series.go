package hw

import (
	"encoding/json"
	"time"
)

// Window is what was measured between Start and Stop.
type Window struct {
	Began      time.Time         `json:"began,omitzero"` // of the clock of all tracks; carries a monotonic reading until it is stored
	WallS      float64           `json:"wall_s"`
	IntervalMS float64           `json:"interval_ms"`
	Stages     map[string]Series `json:"stages"`
	// Total is over all stages at the same instants, so its peak may be below the sum of the peaks. Absent if any stage is.
	Total    Series    `json:"total"`
	GPU      GPUWindow `json:"gpu,omitzero"`       // the zero value: no GPUSource was given
	Baseline *Baseline `json:"baseline,omitempty"` // as Meter.Baseline
}

// Series sums up one stage. If Absent is not empty nothing was measured, and the figures are zero without meaning it; in
// JSON they are left out then.
type Series struct {
	Absent     string  `json:"absent,omitempty"` // why nothing was measured
	PID        int     `json:"pid,omitempty"`    // root of the tree
	Samples    int     `json:"samples"`
	PeakRSS    int64   `json:"peak_rss_bytes"`
	MeanRSS    int64   `json:"mean_rss_bytes"`
	CPUSeconds float64 `json:"cpu_s"`
	Processes  int     `json:"processes"`       // most at once
	Ended      string  `json:"ended,omitempty"` // the process died inside the window: the series stops there
	Err        string  `json:"error,omitempty"` // first error of sampling

	GPU *StageGPU `json:"gpu,omitempty"` // the stage's share of the GPUs; nil: GPUs were not measured (Window.GPU says why)
}

// MarshalJSON leaves the figures out where nothing was measured.
func (s Series) MarshalJSON() ([]byte, error) {
	if s.Absent != "" {
		return json.Marshal(struct {
			Absent string `json:"absent"`
			PID    int    `json:"pid,omitempty"`
			Err    string `json:"error,omitempty"`

			GPU *StageGPU `json:"gpu,omitempty"`
		}{s.Absent, s.PID, s.Err, s.GPU})
	}
	type plain Series
	return json.Marshal(plain(s))
}
