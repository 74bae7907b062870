package hw

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Release says what must be gone after a stack was stopped. The zero value checks nothing and is an error.
type Release struct {
	PIDs      map[string]int // by stage: the processes that were stopped; 0: attached by URL, not checked
	GPU       GPUSource      // nil: GPU memory is not checked
	Baseline  *Baseline      // of before the start; needed with GPU
	Tolerance int64          // bytes of each GPU above the baseline that are nobody's leak; 0: 64 MiB
	Within    time.Duration  // 0: 10 s. The driver frees memory some 100 ms after a process has ended
}

// Held is what was still there when the time was over, or the memory above the baseline once all was released.
type Held struct {
	AfterS  float64               `json:"after_s"` // until all was released, or until the check gave up
	Running []string              `json:"running,omitempty"`
	GPUs    map[int]metrics.Value `json:"gpu_above_idle_bytes,omitempty"`
}

// Released waits until the processes are gone and each GPU is back at its idle memory, and fails with what is still held. GPU
// memory that cannot be measured is an error too: it says ErrUnavailable or why, and was not released as far as anybody knows.
func Released(ctx context.Context, r Release) (Held, error) {
	if r.GPU == nil && len(r.PIDs) == 0 {
		return Held{}, errors.New("hw: nothing to check: neither processes nor a GPU source")
	}
	if r.GPU != nil && r.Baseline == nil {
		return Held{}, errors.New("hw: GPU memory after a stop cannot be judged without the baseline of before the start")
	}
	if r.Tolerance == 0 {
		r.Tolerance = 64 << 20
	}
	if r.Within == 0 {
		r.Within = 10 * time.Second
	}
	began := time.Now()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		held, err := r.look(ctx)
		held.AfterS = time.Since(began).Seconds()
		if err == nil || errors.Is(err, ErrUnavailable) {
			return held, err
		}
		left := r.Within - time.Since(began)
		if left <= 0 {
			return held, fmt.Errorf("%.1f s after the stop %w", held.AfterS, err)
		}
		select {
		case <-ctx.Done():
			return held, fmt.Errorf("%w, and so far %w", ctx.Err(), err)
		case <-time.After(min(wait, left)):
		}
	}
}

// look is one check. Its error lists all that is still held.
func (r Release) look(ctx context.Context) (Held, error) {
	var held Held
	var still []string
	for stage, pid := range sorted(r.PIDs) {
		if pid == 0 {
			continue
		}
		if p, err := process.NewProcessWithContext(ctx, int32(pid)); err == nil && !zombie(ctx, p) {
			held.Running = append(held.Running, fmt.Sprintf("%s (pid %d)", stage, pid))
		}
	}
	if len(held.Running) > 0 {
		still = append(still, "still running: "+strings.Join(held.Running, ", "))
	}
	if r.GPU != nil {
		what, err := r.lookGPUs(ctx, &held)
		if err != nil {
			return held, err
		}
		still = append(still, what...)
	}
	if len(still) > 0 {
		return held, errors.New(strings.Join(still, "; "))
	}
	return held, nil
}

func (r Release) lookGPUs(ctx context.Context, held *Held) (still []string, err error) {
	if r.Baseline.Absent != "" {
		return nil, fmt.Errorf("%w: idle baseline: %s", ErrUnavailable, r.Baseline.Absent)
	}
	reading, err := r.GPU.ReadGPUs(ctx)
	if err != nil {
		return nil, err
	}
	for _, idle := range r.Baseline.GPUs {
		if !slices.ContainsFunc(reading.GPUs, func(g GPU) bool { return g.Index == idle.Index && g.UUID == idle.UUID }) {
			return nil, fmt.Errorf("%w: GPU %d of the idle baseline is no longer shown", ErrUnavailable, idle.Index)
		}
	}
	held.GPUs = map[int]metrics.Value{}
	for _, g := range reading.GPUs {
		idle, found := r.Baseline.idle(g.Index, g.UUID)
		over := minus(g.MemoryUsed, idle.Memory)
		if !found {
			over = metrics.Absent("not in the idle baseline")
		}
		held.GPUs[g.Index] = over
		bytes, ok := over.Get()
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: GPU %d: %s", ErrUnavailable, g.Index, over.Reason())
		case bytes > float64(r.Tolerance):
			still = append(still, fmt.Sprintf("GPU %d holds %s more than when idle (tolerance %s)%s",
				g.Index, size(bytes), size(float64(r.Tolerance)), holders(g)))
		}
	}
	return still, nil
}

// holders names who still has memory, as far as the driver says so.
func holders(g GPU) string {
	var all []string
	for _, p := range allProcesses(g) {
		who := fmt.Sprintf("pid %d", p.PID)
		if n, ok := p.Memory.Get(); ok {
			who += " " + size(n)
		}
		all = append(all, who)
	}
	switch {
	case len(all) > 0:
		return ", held by " + strings.Join(all, ", ")
	case g.NoProcesses != "":
		return ", by whom is not known: " + g.NoProcesses
	}
	return ", held by no process that the driver shows"
}

func zombie(ctx context.Context, p *process.Process) bool {
	status, err := p.StatusWithContext(ctx)
	return err != nil || len(status) > 0 && status[0] == process.Zombie
}

// sorted goes through a map in the order of its keys.
func sorted(m map[string]int) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func size(bytes float64) string { return fmt.Sprintf("%.2f GiB", bytes/(1<<30)) }
