package hw

import (
	"context"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Baseline is what the GPUs of a host show before the stack is started: memory that others hold, power of an idle GPU.
type Baseline struct {
	At     time.Time `json:"at"`
	WallS  float64   `json:"wall_s"`
	Absent string    `json:"absent,omitempty"` // why nothing was measured
	GPUs   []Idle    `json:"gpus,omitempty"`
}

// Idle is one GPU of a baseline.
type Idle struct {
	Index  int           `json:"index"`
	UUID   string        `json:"uuid,omitempty"`
	Memory metrics.Value `json:"memory_used_bytes"` // highest
	Power  metrics.Value `json:"power_w"`           // mean
	Util   metrics.Value `json:"sm_util_share"`     // mean; above 0: it was not idle
}

// TakeBaseline samples the source at 10 Hz for a time (0: 2 s). The source must not be in use by a meter. An error is that of
// ctx; a source that measures nothing gives a baseline that says so.
func TakeBaseline(ctx context.Context, source GPUSource, length time.Duration) (*Baseline, error) {
	if length == 0 {
		length = 2 * time.Second
	}
	began := time.Now()
	m := newGPUMeter(source, gpuInterval, began, newOwners(), nil)
	m.start(ctx)
	select {
	case <-ctx.Done():
	case <-time.After(length):
	case <-m.done: // nothing to measure
	}
	w, _ := m.stop(nil)
	b := &Baseline{At: began, WallS: time.Since(began).Seconds(), Absent: w.Absent}
	for _, g := range w.GPUs {
		b.GPUs = append(b.GPUs, Idle{Index: g.Index, UUID: g.UUID, Memory: g.PeakMemory, Power: g.MeanPower, Util: g.MeanUtil})
	}
	return b, ctx.Err()
}

// idle finds a GPU.
func (b *Baseline) idle(index int, uuid string) (Idle, bool) {
	for _, g := range b.GPUs {
		if g.UUID == uuid && uuid != "" || uuid == "" && g.Index == index {
			return g, true
		}
	}
	return Idle{}, false
}

// above is the peak of memory and the energy of a window, less what the same GPUs have when idle.
func (b *Baseline) above(w GPUWindow, devices map[string]bool) (memory, energy metrics.Value) {
	if b == nil {
		v := metrics.Absent("no idle baseline was taken")
		return v, v
	}
	if b.Absent != "" {
		v := metrics.Absent("idle baseline: " + b.Absent)
		return v, v
	}
	heldIdle, energy := metrics.Of(0), metrics.Of(0)
	for _, g := range w.GPUs {
		if len(devices) > 0 && !listed(devices, GPU{Index: g.Index, UUID: g.UUID}) {
			continue
		}
		idle, found := b.idle(g.Index, g.UUID)
		if !found {
			v := metrics.Absent(fmt.Sprintf("GPU %d is not in the idle baseline", g.Index))
			return v, v
		}
		heldIdle = plus(heldIdle, idle.Memory)
		energy = plus(energy, minus(g.Energy, times(idle.Power, g.seconds)))
	}
	return minus(w.PeakMemory, heldIdle), energy
}

func minus(a, b metrics.Value) metrics.Value { return plus(a, b.Per(-1)) }

func times(v metrics.Value, by float64) metrics.Value {
	x, ok := v.Get()
	if !ok {
		return v
	}
	return metrics.Of(x * by)
}
