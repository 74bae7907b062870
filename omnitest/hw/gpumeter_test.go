package hw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
)

const gib = 1 << 30

// script is a source that plays: reading gives the GPUs, or an error, at a time since the first call.
type script struct {
	began   time.Time
	reading func(at time.Duration) ([]GPU, error)
	every   time.Duration
	calls   int
}

func (s *script) ReadGPUs(context.Context) (GPUReading, error) {
	now := time.Now()
	if s.began.IsZero() {
		s.began = now
	}
	s.calls++
	gpus, err := s.reading(now.Sub(s.began))
	return GPUReading{At: now, Source: "script", Driver: "1.2", Every: s.every, GPUs: gpus}, err
}
func (s *script) Close() error { return nil }

// gpu has memory in GiB and power, and answers with "no such figure" for the rest.
func gpu(index int, memory, watts float64, processes ...GPUProcess) GPU {
	g := UnknownGPU(index, fmt.Sprint("GPU-", index), "Fake", "no such figure")
	g.MemoryTotal, g.MemoryUsed, g.Power, g.SMUtil = metrics.Of(80*gib), metrics.Of(memory*gib), metrics.Of(watts), metrics.Of(0.5)
	g.Processes, g.NoProcesses = processes, ""
	return g
}

func holds(pid int, memory float64) GPUProcess {
	return GPUProcess{PID: pid, Memory: metrics.Of(memory * gib), SMUtil: metrics.Of(0.25)}
}

// window runs a source for a time on a fake clock, with stages by root pid; all other pids are of no stage.
func window(t *testing.T, s GPUSource, length time.Duration, baseline *Baseline, stages ...*stageSum) (w GPUWindow, shares map[string]*StageGPU) {
	t.Helper()
	owner := newOwners()
	owner.parent = func(pid int) (int, error) { return 0, errors.New("gone") }
	all := map[string]*stageSum{}
	for _, st := range stages {
		all[st.name] = st
		owner.put(st.root, st.root)
	}
	shareDevices(all)
	m := newGPUMeter(s, gpuInterval, time.Now(), owner, all)
	m.start(t.Context())
	time.Sleep(length)
	w, hung := m.stop(baseline)
	assert.False(t, hung)
	shares = map[string]*StageGPU{}
	for name := range all {
		shares[name] = m.stage(name)
	}
	return w, shares
}

func stage(name string, root int, devices ...string) *stageSum {
	return newStageSum(name, root, devices, gpuInterval)
}

func of(v float64) metrics.Value      { return metrics.Of(v) }
func absent(why string) metrics.Value { return metrics.Absent(why) }

// Two stages share a GPU, one of them has a second GPU for itself: memory goes where the processes are.
func TestMemoryGoesToTheStageOfTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			grown := 0.0
			if at >= time.Second { // planted growth of decode
				grown = 6
			}
			return []GPU{gpu(0, 31+grown, 300, holds(10, 20), holds(20, 10+grown)), gpu(1, 5, 100, holds(20, 4))}, nil
		}}
		w, share := window(t, s, 1950*time.Millisecond, nil, stage("prefill", 10), stage("decode", 20), stage("dit", 30), stage("proxy", 0))
		assert.Empty(t, w.Absent+w.Err+w.Ended)
		assert.Equal(t, 21, w.Samples)
		assert.Equal(t, "script", w.Source)
		assert.Equal(t, of(42*gib), w.PeakMemory)
		assert.Equal(t, of(0.5), w.MeanUtil)
		assert.Equal(t, of(400), w.MeanPower)
		assert.Equal(t, of(20*gib), share["prefill"].PeakMemory)
		assert.Equal(t, of(20*gib), share["prefill"].MeanMemory)
		assert.Equal(t, of(20*gib), share["decode"].PeakMemory)
		assert.Equal(t, of((10*14+11*20)/21.0*gib), share["decode"].MeanMemory)
		assert.Equal(t, of(0.5), share["decode"].MeanUtil, "a quarter of each of two GPUs")
		assert.Equal(t, []int{0, 1}, share["decode"].GPUs)
		assert.Equal(t, "process", share["decode"].How)
		assert.Equal(t, absent("GPU 0 is shared with process 20"), share["prefill"].Energy)
		assert.Equal(t, absent("GPU 0 is shared with process 10"), share["decode"].Energy)
		assert.Equal(t, &StageGPU{Absent: "no process of its tree among the 3 that the driver shows: it has none on a GPU, or runs in another PID namespace"}, share["dit"])
		assert.Equal(t, &StageGPU{Absent: "attached by URL, and the GPUs that it has for itself are not named"}, share["proxy"])
		assert.Equal(t, absent("no idle baseline was taken"), w.EnergyAboveIdle)
		track := share["decode"].Tracks[0]
		assert.Equal(t, "GPU memory", track.Name)
		assert.Equal(t, "bytes", track.Unit)
		assert.Equal(t, of(14*gib), track.Mean[9])
		assert.Equal(t, of(20*gib), track.Mean[10])
		assert.InDelta(t, 1.0, track.At[10], 1e-9)
	})
}

// Where the driver shows no process (containers, other hosts) a stage has what its own GPUs have, unless two stages name one.
func TestStageByItsDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hidden := func(g GPU) GPU { g.Processes, g.NoProcesses = nil, "no processes told"; return g }
		s := &script{reading: func(time.Duration) ([]GPU, error) {
			return []GPU{hidden(gpu(0, 40, 300)), hidden(gpu(1, 30, 200)), hidden(gpu(2, 7, 50)), hidden(gpu(3, 1, 10))}, nil
		}}
		w, share := window(t, s, time.Second, nil, stage("prefill", 10, "0"), stage("dit", 0, " GPU1", "cuda:2"), stage("decode", 20, "GPU-3"), stage("vae", 30, "gpu-3"), stage("proxy", 40))
		assert.Equal(t, of(40*gib), share["prefill"].PeakMemory)
		assert.Equal(t, "device", share["prefill"].How)
		assert.Equal(t, of(300), share["prefill"].Energy)
		assert.Equal(t, of(37*gib), share["dit"].MeanMemory)
		assert.Equal(t, []int{1, 2}, share["dit"].GPUs)
		assert.Equal(t, of(250), share["dit"].Energy)
		assert.Equal(t, of(25), share["dit"].EnergyPer(10))
		assert.Equal(t, absent("no request"), share["dit"].EnergyPer(0))
		assert.Equal(t, "its GPUs are also those of vae, and no process of it is seen on them", share["decode"].Absent)
		assert.Equal(t, absent(share["decode"].Absent), share["decode"].EnergyPer(1))
		assert.Equal(t, "no processes told", share["proxy"].Absent)
		assert.Equal(t, of(78*gib), w.PeakMemory)
		assert.Equal(t, "no processes told", w.GPUs[0].NoProcesses)
	})
}

// GPUs that no stage names are the neighbours', once stages name any.
func TestTotalIsOverTheGPUsOfTheStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 10, 100), gpu(1, 70, 700)}, nil }}
		w, _ := window(t, s, time.Second, nil, stage("decode", 20, "0"))
		assert.Equal(t, of(10*gib), w.PeakMemory)
		assert.Equal(t, of(100), w.Energy)
		assert.Equal(t, of(2), w.EnergyPer(50))
		assert.Len(t, w.GPUs, 2, "the other one is still there to be looked at")
	})
}

func TestGPULostInsideTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			a := gpu(0, 40, 300, holds(10, 39))
			if at >= time.Second {
				a = LostGPU(0, "GPU-0", "Fake", "GPU is lost")
				a.Xids = []int{79}
			}
			return []GPU{a, gpu(1, 10, 100)}, nil
		}}
		w, share := window(t, s, 1950*time.Millisecond, nil, stage("decode", 10))
		assert.Equal(t, "GPU 0 lost at 1.00 s of the window: GPU is lost", w.Ended)
		assert.Equal(t, w.Ended, w.GPUs[0].Ended)
		assert.Equal(t, 10, w.GPUs[0].Samples)
		assert.Equal(t, of(40*gib), w.GPUs[0].MeanMemory, "what was measured until then; no 0 of afterwards")
		assert.Equal(t, 79, w.GPUs[0].Xids[0])
		assert.Equal(t, of(50*gib), w.PeakMemory)
		assert.Equal(t, 21, w.GPUs[1].Samples)
		assert.Equal(t, of(39*gib), share["decode"].PeakMemory)
	})
}

// A GPU that a source stops showing (nvidia-smi, an exporter's page) is lost too.
func TestGPUThatIsNoLongerShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			if at >= time.Second {
				return []GPU{gpu(1, 10, 100)}, nil
			}
			return []GPU{gpu(0, 40, 300), gpu(1, 10, 100)}, nil
		}}
		w, _ := window(t, s, 1950*time.Millisecond, nil)
		assert.Equal(t, "GPU 0 lost at 1.00 s of the window: it is no longer among the GPUs that are shown", w.Ended)
		assert.Equal(t, 10, w.GPUs[0].Samples)
		assert.Equal(t, of(40*gib), w.GPUs[0].MeanMemory)
	})
}

func TestGPULostBeforeTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{LostGPU(0, "", "", "GPU is lost")}, nil }}
		w, _ := window(t, s, time.Second, nil)
		assert.Equal(t, absent("no GPU of the stack answers"), w.PeakMemory)
		assert.Equal(t, absent("GPU is lost"), w.GPUs[0].PeakMemory)
		assert.Equal(t, absent("GPU is lost"), w.GPUs[0].Energy)
		raw, err := json.Marshal(w)
		require.NoError(t, err)
		assert.Contains(t, string(raw), `"peak_memory_bytes":"not measured: no GPU of the stack answers"`)
	})
}

// Without a driver there is one reading, and its reason.
func TestNoDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, share := window(t, Unavailable("no NVIDIA driver"), time.Second, nil, stage("decode", 10))
		assert.Equal(t, "GPUs are not measured: no NVIDIA driver", w.Absent)
		assert.Equal(t, 1, w.Failed)
		assert.Equal(t, absent(w.Absent), w.EnergyPer(3))
		for _, v := range []metrics.Value{w.PeakMemory, w.MeanMemory, w.MeanUtil, w.PeakUtil, w.MeanPower, w.Energy, w.PeakMemoryAboveIdle, w.EnergyAboveIdle} {
			assert.Equal(t, absent(w.Absent), v)
		}
		assert.Nil(t, share["decode"])
	})
}

// Readings that fail are counted, and the others stand.
func TestReadingsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			if at > 450*time.Millisecond && at < 750*time.Millisecond {
				return nil, errors.New("HTTP 503")
			}
			return []GPU{gpu(0, 10, 100)}, nil
		}}
		w, _ := window(t, s, 950*time.Millisecond, nil)
		assert.Equal(t, 8, w.Samples)
		assert.Equal(t, 3, w.Failed)
		assert.Equal(t, "HTTP 503", w.Err)
		assert.Empty(t, w.Absent)
		s = &script{reading: func(time.Duration) ([]GPU, error) { return nil, errors.New("HTTP 503") }}
		w, _ = window(t, s, time.Second, nil)
		assert.Equal(t, "HTTP 503", w.Absent)
	})
}

// Energy: the GPU's own counter before power over time; one that fell is no energy.
func TestEnergy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			counter, ramp, fell := gpu(0, 1, 100), gpu(1, 1, 100*at.Seconds()), gpu(2, 1, 100)
			counter.Energy = of(5000 + 150*at.Seconds()) // power.draw is a mean over time and lags
			fell.Energy = of(5000)
			if at > time.Second {
				fell.Energy = of(1)
			}
			none, stale, still := gpu(3, 1, 0), gpu(4, 1, 200), gpu(5, 1, 0)
			none.Power, still.Power = absent("Not Supported"), absent("Not Supported")
			stale.Energy, still.Energy = of(7000), of(7000) // an exporter that collected before the window
			rare := gpu(6, 1, 100)                          // a counter that is read each fifth time, not at either end; it runs 10 % above the power
			if rare.Energy = absent(NotThisTime); int(at/gpuInterval)%5 == 3 {
				rare.Energy = of(9000 + 110*at.Seconds())
			}
			return []GPU{counter, ramp, fell, none, stale, still, rare}, nil
		}}
		w, _ := window(t, s, 2*time.Second, nil)
		assert.Equal(t, of(300), w.GPUs[0].Energy)
		assert.Equal(t, "counter", w.GPUs[0].EnergyHow)
		ramp, _ := w.GPUs[1].Energy.Get()
		assert.InDelta(t, 200, ramp, 1e-6)
		assert.Equal(t, "power over time", w.GPUs[1].EnergyHow)
		assert.Equal(t, absent("the energy counter fell: the driver was loaded anew"), w.GPUs[2].Energy)
		assert.Equal(t, absent("no such figure"), w.GPUs[3].Energy)
		assert.Equal(t, of(400), w.GPUs[4].Energy, "not the 0 of a counter that nobody read again")
		assert.Equal(t, absent("the energy counter did not move in the window"), w.GPUs[5].Energy)
		rare, _ := w.GPUs[6].Energy.Get()
		assert.InDelta(t, 30+110*1.5+20, rare, 1e-6, "counter in between, power before and after it")
		assert.Equal(t, "counter", w.GPUs[6].EnergyHow)
		assert.Equal(t, absent("the energy counter fell: the driver was loaded anew"), w.Energy, "a sum that lacks a part is no sum")
	})
}

func TestAboveTheIdleBaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, err := TakeBaseline(t.Context(), &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 2, 70)}, nil }}, 0)
		require.NoError(t, err)
		assert.Equal(t, []Idle{{Index: 0, UUID: "GPU-0", Memory: of(2 * gib), Power: of(70), Util: of(0.5)}}, idle.GPUs)
		assert.InDelta(t, 2.0, idle.WallS, 0.01)
		busy := &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 12, 570)}, nil }}
		w, _ := window(t, busy, 2*time.Second, idle)
		assert.Equal(t, of(10*gib), w.PeakMemoryAboveIdle)
		energy, _ := w.EnergyAboveIdle.Get()
		assert.InDelta(t, 1000, energy, 1e-6)
		w, _ = window(t, &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(1, 12, 570)}, nil }}, time.Second, idle)
		assert.Equal(t, absent("GPU 1 is not in the idle baseline"), w.PeakMemoryAboveIdle)
		idle, err = TakeBaseline(t.Context(), Unavailable("no driver"), 0)
		require.NoError(t, err)
		w, _ = window(t, busy, time.Second, idle)
		assert.Equal(t, absent("idle baseline: GPUs are not measured: no driver"), w.EnergyAboveIdle)
	})
}

// A call into the driver that never returns costs the GPUs' figures, and neither Stop nor the next window.
func TestDriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			if at > 0 {
				<-release
			}
			return []GPU{gpu(0, 10, 100)}, nil
		}}
		m := NewMeter(map[string]int{})
		m.GPU = s
		require.NoError(t, m.Start(t.Context(), time.Second))
		time.Sleep(time.Second)
		w := m.Stop()
		assert.Equal(t, "the last reading did not come back within 5s", w.GPU.Err)
		assert.Equal(t, of(10*gib), w.GPU.PeakMemory, "what came before it stands")
		require.NoError(t, m.Start(t.Context(), time.Second))
		assert.Equal(t, "a reading of an earlier window has not come back from the driver", m.Stop().GPU.Absent)
		close(release)
		synctest.Wait()
		s.reading = func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 11, 100)}, nil }
		require.NoError(t, m.Start(t.Context(), time.Second))
		assert.Equal(t, of(11*gib), m.Stop().GPU.PeakMemory)
	})
}

func TestPaceOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{every: time.Second, reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 1, 1)}, nil }}
		w, _ := window(t, s, 5500*time.Millisecond, nil)
		assert.Equal(t, 1000.0, w.IntervalMS)
		assert.Equal(t, 7, w.Samples, "at both ends, and each second")
	})
	m := NewMeter(map[string]int{})
	m.GPUInterval = time.Millisecond
	assert.EqualError(t, m.Start(t.Context(), 0), "hw: GPU interval 1ms, want 10ms or longer")
}

func TestThrottlingIsAShareOfTheLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			g, other := gpu(0, 1, 1), gpu(1, 1, 1)
			g.NoThrottle, g.Throttle = "", []string{}
			if at >= time.Second {
				g.Throttle = []string{"sw_power_cap"}
			}
			return []GPU{g, other}, nil
		}}
		w, _ := window(t, s, 1850*time.Millisecond, nil)
		assert.Equal(t, map[string]metrics.Value{"sw_power_cap": of(0.5)}, w.GPUs[0].Throttled)
		assert.Equal(t, "no such figure", w.GPUs[1].NoThrottle)
		assert.Nil(t, w.GPUs[1].Throttled)
	})
}
