package perf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/hw/nvml"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
)

// gpus are those of this host: one source and one idle baseline for the whole run.
var gpus hostGPUs

type hostGPUs struct {
	once     sync.Once
	source   hw.GPUSource
	baseline *hw.Baseline

	mu     sync.Mutex
	pids   map[string]int // all processes of stacks that were measured
	within time.Duration  // that all must be released in; 0: that of hw.Released
}

// idleTime is how long the idle GPUs are watched. Where there is none it ends at once.
const idleTime = 500 * time.Millisecond

func (g *hostGPUs) open() {
	g.once.Do(func() {
		ctx := context.Background()
		source, err := nvml.Open(ctx, nvml.Options{})
		if err != nil {
			source = hw.Unavailable(strings.TrimPrefix(err.Error(), hw.ErrUnavailable.Error()+": ")) // the reason then stands where the figures would
		}
		g.source = &oneAtATime{GPUSource: source}
		g.baseline, _ = hw.TakeBaseline(ctx, g.source, idleTime) // the error is that of ctx
	})
}

// released waits until the processes of all stacks are gone and the GPUs hold no more than before the first start. Without a GPU
// only the processes are looked at.
func (g *hostGPUs) released() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pids) == 0 {
		return nil
	}
	r := hw.Release{PIDs: g.pids, Within: g.within}
	if g.baseline.Absent == "" {
		r.GPU, r.Baseline = g.source, g.baseline
	}
	_, err := hw.Released(context.Background(), r)
	return err
}

// oneAtATime refuses a reading while an earlier one hangs in the driver: each window has a meter of its own, and a source is for one
// goroutine.
type oneAtATime struct {
	hw.GPUSource
	mu sync.Mutex
}

func (o *oneAtATime) ReadGPUs(ctx context.Context) (hw.GPUReading, error) {
	if !o.mu.TryLock() {
		return hw.GPUReading{}, errors.New("a reading of an earlier window has not come back from the driver")
	}
	defer o.mu.Unlock()
	return o.GPUSource.ReadGPUs(ctx)
}

// meterOf measures the processes and GPUs of a stack; without one this process, where offline batches run.
func meterOf(s *omnitest.Stack) *hw.Meter {
	gpus.open()
	m := hw.NewMeter(map[string]int{"offline": os.Getpid()})
	if s != nil {
		all := pids(s)
		m = hw.NewMeter(all)
		m.Devices = map[string][]string{}
		for stage, told := range s.Spec().Stages {
			if all[stage] != 0 && len(told.Devices) > 0 { // the devices of an attached stage are those of another host
				m.Devices[string(stage)] = told.Devices
			}
		}
		gpus.stopLater(all)
	}
	m.GPU, m.Baseline = gpus.source, gpus.baseline
	return m
}

func (g *hostGPUs) stopLater(pids map[engine.Stage]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pids == nil {
		g.pids = map[string]int{}
	}
	for stage, pid := range pids {
		if pid != 0 {
			g.pids[fmt.Sprintf("%s %d", stage, pid)] = pid
		}
	}
}

// hardware keeps the window of a load run of n requests that began at a time. Figures are those of the last run, the timeline has all.
func (t *tally) hardware(w hw.Window, began time.Time, n int) {
	row := t.row()
	row.Hardware, row.GPUMemory, row.Energy = w, w.GPU.PeakMemory, w.GPU.EnergyPer(n)
	// Runs follow each other in the row's time without the pauses between (tally.add). What lies before the first request, such as
	// opening the connections, is no time of the row.
	row.Timeline = addTracks(row.Timeline, w.Tracks(), t.wall.Seconds(), began.Sub(w.Began).Seconds())
}

// addTracks appends tracks to the series of the same name: a point at skip comes to stand at from, those before it are left out.
func addTracks(all []report.Series, tracks []hw.StageTrack, from, skip float64) []report.Series {
	for _, track := range tracks {
		i := slices.IndexFunc(all, func(s report.Series) bool { return s.Stage == track.Stage && s.Name == track.Name })
		if i < 0 {
			i, all = len(all), append(all, report.Series{Stage: track.Stage, Name: track.Name, Unit: track.Unit})
		}
		s := &all[i]
		for k, at := range track.At {
			at += from - skip
			if at < from || len(s.At) > 0 && at < s.At[len(s.At)-1] {
				continue
			}
			s.At, s.Value = append(s.At, at), append(s.Value, track.Mean[k])
		}
	}
	return slices.DeleteFunc(all, func(s report.Series) bool { return len(s.At) == 0 })
}

func TestTracksFollowTheRuns(t *testing.T) {
	track := func(values ...float64) []hw.StageTrack {
		s := hw.StageTrack{Stage: "decode", Track: hw.Track{Name: "CPU", Unit: "cores"}}
		for i, v := range values {
			s.At, s.Mean = append(s.At, float64(i)), append(s.Mean, metrics.Of(v))
		}
		return []hw.StageTrack{s}
	}
	all := addTracks(nil, track(9, 1, 2), 0, 0.5) // the load began half a second after the meter
	all = addTracks(all, track(9, 3, 4), 2, 1)
	assert.Equal(t, []report.Series{{Stage: "decode", Name: "CPU", Unit: "cores", At: []float64{0.5, 1.5, 2, 3},
		Value: []metrics.Value{metrics.Of(1), metrics.Of(2), metrics.Of(3), metrics.Of(4)}}}, all)
	assert.Empty(t, addTracks(nil, track(1), 0, 5), "a series without a point is none")
}

// A process that outlives its stack is named.
func TestReleasedNamesWhatIsStillRunning(t *testing.T) {
	g := hostGPUs{baseline: &hw.Baseline{Absent: "no driver"}, within: time.Millisecond}
	assert.NoError(t, g.released(), "no stack was measured")
	g.stopLater(map[engine.Stage]int{engine.Decode: os.Getpid(), engine.Prefill: 0})
	assert.ErrorContains(t, g.released(), fmt.Sprintf("the stop still running: decode %d (pid %[1]d)", os.Getpid()))
}

func TestOneReadingAtATime(t *testing.T) {
	o := &oneAtATime{GPUSource: hw.Unavailable("no driver")}
	_, err := o.ReadGPUs(t.Context())
	assert.ErrorIs(t, err, hw.ErrUnavailable)
	o.mu.Lock()
	_, err = o.ReadGPUs(t.Context())
	assert.EqualError(t, err, "a reading of an earlier window has not come back from the driver")
}
