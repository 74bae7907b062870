package hw

import (
	"fmt"
	"maps"
	"slices"

	"github.com/omnitest/suite/omnitest/metrics"
)

// GPUWindow is what the GPUs did between Start and Stop. If Absent is not empty nothing was measured.
type GPUWindow struct {
	Absent     string  `json:"absent,omitempty"`
	Source     string  `json:"source,omitempty"` // "NVML 580.159.04", "nvidia-smi", ...
	Driver     string  `json:"driver,omitempty"`
	IntervalMS float64 `json:"interval_ms,omitempty"`
	Samples    int     `json:"samples"`
	Failed     int     `json:"failed,omitempty"` // readings that gave nothing
	Err        string  `json:"error,omitempty"`  // of the first of them
	Ended      string  `json:"ended,omitempty"`  // the first GPU that was lost inside the window

	// Over all GPUs that were watched, at the same instants. One that was lost counts until then, and Ended says so.
	PeakMemory metrics.Value `json:"peak_memory_bytes"`
	MeanMemory metrics.Value `json:"mean_memory_bytes"`
	MeanUtil   metrics.Value `json:"mean_sm_util_share"` // mean over GPUs and time, 0..1
	PeakUtil   metrics.Value `json:"peak_sm_util_share"` // highest of the means over the GPUs
	MeanPower  metrics.Value `json:"mean_power_w"`       // sum over GPUs
	Energy     metrics.Value `json:"energy_j"`           // sum over GPUs

	// Above the idle baseline (Meter.Baseline); absent without one.
	PeakMemoryAboveIdle metrics.Value `json:"peak_memory_above_idle_bytes"`
	EnergyAboveIdle     metrics.Value `json:"energy_above_idle_j"`

	GPUs []GPUSeries `json:"gpus,omitempty"`
	Cost Cost        `json:"cost,omitzero"`
}

// unknown makes every figure absent for one reason.
func (w *GPUWindow) unknown(why string) {
	v := metrics.Absent(why)
	w.Absent = why
	w.PeakMemory, w.MeanMemory, w.MeanUtil, w.PeakUtil, w.MeanPower, w.Energy = v, v, v, v, v, v
	w.PeakMemoryAboveIdle, w.EnergyAboveIdle = v, v
}

// EnergyPer is the energy of one of n requests, in J: all that the GPUs took in the window, idle power with it.
func (w GPUWindow) EnergyPer(n int) metrics.Value {
	switch {
	case w.Absent != "":
		return metrics.Absent(w.Absent)
	case n <= 0:
		return metrics.Absent("no request")
	}
	return w.Energy.Per(float64(n))
}

// GPUSeries sums up one GPU, or one MIG instance.
type GPUSeries struct {
	Index    int    `json:"index"`
	UUID     string `json:"uuid,omitempty"`
	Name     string `json:"name,omitempty"`
	Instance string `json:"mig_instance,omitempty"`
	Samples  int    `json:"samples"`
	Ended    string `json:"ended,omitempty"` // it was lost inside the window: the series stops there

	MemoryTotal  metrics.Value `json:"memory_total_bytes"`
	PeakMemory   metrics.Value `json:"peak_memory_bytes"`
	MeanMemory   metrics.Value `json:"mean_memory_bytes"`
	MeanUtil     metrics.Value `json:"mean_sm_util_share"`
	PeakUtil     metrics.Value `json:"peak_sm_util_share"`
	MemoryUtil   metrics.Value `json:"mean_memory_util_share"`
	MeanPower    metrics.Value `json:"mean_power_w"`
	PeakPower    metrics.Value `json:"peak_power_w"`
	Energy       metrics.Value `json:"energy_j"`
	EnergyHow    string        `json:"energy_how,omitempty"` // "counter", "power over time"
	MeanSMClock  metrics.Value `json:"mean_sm_clock_mhz"`
	MinSMClock   metrics.Value `json:"min_sm_clock_mhz"`
	MemoryClock  metrics.Value `json:"mean_memory_clock_mhz"`
	Temperature  metrics.Value `json:"peak_temperature_c"`
	PCIeSent     metrics.Value `json:"mean_pcie_sent_bytes_per_s"`
	PCIeReceived metrics.Value `json:"mean_pcie_received_bytes_per_s"`
	NVLinkSent   metrics.Value `json:"mean_nvlink_sent_bytes_per_s"`
	NVLinkRecv   metrics.Value `json:"mean_nvlink_received_bytes_per_s"`

	ECCCorrected   metrics.Value            `json:"ecc_corrected"` // new in the window
	ECCUncorrected metrics.Value            `json:"ecc_uncorrected"`
	Throttled      map[string]metrics.Value `json:"throttled_share"` // of the looks, by reason; empty: never
	NoThrottle     string                   `json:"throttled_absent,omitempty"`
	Xids           []int                    `json:"xids,omitempty"` // in the order in which they came
	NoXids         string                   `json:"xids_absent,omitempty"`
	NoProcesses    string                   `json:"processes_absent,omitempty"` // why nothing can be attributed to processes
	Tracks         []Track                  `json:"-"`
	MIG            []GPUSeries              `json:"mig,omitempty"`

	seconds float64 // from the first to the last reading
}

func (s GPUSeries) label() string {
	if s.Instance != "" {
		return fmt.Sprintf("GPU %d %s", s.Index, s.Instance)
	}
	return fmt.Sprintf("GPU %d", s.Index)
}

// StageGPU is what one stage had of the GPUs.
type StageGPU struct {
	Absent     string        `json:"absent,omitempty"`
	How        string        `json:"how,omitempty"` // "process": the processes of its tree; "device": the GPUs that it has for itself
	GPUs       []int         `json:"gpus,omitempty"`
	PeakMemory metrics.Value `json:"peak_memory_bytes"` // sum over its GPUs at the same instant
	MeanMemory metrics.Value `json:"mean_memory_bytes"`
	MeanUtil   metrics.Value `json:"mean_sm_util_share"` // sum over its processes: 1 is one whole GPU
	Energy     metrics.Value `json:"energy_j"`           // of the GPUs that nobody else was on
	Tracks     []Track       `json:"-"`
}

// EnergyPer is the energy of one of n requests, in J.
func (s StageGPU) EnergyPer(n int) metrics.Value {
	switch {
	case s.Absent != "":
		return metrics.Absent(s.Absent)
	case n <= 0:
		return metrics.Absent("no request")
	}
	return s.Energy.Per(float64(n))
}

// Cost is what sampling itself used.
type Cost struct {
	CPUSeconds metrics.Value `json:"cpu_s"` // of the sampling thread, and of the programs that it ran
	Cores      metrics.Value `json:"cores"` // mean over the window
	Reads      int           `json:"reads"`
	MeanReadMS float64       `json:"mean_read_ms"` // wall time
	MaxReadMS  float64       `json:"max_read_ms"`
}

// throttling counts looks by reason.
type throttling struct {
	looks int
	by    map[string]int
	why   string
}

func (t *throttling) add(g GPU) {
	switch {
	case g.NoThrottle == NotThisTime:
	case g.NoThrottle != "":
		if t.why == "" {
			t.why = g.NoThrottle
		}
	default:
		t.looks++
		for _, r := range g.Throttle {
			if t.by == nil {
				t.by = map[string]int{}
			}
			t.by[r]++
		}
	}
}

func (t *throttling) result() (map[string]metrics.Value, string) {
	if t.looks == 0 {
		if t.why == "" {
			return nil, "no sample in the window"
		}
		return nil, t.why
	}
	out := map[string]metrics.Value{}
	for _, r := range slices.Sorted(maps.Keys(t.by)) {
		out[r] = metrics.Of(float64(t.by[r]) / float64(t.looks))
	}
	return out, ""
}
