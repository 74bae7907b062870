package hw

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// GPUSource reads the GPUs of one host: [nvml.Open] on this host, [dcgm.Source] on another. It is used by one goroutine at a time.
//
// [nvml.Open]: https://pkg.go.dev/github.com/omnitest/suite/omnitest/hw/nvml#Open
// [dcgm.Source]: https://pkg.go.dev/github.com/omnitest/suite/omnitest/hw/dcgm#Source
type GPUSource interface {
	// ReadGPUs reads every GPU once. An error says that nothing is known of any of them; what is wrong with one GPU, or one
	// figure of it, stands in its place. An error that wraps ErrUnavailable will not go away: nobody asks again.
	ReadGPUs(ctx context.Context) (GPUReading, error)
	Close() error
}

// ErrUnavailable says that GPUs cannot be measured here: no driver, no GPU, a build without cgo.
var ErrUnavailable = errors.New("GPUs are not measured")

// Unavailable is a source that has nothing but a reason, for callers that could open none.
type Unavailable string

func (u Unavailable) ReadGPUs(context.Context) (GPUReading, error) {
	return GPUReading{}, fmt.Errorf("%w: %s", ErrUnavailable, string(u))
}
func (u Unavailable) Close() error { return nil }

// GPUReading is one look at all GPUs of a host.
type GPUReading struct {
	At     time.Time     // when it was asked for; carries a monotonic reading
	Source string        // "NVML 580.159.04", "nvidia-smi", "dcgm-exporter http://...": stands beside the figures
	Driver string        // version; "": not told
	Every  time.Duration // shortest time in which the source has something new; 0: as often as it is asked
	Cost   time.Duration // CPU time of helper processes that the reading took (nvidia-smi); 0: none
	GPUs   []GPU
}

// NotThisTime is the reason of a figure that the source reads more rarely than the others. It is neither a sample nor a gap.
const NotThisTime = "not read in this sample"

// GPU is one reading of one GPU, or of one MIG instance of it.
//
// The figures are NVML's and mean no more than they do there. SMUtil is the share of the driver's last sample period (1/6 s to
// 1 s) in which at least one kernel ran: not how full the GPU was. MemoryUsed is what is allocated, by everybody, without what
// the driver keeps for itself (MemoryReserved).
type GPU struct {
	Index    int    `json:"index"`
	UUID     string `json:"uuid,omitempty"`
	Name     string `json:"name,omitempty"`
	Instance string `json:"mig_instance,omitempty"` // "gi 3 ci 0"; "": a whole GPU
	Lost     string `json:"lost,omitempty"`         // it no longer answers, and why: every figure is absent

	MemoryTotal    metrics.Value `json:"memory_total_bytes"`
	MemoryUsed     metrics.Value `json:"memory_used_bytes"`
	MemoryReserved metrics.Value `json:"memory_reserved_bytes"`
	SMUtil         metrics.Value `json:"sm_util_share"`     // 0..1
	MemoryUtil     metrics.Value `json:"memory_util_share"` // 0..1, of the time in which the memory was read or written
	Power          metrics.Value `json:"power_w"`
	Energy         metrics.Value `json:"energy_j"` // a counter; only differences mean something
	SMClock        metrics.Value `json:"sm_clock_mhz"`
	MemoryClock    metrics.Value `json:"memory_clock_mhz"`
	Temperature    metrics.Value `json:"temperature_c"`
	PCIeSent       metrics.Value `json:"pcie_sent_bytes_per_s"` // by the GPU
	PCIeReceived   metrics.Value `json:"pcie_received_bytes_per_s"`
	NVLinkSent     metrics.Value `json:"nvlink_sent_bytes_per_s"` // over all links
	NVLinkReceived metrics.Value `json:"nvlink_received_bytes_per_s"`
	ECCCorrected   metrics.Value `json:"ecc_corrected"` // a counter, since the driver was loaded
	ECCUncorrected metrics.Value `json:"ecc_uncorrected"`

	Throttle    []string     `json:"throttle"`                  // why the clocks are below what was asked: "sw_power_cap", "hw_thermal_slowdown", ...
	NoThrottle  string       `json:"throttle_absent,omitempty"` // why Throttle is not known
	Xids        []int        `json:"xids,omitempty"`            // new since the reading before
	NoXids      string       `json:"xids_absent,omitempty"`
	Processes   []GPUProcess `json:"processes"`
	NoProcesses string       `json:"processes_absent,omitempty"`
	MIG         []GPU        `json:"mig,omitempty"` // the instances that this GPU is cut into
}

// GPUProcess is what one process has on one GPU.
type GPUProcess struct {
	PID    int           `json:"pid"` // as the driver sees it: of the host, or of this PID namespace if the driver translates
	Name   string        `json:"name,omitempty"`
	Memory metrics.Value `json:"memory_bytes"`
	SMUtil metrics.Value `json:"sm_util_share"` // 0..1
}

// absentGPU is a GPU of which no figure is known, and why.
func absentGPU(g GPU, why string) GPU {
	a := metrics.Absent(why)
	g.MemoryTotal, g.MemoryUsed, g.MemoryReserved, g.SMUtil, g.MemoryUtil, g.Power, g.Energy = a, a, a, a, a, a, a
	g.SMClock, g.MemoryClock, g.Temperature, g.ECCCorrected, g.ECCUncorrected = a, a, a, a, a
	g.PCIeSent, g.PCIeReceived, g.NVLinkSent, g.NVLinkReceived = a, a, a, a
	g.NoThrottle, g.NoXids, g.NoProcesses = why, why, why
	g.Throttle, g.Processes, g.Xids, g.MIG = nil, nil, nil, nil
	return g
}

// LostGPU is the reading of a GPU that no longer answers.
func LostGPU(index int, uuid, name, why string) GPU {
	return absentGPU(GPU{Index: index, UUID: uuid, Name: name, Lost: why}, why)
}

// UnknownGPU is a GPU before its figures are filled in: each says that the source does not tell it.
func UnknownGPU(index int, uuid, name, why string) GPU {
	return absentGPU(GPU{Index: index, UUID: uuid, Name: name}, why)
}

// throttleReasons are the bits of nvmlDeviceGetCurrentClocksEventReasons, as nvidia-smi names them. "gpu_idle" and
// "applications_clocks_setting" are no throttling: the clocks are where somebody or nothing asked them to be.
var throttleReasons = []struct {
	bit  uint64
	name string
}{
	{0x4, "sw_power_cap"},
	{0x8, "hw_slowdown"},
	{0x10, "sync_boost"},
	{0x20, "sw_thermal_slowdown"},
	{0x40, "hw_thermal_slowdown"},
	{0x80, "hw_power_brake_slowdown"},
	{0x100, "display_clock_setting"},
}

// ThrottleReasons names the bits.
func ThrottleReasons(bits uint64) []string {
	names := []string{}
	for _, r := range throttleReasons {
		if bits&r.bit != 0 {
			names = append(names, r.name)
		}
	}
	return names
}
