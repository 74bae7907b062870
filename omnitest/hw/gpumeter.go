package hw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

const (
	gpuInterval    = 100 * time.Millisecond // 10 Hz
	minGPUInterval = 10 * time.Millisecond  // 100 Hz
	// readDeadline bounds the wait for the last reading. With a GPU that fell off the bus a call into the driver may never return.
	readDeadline = 5 * time.Second
)

// gpuMeter samples a source from a goroutine of its own: a driver that hangs must not stop the account of the processes.
type gpuMeter struct {
	source   GPUSource
	interval time.Duration
	began    time.Time
	stages   map[string]*stageSum
	owner    *owners

	mu      sync.Mutex // over all below: the goroutine may outlive the window
	closed  bool
	window  GPUWindow
	sums    []*gpuSum
	devices map[string]bool // those that the total is over, by id; empty: all
	memory  gauge
	util    gauge
	power   gauge
	cost    costSum
	absent  string

	cancel context.CancelFunc
	done   chan struct{}
}

func newGPUMeter(source GPUSource, interval time.Duration, began time.Time, owner *owners, stages map[string]*stageSum) *gpuMeter {
	g := newGauge(interval)
	m := &gpuMeter{source: source, interval: interval, began: began, owner: owner, stages: stages, memory: g, util: g, power: g,
		devices: map[string]bool{}, done: make(chan struct{})}
	for _, s := range stages {
		for _, d := range s.devices {
			m.devices[d] = true
		}
	}
	return m
}

// start takes the first reading, within the deadline, and goes on until stop or the end of ctx.
func (m *gpuMeter) start(ctx context.Context) {
	ctx, m.cancel = context.WithCancel(ctx)
	first := make(chan struct{})
	go m.loop(ctx, first)
	select {
	case <-first:
	case <-time.After(readDeadline):
	}
}

func (m *gpuMeter) loop(ctx context.Context, first chan<- struct{}) {
	defer close(m.done)
	// The thread's own CPU time is the cost of sampling, the driver's part with it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	again := m.read(ctx)
	close(first)
	tick := time.NewTicker(m.pace())
	defer tick.Stop()
	for again {
		select {
		case <-ctx.Done():
			m.read(context.WithoutCancel(ctx))
			return
		case <-tick.C:
			again = m.read(ctx)
			tick.Reset(m.pace())
		}
	}
}

// pace is the interval, or the source's own if that is longer.
func (m *gpuMeter) pace() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(m.interval, time.Duration(m.window.IntervalMS*1e6))
}

// read takes one reading; false when there will be no other.
func (m *gpuMeter) read(ctx context.Context) bool {
	began := time.Now()
	used, known := threadCPU()
	r, err := m.source.ReadGPUs(ctx)
	took := time.Since(began)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	if err != nil && ctx.Err() != nil {
		return true // cut short by stop, which asks once more
	}
	defer func() {
		now, _ := threadCPU()
		m.cost.add(took, now-used+r.Cost, known)
	}()
	if err != nil {
		m.window.Failed++
		if m.window.Err == "" {
			m.window.Err = err.Error()
		}
		if errors.Is(err, ErrUnavailable) {
			m.absent = err.Error()
			return false
		}
		return true
	}
	m.window.Source, m.window.Driver = r.Source, r.Driver
	m.window.IntervalMS = float64(max(m.interval, r.Every)) / 1e6
	m.window.Samples++
	m.take(r)
	return true
}

// take adds one reading to every account.
func (m *gpuMeter) take(r GPUReading) {
	at := max(r.At.Sub(m.began), 0)
	for _, s := range m.sums {
		if !slices.ContainsFunc(r.GPUs, s.is) {
			r.GPUs = append(r.GPUs, LostGPU(s.id.Index, s.id.UUID, s.id.Name, "it is no longer among the GPUs that are shown"))
		}
	}
	var memory, util, power metrics.Value
	n := 0
	for _, g := range r.GPUs {
		s := m.sum(g)
		s.add(at, m.interval, g)
		if s.ended != "" && m.window.Ended == "" {
			m.window.Ended = s.ended
		}
		if g.Lost != "" || len(m.devices) > 0 && !listed(m.devices, g) {
			continue
		}
		if n == 0 {
			memory, util, power = g.MemoryUsed, g.SMUtil, g.Power
		} else {
			memory, util, power = plus(memory, g.MemoryUsed), plus(util, g.SMUtil), plus(power, g.Power)
		}
		n++
	}
	if n == 0 {
		why := metrics.Absent("no GPU of the stack answers")
		memory, util, power = why, why, why
	}
	m.memory.add(at, memory)
	m.util.add(at, util.Per(float64(max(n, 1))))
	m.power.add(at, power)
	for _, s := range m.stages {
		s.take(at, r.GPUs, m.owner)
	}
}

func (m *gpuMeter) sum(g GPU) *gpuSum {
	for _, s := range m.sums {
		if s.is(g) {
			return s
		}
	}
	s := newGPUSum(m.interval)
	s.id = g
	m.sums = append(m.sums, s)
	return s
}

// plus adds figures; a sum with a part that is not measured is not measured.
func plus(a, b metrics.Value) metrics.Value {
	x, ok := a.Get()
	if !ok {
		return a
	}
	y, ok := b.Get()
	if !ok {
		return b
	}
	return metrics.Of(x + y)
}

// stop takes the last reading and gives the window. stuck: the reading did not come back, and the source is still in use.
func (m *gpuMeter) stop(baseline *Baseline) (w GPUWindow, stuck bool) {
	m.cancel()
	select {
	case <-m.done:
	case <-time.After(readDeadline):
		stuck = true
	}
	m.mu.Lock() // never held across a reading
	defer m.mu.Unlock()
	m.closed = true
	w = m.window
	if stuck {
		w.Err = fmt.Sprintf("the last reading did not come back within %v", readDeadline)
	}
	w.Cost = m.cost.result(time.Since(m.began))
	if w.Samples == 0 {
		w.unknown(cmp.Or(m.absent, w.Err, "no reading in the window"))
		return w, stuck
	}
	if w.IntervalMS == 0 {
		w.IntervalMS = float64(m.interval) / 1e6
	}
	w.PeakMemory, w.MeanMemory = m.memory.max(), m.memory.mean()
	w.MeanUtil, w.PeakUtil, w.MeanPower = m.util.mean(), m.util.max(), m.power.mean()
	n := 0
	for _, s := range m.sums {
		one := s.series()
		w.GPUs = append(w.GPUs, one)
		if len(m.devices) > 0 && !listed(m.devices, s.id) {
			continue
		}
		if n == 0 {
			w.Energy = one.Energy
		} else {
			w.Energy = plus(w.Energy, one.Energy)
		}
		n++
	}
	if n == 0 {
		w.Energy = metrics.Absent("no GPU of the stack answers")
	}
	w.PeakMemoryAboveIdle, w.EnergyAboveIdle = baseline.above(w, m.devices)
	return w, stuck
}

// stage gives a stage's share after stop.
func (m *gpuMeter) stage(name string) *StageGPU {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.window.Samples == 0 {
		return nil // GPUWindow.Absent says why
	}
	return m.stages[name].result()
}

// shareDevices finds GPUs that two stages name: their memory cannot be told apart by device.
func shareDevices(stages map[string]*stageSum) {
	for _, a := range slices.Sorted(maps.Keys(stages)) {
		for _, b := range slices.Sorted(maps.Keys(stages)) {
			if a != b && slices.ContainsFunc(stages[a].devices, func(d string) bool { return slices.Contains(stages[b].devices, d) }) {
				stages[a].shared = b
			}
		}
	}
}

// names are the ways in which a stack file may name a GPU: "0", "gpu0", "cuda:0", its UUID.
func (g GPU) names() []string {
	return []string{fmt.Sprint(g.Index), fmt.Sprint("gpu", g.Index), fmt.Sprint("cuda:", g.Index), strings.ToLower(g.UUID)}
}

func listed(devices map[string]bool, g GPU) bool {
	return slices.ContainsFunc(g.names(), func(n string) bool { return n != "" && devices[n] })
}

// costSum adds up what readings cost.
type costSum struct {
	reads     int
	wall, max time.Duration
	cpu       time.Duration
	unknown   bool
}

func (c *costSum) add(wall, cpu time.Duration, known bool) {
	c.reads++
	c.wall += wall
	c.max = max(c.max, wall)
	c.cpu += cpu
	c.unknown = c.unknown || !known
}

func (c *costSum) result(window time.Duration) Cost {
	out := Cost{Reads: c.reads, MaxReadMS: float64(c.max) / 1e6}
	if c.reads > 0 {
		out.MeanReadMS = float64(c.wall) / 1e6 / float64(c.reads)
	}
	switch {
	case c.unknown:
		out.CPUSeconds = metrics.Absent("the CPU time of a thread is not told on this system")
		out.Cores = out.CPUSeconds
	case c.reads > 0 && window > 0:
		out.CPUSeconds = metrics.Of(c.cpu.Seconds())
		out.Cores = metrics.Of(c.cpu.Seconds() / window.Seconds())
	}
	return out
}
