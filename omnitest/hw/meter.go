// Package hw measures what the processes of a run cost on the host: CPU seconds and resident memory of each stage.
//
// A stage is a process tree: an engine forks workers, and its front end is often the smallest of them. A [Meter] samples
// all trees at one interval, between Start and Stop, and gives a [Window].
//
// What the numbers are, and are not:
//
//   - RSS is summed over the tree. Pages shared between its processes count once for each, so the sum is an upper bound.
//   - CPU seconds are user + system time spent inside the window, with the share of workers that ended in it up to their
//     last sample. A process that is born and dies between two looks at the process table is not seen.
//   - GPU figures come from a [GPUSource]. They are attributed to a stage by the processes that the driver lists on a GPU, or
//     where it lists none by the GPUs that the stage has for itself ([Meter.Devices]).
//
// What is not measured is absent with a reason ([metrics.Value]), never 0. A window stores the idle baseline that it was given,
// and what the sampling itself cost.
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
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// AttachedByURL is why a stage without a process of ours has no series.
const AttachedByURL = "attached by URL"

// Meter samples the process trees of named stages. Use one at a time: Start, Stop, and again Start for the next window.
type Meter struct {
	GPU         GPUSource           // nil: GPUs are not measured
	GPUInterval time.Duration       // 10 ms (100 Hz) and longer; 0: 100 ms
	Devices     map[string][]string // the GPUs of each stage: "0", "gpu0" or a UUID; nil: told by the processes alone
	Baseline    *Baseline           // what the GPUs show when idle (TakeBaseline); nil: not taken

	roots map[string]int // stage -> pid; 0: attached by URL
	trees map[int]*tree  // by root pid: two stages may live in one process
	table table

	began    time.Time
	interval time.Duration
	total    rss
	host     *hostSum
	cost     costSum
	owner    *owners
	gpus     *gpuMeter
	stuck    <-chan struct{} // closed when the reading of an earlier window that hung has come back; nil: none hung
	cancel   context.CancelFunc
	done     chan struct{}
}

// NewMeter makes a meter for stages by the pid of their root process. Pid 0 says that the stage is attached by URL: its
// series is absent and says so. A stage inside another stage's tree (every engine is a child of the process that
// launched it) is counted with its own name only.
func NewMeter[S ~string](pids map[S]int) *Meter {
	m := &Meter{roots: make(map[string]int, len(pids))}
	for stage, pid := range pids {
		m.roots[string(stage)] = pid
	}
	return m
}

// Start takes the first sample and goes on at the interval (0: 250 ms) until Stop, or until ctx ends.
func (m *Meter) Start(ctx context.Context, interval time.Duration) error {
	if m.cancel != nil {
		return errors.New("hw: the meter is already running")
	}
	if interval < 0 {
		return fmt.Errorf("hw: negative interval %v", interval)
	}
	if m.GPUInterval != 0 && m.GPUInterval < minGPUInterval {
		return fmt.Errorf("hw: GPU interval %v, want %v or longer", m.GPUInterval, minGPUInterval)
	}
	if interval == 0 {
		interval = 250 * time.Millisecond
	}
	m.interval, m.total, m.table = interval, rss{}, table{}
	m.trees, m.owner, m.gpus = map[int]*tree{}, newOwners(), nil
	for _, pid := range m.roots {
		if pid != 0 {
			m.trees[pid] = newTree(pid, interval)
		}
	}
	m.host, m.cost = newHostSum(max(interval, tableAge)), costSum{}
	m.began = time.Now()
	m.sample(ctx, false)
	m.startGPUs(ctx)
	ctx, m.cancel = context.WithCancel(ctx)
	m.done = make(chan struct{})
	go m.loop(ctx, m.done)
	return nil
}

func (m *Meter) startGPUs(ctx context.Context) {
	select {
	case <-m.stuck:
		m.stuck = nil
	default:
	}
	if m.GPU == nil || m.stuck != nil {
		return // the source is for one goroutine at a time
	}
	interval := cmp.Or(m.GPUInterval, gpuInterval)
	stages := map[string]*stageSum{}
	for stage, pid := range m.roots {
		stages[stage] = newStageSum(stage, pid, m.Devices[stage], interval)
	}
	shareDevices(stages)
	m.gpus = newGPUMeter(m.GPU, interval, m.began, m.owner, stages)
	m.gpus.start(ctx)
}

func (m *Meter) loop(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	tick := time.NewTicker(m.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// The last sample is what closes the CPU account; the caller's end of context must not cost it.
			m.sample(context.WithoutCancel(ctx), true)
			return
		case <-tick.C:
			m.sample(ctx, false)
		}
	}
}

// Stop takes a last sample and gives the window. Without a Start the window is empty.
func (m *Meter) Stop() Window {
	if m.cancel == nil {
		return Window{}
	}
	m.cancel()
	<-m.done
	m.cancel = nil
	return m.window()
}

// sample visits every tree once. The process table is read for all of them together, and not more than once a second:
// that is the expensive part.
func (m *Meter) sample(ctx context.Context, last bool) {
	runtime.LockOSThread() // the cost of sampling is the CPU time of this thread
	defer runtime.UnlockOSThread()
	from := time.Now()
	used, known := threadCPU()
	defer func() {
		now, _ := threadCPU()
		m.cost.add(time.Since(from), now-used, known)
	}()
	at := time.Since(m.began)
	first := m.table.read.IsZero()
	look := last
	if m.table.read.IsZero() || time.Since(m.table.read) >= tableAge {
		look = true
		m.table.reload(ctx)
		for pid, t := range m.trees {
			members := m.table.descendants(int32(pid), m.trees)
			t.grow(members, m.table.err)
			for _, p := range members {
				m.owner.put(int(p), pid)
			}
		}
	}
	var sum int64
	alive := false
	for _, t := range m.trees {
		now, ok := t.sample(ctx, at)
		sum += now
		alive = alive || ok
	}
	if alive {
		m.total.add(sum)
	}
	if !look {
		return
	}
	for _, t := range m.trees {
		if t.ended == "" {
			t.look(ctx, at, first, last)
		}
	}
	m.host.look(ctx, at)
}

func (m *Meter) window() Window {
	w := Window{Began: m.began, WallS: time.Since(m.began).Seconds(), IntervalMS: float64(m.interval) / 1e6, Stages: map[string]Series{},
		Baseline: m.Baseline, Host: m.host.result(), Cost: m.cost.result(time.Since(m.began))}
	switch {
	case m.gpus != nil:
		var hung bool
		if w.GPU, hung = m.gpus.stop(m.Baseline); hung {
			m.stuck = m.gpus.done
		}
	case m.stuck != nil:
		w.GPU.unknown("a reading of an earlier window has not come back from the driver")
	}
	var missing []string
	for _, stage := range slices.Sorted(maps.Keys(m.roots)) {
		s := Series{Absent: AttachedByURL}
		if pid := m.roots[stage]; pid != 0 {
			s = m.trees[pid].series()
		}
		if s.Absent == "" {
			s.MeanCores = cores(s.CPUSeconds, w.WallS)
		}
		if m.gpus != nil {
			s.GPU = m.gpus.stage(stage)
		}
		w.Stages[stage] = s
		if s.Absent != "" {
			missing = append(missing, stage+" "+s.Absent)
		}
	}
	switch {
	case len(m.roots) == 0:
		w.Total.Absent = "no stages"
		return w
	case len(missing) > 0: // a sum over some of the stages is a number that nobody had
		w.Total.Absent = strings.Join(missing, "; ")
		return w
	}
	w.Total = Series{Samples: m.total.n, PeakRSS: m.total.peak, MeanRSS: m.total.mean()}
	for _, pid := range slices.Sorted(maps.Keys(m.trees)) {
		t := m.trees[pid]
		w.Total.CPUSeconds += t.cpu()
		w.Total.Processes += t.most
		if t.ended != "" && w.Total.Ended == "" {
			w.Total.Ended = t.ended
		}
	}
	w.Total.MeanCores = cores(w.Total.CPUSeconds, w.WallS)
	return w
}

// leastWall is the shortest window, in seconds, of which a mean of cores says something. Linux counts the CPU of a process in ticks of
// 10 ms: below it a stage that worked may show no tick, and its 0 would be none.
const leastWall = 1.0

func cores(cpuSeconds, wall float64) metrics.Value {
	if wall < leastWall {
		return metrics.Absent(fmt.Sprintf("a window of %.2f s is too short: CPU is counted in ticks of 10 ms", wall))
	}
	return metrics.Of(cpuSeconds / wall)
}
