package hw

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Window is what was measured between Start and Stop.
type Window struct {
	Began      time.Time         `json:"began,omitzero"` // of the clock of all tracks; carries a monotonic reading until it is stored
	WallS      float64           `json:"wall_s"`
	IntervalMS float64           `json:"interval_ms"`
	Stages     map[string]Series `json:"stages"`
	// Total is over all stages at the same instants, so its peak may be below the sum of the peaks. Absent if any stage is.
	Total    Series    `json:"total"`
	Host     Host      `json:"host,omitzero"`
	Cost     Cost      `json:"cost,omitzero"`      // of sampling the processes; that of the GPUs is GPU.Cost
	GPU      GPUWindow `json:"gpu,omitzero"`       // the zero value: no GPUSource was given
	Baseline *Baseline `json:"baseline,omitempty"` // as Meter.Baseline
}

// StageTrack is a track with the stage that it belongs to: "prefill", ...; "" is the host, "GPU 0" a whole GPU.
type StageTrack struct {
	Stage string
	Track
}

// Tracks are all series of the window, the stages in the order of their names, then the GPUs, then the host. They are not part
// of the window's JSON.
func (w Window) Tracks() []StageTrack {
	var all []StageTrack
	add := func(stage string, tracks []Track) {
		for _, t := range tracks {
			if t.N > 0 {
				all = append(all, StageTrack{stage, t})
			}
		}
	}
	for _, stage := range slices.Sorted(maps.Keys(w.Stages)) {
		add(stage, w.Stages[stage].Tracks)
		if g := w.Stages[stage].GPU; g != nil {
			add(stage, g.Tracks)
		}
	}
	for _, g := range w.GPU.GPUs {
		add(g.label(), g.Tracks)
		for _, m := range g.MIG {
			add(m.label(), m.Tracks)
		}
	}
	add("", w.Host.Tracks)
	return all
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

	// The zero value: not looked at.
	MeanCores           metrics.Value `json:"mean_cores,omitzero"`     // CPUSeconds over the window
	PeakPSS             metrics.Value `json:"peak_pss_bytes,omitzero"` // of looks 10 s apart and at both ends; shared pages count once
	PeakThreads         metrics.Value `json:"peak_threads,omitzero"`   // of looks a second apart, as all below
	PeakFDs             metrics.Value `json:"peak_open_files,omitzero"`
	VoluntarySwitches   metrics.Value `json:"voluntary_switches,omitzero"`   // it waited; in the window
	InvoluntarySwitches metrics.Value `json:"involuntary_switches,omitzero"` // it was made to wait
	DiskRead            metrics.Value `json:"disk_read_bytes,omitzero"`      // in the window, from the disk and not from a cache
	DiskWritten         metrics.Value `json:"disk_written_bytes,omitzero"`
	NetSent             metrics.Value `json:"net_sent_bytes,omitzero"` // of a network namespace of its own
	NetReceived         metrics.Value `json:"net_received_bytes,omitzero"`
	Tracks              []Track       `json:"-"`

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
